"""Draws samples of the base model, from which the rewarding judge selects accepted pictures and pairs.

python -m examples.counting.own_samples --out=runs/counting/samples

OUT/accepted              for rejection sampling: pictures that very likely show everything the caption requests
OUT/preferred, rejected   for preferences: an accepted and a rejected picture of one caption, with equal names
OUT/drawn.json            number of pictures drawn, from which the report computes their evaluations
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", "drawings", "folder of the model, or the name of a model that ships with the package")
    flags.DEFINE_string("out", None, "folder for the pictures", required=True)
    flags.DEFINE_string("lora", "", "LoRA file to add to the model, for another round of pairs; by default none")
    flags.DEFINE_integer("first", 0, "index of the first caption", lower_bound=0)
    flags.DEFINE_integer("number", 400, "number of captions; 4 pictures are drawn for each", lower_bound=2)
    flags.DEFINE_integer("steps", 8, "number of sampling steps", lower_bound=1)
    command_line.begin()

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffusion import text_to_image
from diffusion.data import captions
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.metrics.attribute_reader import Reader
from examples.counting import judges, rewards

BATCH = 50  # pictures at once
FIRST_SEED = 700_000  # first seed of the pictures
EACH = 4  # pictures of each caption
LEAST = 0.5  # least probability of an accepted picture
DRAWN = "drawn.json"


class Chosen(NamedTuple):
    """The indices of a caption's accepted pictures, and the pairs of an accepted and a refused picture."""

    accepted: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


def chosen(probabilities: Sequence[float] | np.ndarray) -> Chosen:
    """The accepted pictures of one caption, and its pairs, the most certain first.

    Args:
        probabilities: the probability that each picture shows everything the caption requests.
    """
    order = [int(row) for row in np.argsort(-np.asarray(probabilities), kind="stable")]
    accepted = [row for row in order if probabilities[row] >= LEAST]
    refused = [row for row in order[::-1] if probabilities[row] < LEAST]
    return Chosen(tuple(sorted(accepted)), tuple(zip(accepted, refused)))


def write(
    model: text_to_image.TextToImage, out: pathlib.Path, rows: range, steps: int, reader: Reader
) -> dict[str, int]:
    """Writes the accepted pictures of a model, and pairs of an accepted and a refused picture, with their captions.

    Args:
        model: the model, which is used without guidance.
        out: the folder, made if missing.
        rows: the indices of the captions; 4 pictures are drawn for each.
        steps: the number of sampling steps.
        reader: the rewarding judge.

    Returns:
        The content of drawn.json: the numbers of pictures "drawn", "accepted" and in "pairs", and the "steps" of each.
    """
    known = captions.texts_of(rewards.counting_drawings(number=rows.stop))
    texts = [known[row] for row in rows for _ in range(EACH)]
    how = {"steps": steps, "guidance": 1.0, "batch_size": BATCH}
    seeds = range(FIRST_SEED + rows.start * EACH, FIRST_SEED + rows.stop * EACH)
    pictures = text_to_image.generate(model, texts, seeds=seeds, **how)
    log_p = [
        rewards.log_probabilities(reader, pictures[first : first + BATCH], texts[first : first + BATCH])
        for first in range(0, len(texts), BATCH)
    ]
    probabilities = np.exp(np.concatenate(log_p)).reshape(-1, EACH)
    counts = {"drawn": len(texts), "accepted": 0, "pairs": 0, "steps": steps}
    for row, few in enumerate(probabilities):
        accepted, pairs = chosen(few)
        numbered = [(f"accepted/{row:04}_{k}", k) for k in accepted]
        for k, pair in enumerate(pairs):
            numbered += [(f"{name}/{row:04}_{k}", one) for name, one in zip(("preferred", "rejected"), pair)]
        for name, one in numbered:
            path = out / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[row * EACH + one]).save(path)
            path.with_suffix(".txt").write_text(texts[row * EACH])
        counts["accepted"] += len(accepted)
        counts["pairs"] += len(pairs)
    (out / DRAWN).write_text(json.dumps(counts) + "\n")
    return counts


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    model = model_folder.load(model_folder.folder_of(values.model))
    if values.lora:
        model = text_to_image.with_loras(model, {values.lora: 1.0})
    rows = range(values.first, values.first + values.number)
    print(write(model, pathlib.Path(values.out), rows, values.steps, judges.rewarding()), flush=True)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
