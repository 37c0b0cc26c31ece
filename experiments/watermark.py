"""Creates keys for invisible watermarks, marks pictures, detects marks, and measures their robustness.

    diffusion watermark make --key=mark.json --name=gaussian_shading --arguments='{"bits": 64}'
    diffusion sample --workdir=runs/text --prompt="a red circle" --watermark=mark.json
    diffusion watermark detect --key=mark.json --pictures=pictures --model=runs/text/model
    diffusion watermark measure --key=mark.json --workdir=runs/digits --number=200 --out=runs/digits/watermark

    diffusion watermark make --key=post.json --name=spread_spectrum
    diffusion watermark embed --key=post.json --pictures=photos --out=marked     # any pictures, without a model
    diffusion watermark detect --key=post.json --pictures=marked
    diffusion watermark measure --key=post.json --pictures=photos --out=measured

Watermarks in the initial noise (tree_ring, gaussian_shading) are detected by DDIM inversion with the model that
generated the picture: --workdir for a run on pictures, --model for a text-to-image model. `detect` ends with status 1
if a picture has no watermark at --level. `measure` writes robustness.json, robustness.md and robustness.png: bit
accuracy, AUROC with its interval and the rate of false positives after JPEG compression, resizing, cropping, noise,
blur, and noise that the model removes.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("key", None, "key file, which make writes and the other actions read")
    flags.DEFINE_string(
        "name", None, "name of the watermark: gaussian_shading, tree_ring, spread_spectrum, or your own"
    )
    flags.DEFINE_string("arguments", "{}", 'arguments of the watermark, except the key, as JSON, e.g. {"bits": 64}')
    flags.DEFINE_string(
        "pictures", None, "pictures to process: a file, a folder, or an .npz file with images, such as samples.npz"
    )
    flags.DEFINE_string("workdir", None, "run folder whose model generates, or generated, the pictures")
    flags.DEFINE_string("model", None, "text-to-image model that generates, or generated, the pictures")
    flags.DEFINE_multi_string(
        "prompt", [], "prompt for the pictures that measure generates with --model; may be repeated"
    )
    flags.DEFINE_integer(
        "number", 100, "number of pictures that measure generates with the watermark, and without it", lower_bound=2
    )
    flags.DEFINE_float("level", 0.01, "p-value below which detect calls a picture marked", 0.0, 1.0)
    flags.DEFINE_string("out", None, "folder for the results")
    flags.mark_flag_as_required("key")
    command_line.begin(takes_words=True)

import itertools
import json
import pathlib
import sys
import warnings
from collections.abc import Iterator

import jax
import numpy as np

from diffusion import sampling, text_to_image
from diffusion.data.sources.picture_files import PICTURES
from diffusion.experiments.evaluation import watermark_robustness
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import shipped_models, trained_run, watermarked
from diffusion.io import npz, pictures
from diffusion.recipe import ConfigError, as_config_errors
from diffusion.sampling import watermarks
from diffusion.training.runtime import progress


def files_of(path: str) -> list[pathlib.Path]:
    """The picture files in a folder, sorted by name; for a file, the file alone.

    Raises:
        FileNotFoundError: if there is no such file or folder, or the folder holds no pictures.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        paths = sorted(file for file in place.iterdir() if file.suffix.lower() in PICTURES)
        if not paths:
            raise FileNotFoundError(f"{path} holds no pictures ({', '.join(PICTURES)}).")
        return paths
    if not place.is_file():
        raise FileNotFoundError(f"{path}: there is no such picture or folder.")
    return [place]


