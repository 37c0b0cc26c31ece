"""Measures how well a trained model reveals which pictures were in its training set (membership inference).

    diffusion membership --workdir=runs/digits
    diffusion membership --workdir=runs/digits --times=0.1,0.3,0.5 --number=500 --out=runs/digits/membership

Two attacks use the EMA weights of the latest checkpoint at each time t. One uses the loss of the predicted noise, and
the other (SecMI) the error after a DDIM step towards noise and a step back. The command prints the AUROC with its 95 %
interval (a value of 0.5 reveals nothing), and the share of members that are detected at 1 % false positives. It writes
them to membership.json and membership.md. Members are pictures of the split on which the run was trained; non-members
come from config.evaluate.split.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits", required=True)
    flags.DEFINE_list("times", ["0.1", "0.3", "0.5"], "times t at which to attack, each in (0, 0.9 t_max)")
    flags.DEFINE_integer(
        "number", 500, "number of pictures from each split; capped at the size of the split", lower_bound=2
    )
    flags.DEFINE_integer("draws", 8, "number of noise draws per picture for the attack by the loss", lower_bound=1)
    flags.DEFINE_string("out", None, "folder for the results; WORKDIR/membership by default")
    command_line.begin()

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusion import parameterizations
from diffusion.arrays import chunks
from diffusion.experiments.evaluation import held_out, real_images, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import trained_run
from diffusion.io import json_files
from diffusion.io.files import write_text
from diffusion.metrics import detection, membership
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress

LEVEL = 0.01  # the rate of false positives at which detected members are counted
BATCH = 250  # pictures that are attacked at once
Attack = Callable[..., Array]


def measure(
    run: trained_run.Trained,
    times: Sequence[float],
    number: int,
    draws: int = 8,
    done: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Attacks a run.

    Args:
        run: a run on classes, or without conditions.
        times: the times t of the attacks, each in (0, 0.9 t_max).
        number: the largest number of pictures from each split, which are drawn at random.
        draws: the number of noise draws per picture for the attack by the loss.
        done: a function that receives the number of finished times.

    Returns:
        {"members", "others": the splits, "attacks": {name: {t: {"auroc": `detection.auroc`, "hits",
        "hits_interval"}}}}.

    Raises:
        ConfigError: for a time that is out of range, splits that have pictures in common, or a run with other
            conditions.
    """
    config = run.config
    top = float(run.schedule.t_max)
    for t in times:
        if not 0 < t < 0.9 * top:
            raise ConfigError(
                f"--times={t:g} must be above 0 and below {0.9 * top:g}, which is 0.9 of the schedule's t_max."
            )
    if run.recipe.examples.by_record:
        raise ConfigError("diffusion membership supports only runs on classes, or without conditions.")
    splits = {"members": config.data.split, "others": config.evaluate.split}
    shared = held_out.trained_on(*(real_images.split_of(config, split) for split in splits.values()))
    if shared.count:
        raise ConfigError(
            f"config.data.split = {config.data.split!r} and config.evaluate.split = {config.evaluate.split!r} have "
            f"{shared.count:,} pictures in common, which would be members and non-members at once. Valid: disjoint "
            "splits, such as train and test, or train[:90%] and train[90%:]."
        )
    sets = {who: run.drawn(split, number) for who, split in splits.items()}
    attacks: dict[str, Attack] = {
        "loss": functools.partial(membership.loss_scores, draws=draws),
        "inversion (SecMI)": membership.inversion_scores,
    }

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def score(name, t, params, x, labels, keys):
        network = lambda x, clock, condition: run.recipe.network.apply(params, x, clock, condition)
        condition = None if run.recipe.examples.null is None else labels
        denoise = parameterizations.denoiser(network, run.schedule, run.recipe.parameterization, condition)
        return attacks[name](denoise, run.schedule, x, t, keys)

    def scores(name: str, t: float, who: str) -> np.ndarray:
        x, labels = sets[who]
        keys = jax.random.split(jax.random.key(list(splits).index(who)), len(x))
        rows = (x, np.asarray(labels, np.int32), keys)
        return chunks.applied(lambda few: score(name, t, run.params, *few), rows, min(BATCH, len(x)))

    figures: dict[str, dict[str, Any]] = {name: {} for name in attacks}
    for count, t in enumerate(times, 1):
        for name in attacks:
            positives, negatives = (scores(name, t, who) for who in splits)
            figures[name][f"{t:g}"] = {
                "auroc": detection.auroc(positives, negatives),
                "hits": float(detection.hits_at(positives, negatives, LEVEL)),
                "hits_interval": list(detection.hits_interval(positives, negatives, LEVEL)),
            }
        done(count)
    return {**splits, "level": LEVEL, "attacks": figures}


def table(content: dict[str, Any]) -> str:
    """The figures as Markdown."""

    def cells(name: str, t: str, row: dict[str, Any]) -> list[str]:
        area = row["auroc"]
        within = lambda value, ends: f"{value:.3f} ({ends[0]:.3f} .. {ends[1]:.3f})"
        pictures = f"{area['positives']} and {area['negatives']}"
        return [name, t, within(area["value"], area["interval"]), within(row["hits"], row["hits_interval"]), pictures]

    header = ["attack", "t", "AUROC (95 %)", "members found at 1 % false positives (95 %)", "pictures"]
    rows = [cells(name, t, row) for name, by_time in content["attacks"].items() for t, row in by_time.items()]
    sets = f"Members: split {content['members']}; others: split {content['others']}"
    return f"{sets}\n\n{report.table(header, rows)}"


def main(argv: list[str]) -> None:
    """Attacks the run, and writes the figures."""
    values = flags.FLAGS
    try:
        times = [float(t) for t in values.times]
    except ValueError:
        raise ConfigError(f"--times={','.join(values.times)} must be numbers, such as 0.1,0.3.") from None
    out = workdir.output_folder(values.out or pathlib.Path(values.workdir) / "membership")
    run = trained_run.load(values.workdir)
    held_out.require_trained_data(run.config, values.workdir)
    with progress.bar("attacking", len(times), "times") as advance:
        content = measure(run, times, values.number, values.draws, advance)
    out.mkdir(parents=True, exist_ok=True)
    json_files.write(out / "membership.json", content)
    write_text(out / "membership.md", table(content) + "\n")
    print(table(content))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
