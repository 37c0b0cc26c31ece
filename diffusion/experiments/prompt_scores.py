"""Scores how well pictures fit their prompts, by CLIP or a model of human choices that is one, such as PickScore.

    diffusion prompt_scores --clip=clip-vit-large-patch14 --images=cats
    diffusion prompt_scores --clip=PickScore_v1 --images=runs/a/pictures,runs/b/pictures --out=scores
    diffusion prompt_scores --clip=clip-vit-large-patch14 --images=theirs --prompts=prompts.txt

--clip is the folder of a CLIPModel as transformers saves it, with its tokenizer. --images are sets of pictures: folders
of diffusion sample --prompt, whose files carry their prompts, or any others with --prompts, a file of one prompt a line
in the order of the pictures. Of two sets or more, pictures of equal prompts are compared too.

Writes OUT/prompt_scores.json, with the model's sha256, and OUT/prompt_scores.csv, a line for each picture.
"""

from absl import flags

from diffusion.experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("clip", None, "folder of a CLIPModel, with its tokenizer", required=True)
    flags.DEFINE_list("images", None, "sets of pictures: folders, .npz files", required=True)
    flags.DEFINE_string("prompts", None, "file of one prompt a line, where the pictures carry none")
    flags.DEFINE_string("out", ".", "folder for prompt_scores.json and prompt_scores.csv")
    flags.DEFINE_integer("batch_size", 32, "pictures at once", 1)
    command_line.begin()

import csv
import io
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from diffusion import text
from diffusion.experiments.arena import competitors
from diffusion.experiments.arena.competitors import Competitor
from diffusion.experiments.config import ConfigError
from diffusion.experiments.evaluation import report
from diffusion.experiments.run_folder import workdir
from diffusion.io import files
from diffusion.metrics import bootstrap
from diffusion.metrics.clip_score import clip_score
from diffusion.metrics.preference import preferred
from diffusion.models import interchange
from diffusion.models.text_encoders.clip import CLIP, normalised
from diffusion.text_to_image import pipelines
from diffusion.training.runtime import progress


class Reader(NamedTuple):
    """A CLIP as it is used here.

    Attributes:
        name: of its folder.
        size: side of the pictures that it sees.
        scale: T of the logits.
        images: uint8 `[B, size, size, 3]` -> `[B, D]` of length one.
        texts: prompts -> `[B, D]` of length one.
        fingerprint: sha256 of its folder.
    """

    name: str
    size: int
    scale: float
    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[Sequence[str]], np.ndarray]
    fingerprint: str

    @classmethod
    def open(cls, folder: str) -> "Reader":
        """Opens a folder.

        Raises:
            ConfigError: if it holds another network, or nothing that can be read.
        """
        try:
            module, params = interchange.load(folder)
            if not isinstance(module, CLIP):
                raise ConfigError(f"--clip={folder} is a {type(module).__name__}; a CLIPModel has both towers.")
            tokenizer = text.Tokenizer.open(folder)
        except (interchange.Refusal, interchange.Mismatch, FileNotFoundError, ValueError) as error:
            raise error if isinstance(error, ConfigError) else ConfigError(f"--clip={folder}: {error}") from error
        images = jax.jit(lambda params, x: module.apply({"params": params}, normalised(x), method="encode_images"))
        texts = jax.jit(lambda params, ids: module.apply({"params": params}, ids, method="encode_text"))
        return cls(
            folder,
            module.vision.size,
            float(np.exp(params["logit_scale"])),
            lambda pictures: np.asarray(images(params, pictures)),
            lambda prompts: np.asarray(texts(params, tokenizer(prompts).ids)),
            pipelines.fingerprint(folder),
        )