def pictures_of(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, picture uint8 `[H, W, C]`) for picture files, or for an .npz file such as samples.npz of a run.

    Raises:
        FileNotFoundError: as `files_of`.
        ValueError: if a file is not a picture, or an .npz file has no array `images`, uint8 `[N, H, W, 1 or 3]`.
    """
    files = files_of(path)
    if files[0].suffix.lower() != ".npz":
        yield from ((str(file), pictures.read(file)) for file in files)
        return
    (file,) = files
    images: np.ndarray = npz.load(file, ("images",))["images"] if "images" in npz.names(file) else np.zeros(0)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images) or images.shape[3] not in (1, 3):
        raise ValueError(f"{file} has no pictures. Valid: an array images, uint8 [N, H, W, 1 or 3], as in samples.npz.")
    yield from ((f"{file}[{i}]", image) for i, image in enumerate(images))


def embed(key: str, path: str, out: str) -> Iterator[pathlib.Path]:
    """Adds the watermark to pictures; writes each as a PNG file of the same name into a folder, and yields the file.

    Nothing is written if an error is raised.

    Raises:
        ConfigError: for a watermark in the initial noise.
        FileExistsError: if a file of that name exists in the folder.
        ValueError: if two pictures would have the same name, or a file is no valid picture.
    """
    watermark = watermarks.load(key)
    if watermark.carrier != "pictures":
        raise ConfigError(
            f"--key={key}: {watermark.identity} lies in the initial noise, so it is embedded by sampling: diffusion "
            f"sample --watermark={key}. Valid here: a watermark for pictures, such as spread_spectrum."
        )
    folder = pathlib.Path(out).expanduser()
    targets: dict[pathlib.Path, pathlib.Path] = {}
    for file in files_of(path):
        target = folder / f"{file.stem}.png"
        if target.exists():
            raise FileExistsError(f"{target} exists already; choose another --out.")
        if target in targets:
            raise ValueError(f"{targets[target]} and {file} would both be written to {target}; rename one of them.")
        targets[target] = file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown when the picture is marked
        for file in targets.values():
            pictures.read(file)
    folder.mkdir(parents=True, exist_ok=True)
    for target, file in targets.items():
        marked = sampling.marked(watermark, "pictures", pictures.read(file)[None])[0]
        try:
            settings = pictures.settings_of(file)
        except ValueError:  # the picture carries no settings
            settings = {}
        pictures.write(target, marked, settings)
        yield target


def detect(key: str, path: str, maker: watermark_robustness.Maker | None) -> Iterator[tuple[str, watermarks.Reading]]:
    """Yields (name, reading of the watermark) for each picture of `pictures_of`.

    Raises:
        ConfigError: if the watermark lies in the initial noise and no model is named, if a picture has another size
            than the model's, or if its inversion is not finite.
    """
    watermark = watermarks.load(key)
    if watermark.carrier == "noise" and maker is None:
        raise ConfigError(
            f"{watermark.identity} lies in the initial noise. Name the model that made the pictures, by --workdir or "
            "--model."
        )
    if maker is None or watermark.carrier == "pictures":  # the pictures may have any sizes
        for name, picture in pictures_of(path):
            yield name, watermark.read(picture[None])
        return
    source = pictures_of(path)
    while few := list(itertools.islice(source, maker.batch)):
        fitted = np.concatenate([maker.fitted(picture[None], name) for name, picture in few])
        noise = maker.to_noise(fitted)
        finite = sampling.finite(jax.numpy.asarray(noise))
        lost = [name for (name, _), is_finite in zip(few, finite, strict=True) if not is_finite]
        if lost:
            raise ConfigError(
                f"{maker.name} inverts {lost[0]} to noise that is not finite, from which no watermark can be read. "
                "Name the model that made the picture."
            )
        readings = watermark.read(noise)
        for row, (name, _) in enumerate(few):
            yield name, jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], readings)


def _maker(values: flags.FlagValues) -> watermark_robustness.Maker | None:
    """The maker for the model that the flags name; None without a model."""
    if values.workdir and values.model:
        raise ConfigError("--workdir and --model are both set; name only one of them.")
    if values.workdir:
        return watermarked.build_run_maker(trained_run.load(values.workdir), values.workdir)
    if values.model:
        folder = shipped_models.folder_of_prompts(values.model)
        return watermarked.build_model_maker(text_to_image.load(folder), str(folder), values.prompt or [""])
    return None


def _files_maker(key: str, path: str) -> watermark_robustness.Maker:
    """The maker for existing pictures of one size, for a watermark that needs no model.

    Raises:
        ConfigError: for a watermark in the initial noise, fewer than two pictures, or pictures of different sizes.
    """
    watermark = watermarks.load(key)
    if watermark.carrier != "pictures":
        raise ConfigError(
            f"--pictures: {watermark.identity} lies in the initial noise, so it cannot be measured on existing "
            "pictures. Name --workdir or --model."
        )
    loaded = [picture for _, picture in pictures_of(path)]
    sizes = sorted({picture.shape[:2] for picture in loaded})
    if len(sizes) > 1 or len(loaded) < 2:
        shown = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
        raise ConfigError(f"--pictures={path}: {len(loaded)} pictures of {shown}. Valid: two or more of one size.")
    return watermark_robustness.wrap_pictures(np.stack(loaded), path)


ACTIONS = {  # {action: (the flags that it needs besides --key, the other flags that it reads)}
    "make": (["name"], ["arguments"]),
    "embed": (["pictures", "out"], []),
    "detect": (["pictures"], ["workdir", "model", "level"]),
    "measure": (["out"], ["pictures", "workdir", "model", "prompt", "number"]),
}


def main(argv: list[str]) -> None:
    """Runs the action that the first word of the command line names."""
    values = flags.FLAGS
    word = argv[1] if len(argv) == 2 else ""
    if word not in ACTIONS:
        raise ConfigError(
            f"{' '.join(argv[1:])!r}: write one of {', '.join(ACTIONS)}, such as diffusion watermark make."
        )
    needed, also = ACTIONS[word]
    if missing := [name for name in needed if not values[name].value]:
        raise ConfigError(f"diffusion watermark {word} needs --{missing[0]}.")
    others = {name for lists in ACTIONS.values() for names in lists for name in names} - {*needed, *also}
    valid = ", ".join(f"--{name}" for name in ("key", *needed, *also))
    flag_errors.refuse(sorted(others), f"has no effect on diffusion watermark {word}. Valid: {valid}.")
    with as_config_errors():
        if "out" in needed:
            workdir.output_folder(values.out)
        _done(word, values)


def _done(word: str, values: flags.FlagValues) -> None:
    """Runs an action."""
    if word == "make":
        try:
            arguments = json.loads(values.arguments)
        except ValueError as error:
            raise ConfigError(f"--arguments={values.arguments} is not JSON: {error}") from error
        if not isinstance(arguments, dict):
            raise ConfigError(f'--arguments={values.arguments} must be a table, such as {{"bits": 64}}.')
        key = watermarks.make(values.key, values.name, **arguments)
        print(f"{values.key}: {key.identity}. Keep this file: without it, nobody can detect the watermark.")
    elif word == "embed":
        for file in embed(values.key, values.pictures, values.out):
            print(file)
    elif word == "detect":
        watermark = watermarks.load(values.key)
        if watermark.carrier == "pictures":
            flag_errors.refuse(["workdir", "model"], f"has no effect: {watermark.identity} is read without a model.")
        absent = 0
        for name, reading in detect(values.key, values.pictures, _maker(values)):
            marked = reading.p_value[0] < values.level
            absent += not marked
            verdict = "marked" if marked else "no watermark"
            print(f"{name}: {verdict} (p = {reading.p_value[0]:.2g}, score {reading.score[0]:.3f})")
        if absent:
            sys.exit(1)
    else:
        if values.pictures and (values.workdir or values.model):
            raise ConfigError("--pictures measures existing pictures without a model; leave out --workdir and --model.")
        if values.pictures:
            flag_errors.refuse(["number"], "has no effect with --pictures: all of them are measured.")
        if not values.model:
            flag_errors.refuse(["prompt"], "is only for the pictures of a text-to-image model: --model.")
        maker = _files_maker(values.key, values.pictures) if values.pictures else _maker(values)
        if maker is None:
            raise ConfigError(
                "diffusion watermark measure needs pictures: name --workdir or --model to make them, or --pictures."
            )
        number = sys.maxsize if values.pictures else values.number  # all of the existing pictures
        with progress.bar("measuring", maker.changes, "changes") as advance:
            content = watermark_robustness.measure(values.key, maker, number, advance)
        out = pathlib.Path(values.out)
        watermark_robustness.write(content, out)
        print(watermark_robustness.table(content))
        print(f"Look at: {out / 'robustness.png'}")


if __name__ == "__main__":
    command_line.run(main, (FileExistsError, *workdir.FAILURES), compiles=True)
