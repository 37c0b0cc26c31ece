"""Repeats one step of a run from a checkpoint, and says what in it is not finite.

    diffusion reproduce --workdir=runs/digits
    diffusion reproduce --workdir=runs/digits --config.optimizer.clip=1.0
    diffusion reproduce --workdir=runs/digits --step=1200

A run that fails keeps the state before the step that failed in WORKDIR/failed. From it, the same program with the same
batch and draws computes the same step on the same devices, bit for bit; a change of the config shows whether it would
mend it. With --step, it is the step after that checkpoint of the run. Nothing is written.

Exit status: 0 the step is finite; 1 it is not, or there is no such state; 2 a mistake in the config.
"""

from absl import flags

from diffusion.experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = command_line.saved_flag()
    flags.DEFINE_string("workdir", None, "the run folder, e.g. runs/digits")
    flags.DEFINE_integer("step", None, "repeat the step after this checkpoint of the run, not the one that failed")
    command_line.begin()

import pathlib
import sys
import sysconfig
import traceback
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

import diffusion
from diffusion.experiments.config import checks, resolve
from diffusion.experiments.run import failure, noise_pairs
from diffusion.experiments.run import program as programs
from diffusion.experiments.run.examples import open_examples
from diffusion.experiments.run_folder import workdir
from diffusion.models.layers import layout
from diffusion.training import sharding, state
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import compilation_cache
from diffusion.training.step import example_keys, join, prepare, split, training_key

