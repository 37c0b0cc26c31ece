"""Compares few-step students with their text-to-image teacher: prompt adherence and distances, by evaluations.

    diffusion sweep --sweep=text_few_step --workdir=runs/text_few_step_students --jobs=2
    python -m examples.text.few_steps --teacher=runs/text/denoiser --students="runs/text_few_step_students/*" \\
        --out=runs/text_few_steps

This is `diffusion few_steps` for runs on captioned shapes. The prompts are the captions of the first training pictures.
The judge of `examples.text.report` reads the requested attributes. The Frechet distances, in the features of the judge
and in pixels (means of 8 x 8), compare with new pictures from the distribution of the training pictures. Each run
samples with the settings of its config, except for the number of steps. The command writes table.md, few_steps.json,
plot.png and samples.png (the same prompts and seeds in every row) into --out, and continues after an interruption.
"""

from absl import flags

from diffusion.experiments import command_line
from diffusion.experiments.evaluation import few_step_flags

if __name__ == "__main__":  # before the imports that take seconds
    few_step_flags.define("runs/text/denoiser", "runs/text_few_step_students", "runs/text_few_steps")
    flags.adopt_module_key_flags(few_step_flags)  # --help then lists them
    command_line.begin()

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.data import captions, latent_cache, shapes
from diffusion.experiments import few_steps
from diffusion.experiments.evaluation import sample_metrics
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate
from diffusion.metrics import attribute_reader
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError, Recipe, as_config_errors, data
from diffusion.training.checkpointing import checkpoints
from examples.text import judge, prompt_metrics

EFFORT = sample_metrics.Effort(0, 10)
SHARES = {"coverage": "coverage", "attributes": "attributes right"}
NEW = 2_000  # pictures that distances are measured to


class Prompts(NamedTuple):
    """The prompts of all runs: N texts, and their features by the text encoder, {name: [N, ...]}."""

    texts: list[str]
    conditions: dict[str, np.ndarray]


def prompts(config, number: int) -> Prompts:
    """The captions of a run's first `number` training pictures, or of all of them.

    Raises:
        ConfigError: for a run without captions, or of other pictures than the shapes.
    """
    if config.model.name != "pixart" or config.data.name != "shapes":
        raise ConfigError(
            f"this run trains {config.model.name!r} on {config.data.name!r}, but the judge reads only pictures of "
            "shapes. Valid: the denoiser of python -m examples.text.demo --config=text/shapes, and its students. Use "
            "diffusion few_steps for runs on classes."
        )
    table = captions.read(config.data.text.dir)
    texts = captions.texts_of(data.source(config, config.data.split))[:number]
    return Prompts(texts, {name: rows[table.row[:number]] for name, rows in table.entries.items()})


def measured(row: few_steps.Row, reader: Callable[[], Reader]) -> few_steps.Made:
    """({"nfe", "attributes", "coverage", "fd_judge", "fd_pixels", ..}, samples, captions) of a row.

    Args:
        row: the run and its number of steps.
        reader: a function that returns the judge. It is called only here, so rows that are measured already need no
            judge.
    """
    config = row.config
    number = config.sample.number
    requested = prompts(config, number)
    params, _ = checkpoints.load_ema(row.folder, row.step)
    make = generate.build_generator(Recipe.from_config(config, workdir.example_shape(config)))
    with as_config_errors():
        images = generate.checked_images(make, config, params, requested.conditions, generate.seeds(config, number))
    verdicts = prompt_metrics.verdicts(reader(), requested.texts, images)
    spaces = {"judge": prompt_metrics.judge_features(reader()), "pixels": prompt_metrics.small_pixels()}
    distances = {}
    for name, extractor in spaces.items():
        frechet = prompt_metrics.distance_to(extractor, images, *_new(), EFFORT)
        distances |= {f"fd_{name}": frechet["all_samples"]["mean"], f"floor_{name}": frechet["floor"]["mean"]}
    figures = {
        "nfe": make.nfe,
        "attributes": judge.score(verdicts)["attributes"]["share"],
        **distances,
        "coverage": few_steps.coverage(attribute_reader.features(reader(), images), _new_features(reader)),
        "count": number,
        "dataset": f"shapes {shapes.Shapes.VERSION}",
    }
    return figures, images, requested.texts


@functools.cache
def _new() -> tuple[np.ndarray, np.ndarray]:
    """Two sets of `prompt_metrics.new_drawings`."""
    images, _ = prompt_metrics.new_drawings(2 * NEW)
    return images[:NEW], images[NEW:]


@functools.lru_cache(maxsize=1)
def _new_features(reader: Callable[[], Reader]) -> np.ndarray:
    """The judge's features of the first set."""
    return attribute_reader.features(reader(), _new()[0])


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    reader = functools.cache(judge.reader)
    program = "python -m examples.text.few_steps"
    few_steps.compare(lambda row: measured(row, reader), "", SHARES, program, judge.name(), "pixels")


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, latent_cache.CacheError), compiles=True)
