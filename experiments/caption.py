"""Writes captions for the pictures of a folder, with a published captioner (BLIP).

    diffusion caption --model=blip-image-captioning-large --folder=photos
    diffusion caption --model=blip-image-captioning-large --folder=photos --prompt="a photography of" --top_p=0.9
    diffusion train --config=... --config.data.source='{"name": "picture_folder", "path": "photos", "side": 64}'

--model is a folder of transformers' BlipForConditionalGeneration with its weights as safetensors. The command writes
the caption of photos/a.png to photos/a.txt, which the data source picture_folder reads. It skips pictures that already
have a caption, so the same command continues after an interruption. With --again it captions all pictures. --out writes
the captions into another folder, under the same names.

A caption begins with --prompt and continues with the most likely token at each step. With --top_p=0.9, each token is
drawn from the most likely tokens that have 90 % of the probability together. The draws depend on --seed and on the name
of the picture.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the captioner, with config.json and model.safetensors")
    flags.DEFINE_string("folder", None, "folder of the pictures, including its subfolders")
    flags.DEFINE_string("prompt", "", "beginning of every caption, e.g. 'a photography of'; empty by default")
    flags.DEFINE_string("out", None, "folder for the captions; by default the folder of the pictures")
    flags.DEFINE_bool("again", False, "also caption pictures that already have a caption")
    flags.DEFINE_integer(
        "length", 30, "largest length of a caption in tokens, including its start, prompt and end", lower_bound=2
    )
    flags.DEFINE_float(
        "top_p",
        None,
        "total probability of the most likely tokens from which each token is drawn; by default the most "
        "likely token is chosen",
    )
    flags.DEFINE_integer("seed", 0, "seed for --top_p")
    flags.DEFINE_integer("batch_size", 8, "number of pictures to caption at once", lower_bound=1)
    flags.DEFINE_enum(
        "damaged", "stop", ["stop", "skip"], "what to do with a damaged picture: stop the command, or skip the picture"
    )
    flags.mark_flags_as_required(["model", "folder"])
    command_line.begin()

import collections
import pathlib
import sys
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data import sources
from diffusion.data.sources import picture_files
from diffusion.data.sources.columns import PictureFile, content_of
from diffusion.experiments.run_folder import workdir
from diffusion.io import files, pictures
from diffusion.models import captioning
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress


class Captions(NamedTuple):
    """The result of `run`.

    Attributes:
        written: the number of captions that were written.
        there: the number of pictures that already had a caption.
        damaged: the errors of the damaged pictures that were left out.
    """

    written: int
    there: int
    damaged: tuple[str, ...]


def run(
    model: str,
    folder: str | pathlib.Path,
    out: str | pathlib.Path | None = None,
    *,
    prompt: str = "",
    again: bool = False,
    length: int = 30,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    damaged: str = "stop",
) -> Captions:
    """Writes captions for the pictures in a folder; the flags of the command describe the arguments.

    Raises:
        ConfigError: for a folder without pictures, one whose captions are in a table, or a model that does not load.
        sources.DamagedRecord: for a damaged picture, unless `damaged` is "skip".
    """
    folder = pathlib.Path(folder).expanduser()
    place = folder if out is None else pathlib.Path(out).expanduser()
    names = _names(folder, place)
    left = [name for name in names if again or not picture_files.sidecar(place, name).is_file()]
    if not left:
        return Captions(0, len(names), ())
    try:
        captioner = captioning.opened(model, prompt=prompt, length=length, top_p=top_p)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"--model={model}: {error}") from error
    errors = []
    with progress.bar("captions", len(left), "pictures") as advance:
        for start in range(0, len(left), batch_size):
            batch = {}
            for name in left[start : start + batch_size]:
                try:
                    batch[name] = pictures.read(content_of(PictureFile(folder / name, folder)), str(folder / name))
                except ValueError as error:
                    if damaged == "stop":
                        raise sources.DamagedRecord(
                            f"{error}. Repair or remove it, or leave such pictures out by --damaged=skip."
                        ) from error
                    errors.append(str(error))
                    print(f"left out: {error}", file=sys.stderr, flush=True)
            if batch:
                _write(place, captioner, batch, seed, batch_size)
            advance(min(start + batch_size, len(left)))
    return Captions(len(left) - len(errors), len(names) - len(left), tuple(errors))


def _names(folder: pathlib.Path, place: pathlib.Path) -> list[str]:
    """The names of the pictures in a folder; refuses a folder from which `picture_folder` would read other captions."""
    if not folder.is_dir():
        raise ConfigError(f"--folder={folder}: there is no such folder.")
    names = picture_files.pictures_in(folder)
    if not names:
        raise ConfigError(f"--folder={folder} holds no pictures ({', '.join(picture_files.PICTURES)}).")
    captions = collections.Counter(picture_files.sidecar(folder, name) for name in names)
    if shared := [path for path, number in captions.items() if number > 1]:
        raise ConfigError(
            f"--folder={folder}: {shared[0]} would be the caption of several pictures; rename all but one."
        )
    for parent in sorted({folder, *(path.parent for path in captions)}) if folder == place else ():
        for table in picture_files.METADATA:
            if (parent / table).is_file():
                raise ConfigError(
                    f"--folder={folder}: the captions of {parent} are read from {parent / table}, and not from files "
                    "beside the pictures. Remove it, or write elsewhere by --out=FOLDER."
                )
    return names


def _write(
    place: pathlib.Path, captioner: captioning.Captioner, batch: dict[str, np.ndarray], seed: int, size: int
) -> None:
    """Writes the captions of a batch {name: picture}, which is filled up with its last picture to `size` pictures."""
    names = list(batch)
    rows = [*names, *names[-1:] * (size - len(names))]
    key = jax.random.key(seed)
    # A key depends on the name, so that pictures which are added or left out do not change the draws of others.
    keys = jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode())) for name in rows])
    for name, caption in zip(names, captioner([batch[row] for row in rows], keys)):
        path = picture_files.sidecar(place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as file:
            file.write(f"{caption}\n".encode())


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if values.top_p is None:
        flag_errors.refuse(["seed"], "has no effect without --top_p: the most likely token is chosen.")
    done = run(
        values.model,
        values.folder,
        values.out,
        prompt=values.prompt,
        again=values.again,
        length=values.length,
        top_p=values.top_p,
        seed=values.seed,
        batch_size=values.batch_size,
        damaged=values.damaged,
    )
    left_out = f"; {len(done.damaged)} damaged pictures left out" if done.damaged else ""
    print(
        f"{values.out or values.folder}: {done.written:,} captions written, {done.there:,} pictures had one{left_out}"
    )


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