SHOWN = 10  # examples, and leaves, at most
SOURCES = pathlib.Path(diffusion.__file__).parent
OTHERS = (pathlib.Path(__file__).parent, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


class Repeated(NamedTuple):
    """What a step did when it was repeated: its number (from 0), and its metrics as in metrics.jsonl."""

    step: int
    finite: bool
    metrics: dict[str, Any]
    findings: "Findings"


class Findings(NamedTuple):
    """The parts of a step.

    Attributes:
        index, t, losses: of each example `[B]`.
        labels: likewise, or None.
        before: for each leaf of the state before the step, how many of its numbers are not finite.
        gradient: likewise of the gradient of the loss.
        largest: the greatest magnitude in each leaf of the gradient.
        origins: the first operations whose result is infinite or no number, where the step is not finite.
    """

    index: np.ndarray
    t: np.ndarray
    losses: np.ndarray
    labels: np.ndarray | None
    before: dict[str, int]
    gradient: dict[str, int]
    largest: dict[str, float]
    origins: list[str]


def repeat(config: ConfigDict, workdir: str | pathlib.Path, step: int | None = None) -> Repeated:
    """Repeats a step of a run.

    Args:
        config: the run's config.
        workdir: the run folder.
        step: a checkpoint of the run; None for the step that failed.

    Raises:
        CheckpointError: if there is no such state, or it is damaged.
        ConfigError: for a mistake in the config.
    """
    place = failure.folder(workdir) if step is None else pathlib.Path(workdir)
    step = checkpoints.latest(place) if step is None else step
    if step not in checkpoints.steps(place):
        have = ", ".join(map(str, checkpoints.steps(workdir))) or "none"
        asked = "it holds no step that has failed" if step is None else f"it has no checkpoint of step {step}"
        raise checkpoints.CheckpointError(f"{workdir}: {asked}; --step takes one of its checkpoints: {have}.")
    recipe = resolve.recipe(config)
    given = open_examples(recipe)
    recipe = recipe.on(given.spec)
    mesh = programs.mesh_of(config)
    program = programs.build(recipe, mesh)
    if recipe.teacher and recipe.teacher.pairs:
        given = noise_pairs.paired(recipe, workdir, given, mesh)
    before, about = checkpoints.restore(place, step, program.target)
    batch = next(given.batches(config, about["examples"], sharding.positions(config.train.batch_size, mesh), 0))
    if not program.conditional:
        del batch["label"]
    batch = sharding.to_devices(batch, mesh, config.train.batch_size)
    donated = jax.tree.map(jnp.copy, before)
    metrics = jax.device_get(program.step(donated, batch, program.seed)[1])
    finite = int(metrics["failed_at"]) == state.HEALTHY
    return Repeated(step, finite, metrics, examine(recipe, program, mesh, before, batch, not finite))


def examine(recipe, program, mesh, before: state.TrainState, batch: dict, trace: bool) -> Findings:
    """Computes the losses of single examples and the leaves of the gradient; `trace` also finds the origins."""
    objective = recipe.objective
    schedule = recipe.schedule
    density = objective.density
    examples = recipe.config.train.batch_size
    shards = sharding.batch_shards(mesh)
    number = program.micro_batches

    def loss(params, before, keys, part, step):
        networks = program.networks(before._replace(params=params))
        with layout.over(mesh):
            losses, details = objective(networks, schedule, keys, part, step)
        return losses.sum() / examples, (losses, details["t"])

    def prepared(before, batch, seed):
        keys = example_keys(training_key(seed), before.step, jnp.arange(examples))
        return split((keys, prepare(batch)), number, shards)

    def parts(before, batch, seed):
        keys, rows = prepared(before, batch, seed)
        gradient, seen = None, []
        for i in range(number):
            key, row = jax.tree.map(lambda x, i=i: x[i], (keys, rows))
            shared = {} if density is None else {"density": before.density}
            (_, each), more = jax.value_and_grad(loss, has_aux=True)(
                before.params, before, key, row | shared, before.step
            )
            gradient = more if gradient is None else jax.tree.map(jnp.add, gradient, more)
            seen.append(each)
        losses, t = join(jax.tree.map(lambda *x: jnp.stack(x), *seen), shards)
        largest = jax.tree.map(lambda leaf: jnp.abs(leaf).max(), gradient)
        return losses, t, batch["index"], batch.get("label"), _bad(before), _bad(gradient), largest

    everywhere = NamedSharding(mesh, PartitionSpec())
    found = jax.jit(parts, out_shardings=everywhere)(before, batch, program.seed)
    losses, t, index, labels, bad, bad_gradient, largest = jax.device_get(found)
    named = lambda tree: {sharding.leaf_name(path): x.item() for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    origins = _origins(lambda: parts(before, batch, program.seed)) if trace and jax.process_count() == 1 else []
    return Findings(index, t, losses, labels, named(bad), named(bad_gradient), named(largest), origins)


def _bad(tree: Any) -> Any:
    """How many numbers of each leaf are not finite."""
    return jax.tree.map(lambda leaf: jnp.sum(~jnp.isfinite(leaf)), tree)


def _origins(function) -> list[str]:
    """The first operation of a function whose result is infinite, and the first whose result is no number."""
    told = []
    for kind, settings in (("infinite", jax.debug_infs), ("not a number", jax.debug_nans)):
        try:
            with jax.disable_jit(), settings(True):  # operation by operation, also within scans
                function()
        except FloatingPointError as error:
            written = [frame for frame in traceback.extract_tb(error.__traceback__) if _written(frame.filename)]
            where = f", in {written[-1].name} ({written[-1].filename}:{written[-1].lineno})" if written else ""
            told.append(f"the first {kind}: {error}{where}")
    return told


def _written(file: str) -> bool:
    """Whether a frame is of the user's code or of this library's mathematics, not of JAX, Python or this command."""
    path = pathlib.Path(file)
    if path.is_relative_to(SOURCES):
        return True
    return path.is_file() and not any(path.is_relative_to(folder) for folder in OTHERS)


def report(repeated: Repeated) -> str:
    """What a user is told, a few lines."""
    found, metrics = repeated.findings, repeated.metrics
    verdict = "finite" if repeated.finite else "NOT FINITE"
    lines = [
        f"step {repeated.step} (counted from 0), examples {found.index.min()} to {found.index.max()}: {verdict}",
        f"  loss {float(metrics['loss']):.8g}, gradient norm {float(metrics['grad_norm']):.8g}",
    ]
    for name, counts in (("the state before it", found.before), ("its gradient", found.gradient)):
        bad = {leaf: count for leaf, count in counts.items() if count}
        lines.append(f"  {name}: {'every number is finite' if not bad else f'not finite in {len(bad)} leaves:'}")
        lines += _some([f"    {leaf}: {count} numbers" for leaf, count in bad.items()])
    order = np.flatnonzero(~np.isfinite(found.losses))
    lines.append(f"  losses of single examples: {len(order)} of {len(found.losses)} are not finite")
    if not len(order):
        order = np.argsort(-found.losses)[:3]
        lines[-1] += "; the largest:"
    labels = [""] * len(found.index) if found.labels is None else [f", label {label}" for label in found.labels]
    told = [
        f"    example {found.index[i]}{labels[i]}, t {np.array2string(found.t[i], precision=6)}: loss "
        f"{found.losses[i]:.8g}"
        for i in order
    ]
    lines += _some(told)
    leaf = max(found.largest, key=lambda name: np.nan_to_num(found.largest[name], nan=np.inf))
    lines.append(f"  largest entry of the gradient: {found.largest[leaf]:.4g} in {leaf}")
    return "\n".join([*lines, *(f"  {origin}" for origin in found.origins)])


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"    ... and {len(lines) - SHOWN} more"]


def main(argv: list[str]) -> None:
    """Runs the command line."""
    sharding.initialize_distributed()
    checks.validate(CONFIG.value)
    compilation_cache.enable()
    repeated = repeat(CONFIG.value, flags.FLAGS.workdir, flags.FLAGS.step)
    if jax.process_index() == 0:
        print(report(repeated))
    sys.exit(0 if repeated.finite else 1)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