def prepared(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture as CLIP's processor makes it: its shorter side of `size` by Pillow's bicubic filter, then its middle.

    Args:
        picture: uint8 `[H, W, 1 or 3]`.
        size: side of the result.

    Returns:
        uint8 `[size, size, 3]`.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    new = (size * width // short, size * height // short)
    resized = Image.fromarray(np.broadcast_to(picture, (height, width, 3))).resize(new, Image.Resampling.BICUBIC)
    top = (new[1] - size) // 2
    left = (new[0] - size) // 2
    return np.asarray(resized)[top : top + size, left : left + size]


def embedded(reader: Reader, pictures: Competitor, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of pictures and of their prompts, float32 `[N, D]` each, of length one.

    Args:
        reader: from `Reader.open`.
        pictures: N, with their prompts as requests.
        batch_size: pictures at once.
    """
    prompts = pictures.requests or []
    images, texts = [], []
    with progress.bar(f"reading {pictures.name}", len(prompts), "pictures") as advance:
        for start in range(0, len(prompts), batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), len(prompts) - 1)  # one shape, one program
            images.append(reader.images(np.stack([prepared(pictures.picture(int(row)), reader.size) for row in rows])))
            texts.append(reader.texts([prompts[row] for row in rows]))
            advance(min(batch_size, len(prompts) - start))
    return np.concatenate(images)[: len(prompts)], np.concatenate(texts)[: len(prompts)]


def opened(name: str, prompts: Sequence[str] | None) -> Competitor:
    """A set of pictures with prompts.

    Args:
        name: folder or file.
        prompts: of the pictures, in their order; None to read those that the files carry.

    Raises:
        ConfigError: if there are no pictures, or not as many prompts.
    """
    pictures = competitors.opened(name)
    if prompts is None:
        if pictures.requests is None:
            raise ConfigError(
                f"--images={name}: not every picture carries a prompt. Name them by --prompts=FILE, one prompt a line "
                "in the order of the pictures."
            )
        return pictures
    if len(prompts) != pictures.images.count:
        raise ConfigError(f"--prompts has {len(prompts)} lines, and {name} has {pictures.images.count} pictures.")
    return pictures._replace(requests=list(prompts))


def scored(reader: Reader, sets: Sequence[Competitor], batch_size: int = 32) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Scores sets of pictures.

    Args:
        reader: from `Reader.open`.
        sets: pictures with prompts.
        batch_size: pictures at once.

    Returns:
        (the record, the cosine of each picture with its prompt, float64 `[N]`, of each set).
    """
    found = [embedded(reader, pictures, batch_size) for pictures in sets]
    cosines = [(images.astype(np.float64) * texts).sum(1) for images, texts in found]
    of_sets = {
        pictures.name: {
            "clip_score": _figure(*clip_score(*both)),
            "score": _mean(reader.scale * values),
            "pictures": pictures.fingerprint,
        }
        for pictures, both, values in zip(sets, found, cosines)
    }
    of_pairs = []
    for (first, own), (second, other) in itertools.combinations(zip(sets, cosines), 2):
        if met := competitors.matched(first, second):
            here = reader.scale * own[[i for i, _, _ in met]]
            there = reader.scale * other[[j for _, j, _ in met]]
            higher = bootstrap.share([*(here > there)])
            chosen = _mean(preferred(here, there))
            of_pairs.append({"first": first.name, "second": second.name, "higher": higher, "preferred": chosen})
    model = {"folder": reader.name, "sha256": reader.fingerprint, "size": reader.size, "scale": reader.scale}
    record = {"model": model, "resize": "shorter side by Pillow's bicubic filter, then the middle"}
    return {**record, "sets": of_sets, "pairs": of_pairs, "software": report.software()}, cosines


def _mean(values: np.ndarray) -> dict[str, Any]:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return _figure(float(values.mean()), float(error), len(values))


def _figure(value: float, standard_error: float, samples: int) -> dict[str, Any]:
    return {"value": value, "standard_error": None if np.isnan(standard_error) else standard_error, "samples": samples}


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    prompts = None
    if values.prompts:
        prompts = pathlib.Path(values.prompts).read_text().splitlines()
    sets = [opened(name, prompts) for name in values.images]
    if len({pictures.name for pictures in sets}) < len(sets):
        raise ConfigError(f"--images={','.join(values.images)}: a set comes twice.")
    reader = Reader.open(values.clip)
    record, found = scored(reader, sets, values.batch_size)
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    workdir.write_text(out / "prompt_scores.json", json.dumps(record, indent=2) + "\n")
    rows = io.StringIO()
    lines = csv.writer(rows)
    lines.writerow(["set", "picture", "prompt", "cosine", "score"])
    for pictures, cosine in zip(sets, found):
        for index, (prompt, value) in enumerate(zip(pictures.requests or (), cosine)):
            lines.writerow([pictures.name, index, prompt, f"{value:.6g}", f"{reader.scale * value:.6g}"])
    with files.whole(out / "prompt_scores.csv") as file:
        file.write(rows.getvalue().encode())
    with_error = lambda figure: f"{figure['value']:.4g} ± {figure['standard_error'] or np.nan:.2g}"
    cells = [
        [name, figures["clip_score"]["samples"], with_error(figures["clip_score"]), with_error(figures["score"])]
        for name, figures in record["sets"].items()
    ]
    report.show(f"by {reader.name}", ["pictures", "number", "CLIP score", "scaled cosine"], cells)
    if record["pairs"]:
        cells = [
            [pair["first"], pair["second"], report.percent(pair["higher"]), with_error(pair["preferred"])]
            for pair in record["pairs"]
        ]
        report.show("pictures of equal prompts", ["first", "second", "first is higher", "first is preferred"], cells)
    print(f"wrote {out / 'prompt_scores.json'}, {out / 'prompt_scores.csv'}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
