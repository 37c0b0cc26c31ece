"""Repeats one step of a run from a checkpoint, and reports which values are not finite.

    diffusion reproduce --workdir=runs/digits
    diffusion reproduce --workdir=runs/digits --config.optimizer.clip=1.0
    diffusion reproduce --workdir=runs/digits --step=1200

A failed run stores the state before the failing step in WORKDIR/failed. From this state, the same program with the same
batch and random numbers computes the same step on the same devices, bit for bit. Change the config to see whether the
change would fix the failure. With --step, the command repeats the step after that checkpoint of the run. If the data
are a stream, the stream is moved to its position before the step; streams that start anew each time are refused. The
command writes no files.

Exit status: 0 the step is finite; 1 it is not, or the state does not exist; 2 a mistake in the config.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.saved_flag(unread=config_flag.RECORDING_FIELDS)
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits")
    flags.DEFINE_integer(
        "step",
        None,
        "training step of the checkpoint from which to repeat a step; by default the step that failed is repeated",
    )
    command_line.begin()

import functools
import pathlib
import sys
import sysconfig
import traceback
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import diffusion
from diffusion.data.sources.streams import Stream
from diffusion.experiments.run import (
    failure,
    noise_pairs,
    players,
    prior_pictures,
    program as programs,
    tuned_base,
    tuned_examples,
)
from diffusion.experiments.run.examples import open_examples
from diffusion.experiments.run.start import with_encoder
from diffusion.experiments.run_folder import workdir
from diffusion.models.layers import layout
from diffusion.recipe import as_config_errors, checks
from diffusion.recipe.recipe import Recipe
from diffusion.training import sharding, state
from diffusion.training.checkpointing import checkpoints
from diffusion.training.step import example_keys, join, prepare, split, training_key

SHOWN = 10  # the most examples, and the most leaves, that the report lists
SOURCES = pathlib.Path(diffusion.__file__).parent
OTHERS = (pathlib.Path(__file__).parent, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


class Repeated(NamedTuple):
    """The results of a repeated step."""

    step: int  # the number of the step, counted from 0
    metrics: dict[str, Any]  # the metrics of the step
    index: np.ndarray  # the global indices of the examples, int [B]
    t: np.ndarray  # the times of the examples, [B, ...]
    losses: np.ndarray  # the losses of the examples, float [B]
    labels: np.ndarray | None  # the classes of the examples, int [B]; None without classes
    before: dict[str, int]  # {leaf of the state before the step: the number of entries that are not finite}
    gradient: dict[str, int]  # {leaf of the gradient of the loss: the number of entries that are not finite}
    largest: dict[str, float]  # {leaf of the gradient: its greatest magnitude}
    origins: list[str]  # the first operations with an infinite result and with NaN, if the step is not finite

    @property
    def finite(self) -> bool:
        """Whether the loss and the gradient of the step are finite."""
        return int(self.metrics["failed_at"]) == state.HEALTHY


def repeat(recipe: Recipe, workdir: str | pathlib.Path, step: int | None = None) -> Repeated:
    """Repeats the step of a run after a checkpoint, or the step that failed.

    Args:
        recipe: the run's recipe, or one with a change that may make the step finite.
        workdir: the run folder.
        step: the number of the checkpoint; None for the step that failed.

    Raises:
        CheckpointError: if there is no such state, or it is damaged.
    """
    folder = failure.folder(workdir) if step is None else pathlib.Path(workdir)
    latest = checkpoints.latest(folder) if step is None else step
    if latest not in checkpoints.steps(folder):
        have = ", ".join(map(str, checkpoints.steps(workdir))) or "none"
        lacks = "no step that has failed" if step is None else f"no checkpoint of step {step}"
        raise checkpoints.CheckpointError(f"{workdir} holds {lacks}. --step takes one of its checkpoints: {have}.")
    config = recipe.config
    tunes = recipe.companions.tuned is not None
    data = tuned_examples.pictures(recipe) if tunes else open_examples(recipe)
    recipe = recipe.on(data.spec)
    if tunes:
        recipe, data = tuned_examples.encoded(recipe, workdir, data)
        data, _ = prior_pictures.beside(recipe, workdir, tuned_examples.prompted(recipe, workdir, data))
    mesh = programs.mesh_of(config)
    program = programs.build(recipe, mesh)
    if recipe.companions.teacher and recipe.companions.teacher.pairs:
        data = noise_pairs.paired(recipe, workdir, data, mesh)
    before, description = checkpoints.restore(folder, latest, program.target)
    before, _ = with_encoder(config, program, before, description.get("encoder"))
    before, _ = tuned_base.restored(program, before, description.get("base"))
    _require_repeatable(data.source, description)
    positions = sharding.positions(config.train.batch_size, mesh)
    place = {"state": description.get("stream"), "order": description.get("order", 1)}
    batch = next(data.batches(config, description["examples"], positions, 0, **place))
    if not program.conditional:
        del batch["label"]
    batch = sharding.to_devices(batch, mesh, config.train.batch_size)
    donated = jax.tree.map(jnp.copy, before)
    metrics = jax.device_get(program.step(donated, batch, program.seed)[1])

    parts = functools.partial(_parts, recipe, program, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    example_values, leaf_values = jax.device_get(jax.jit(parts, out_shardings=everywhere)(before, batch, program.seed))
    named = lambda tree: {sharding.leaf_name(path): x.item() for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    repeated = Repeated(latest, metrics, *example_values, *map(named, leaf_values), origins=[])
    if repeated.finite or jax.process_count() > 1:
        return repeated
    return repeated._replace(origins=_origins(lambda: parts(before, batch, program.seed)))


def _require_repeatable(source: Any, description: dict[str, Any]) -> None:
    """Refuses a stream from which the batch of the step cannot be read again.

    Raises:
        CheckpointError: says why, and what is valid.
    """
    if not isinstance(source, Stream):
        return
    if source.resume == "anew":
        raise checkpoints.CheckpointError(
            f"{source.name} is a stream that starts anew each time, so its steps cannot be repeated. Valid: a stream "
            "that saves its state, or yields the same in every pass"
        )
    if description.get("stream") is None:
        raise checkpoints.CheckpointError(
            f"{source.name} is a stream, but this state, saved by an earlier version, does not say how far it had "
            "been read. Valid: a checkpoint of the run, --step=N"
        )


def _parts(recipe: Recipe, program: programs.Program, mesh: Mesh, before: state.TrainState, batch: dict, seed: Any):
    """The values of a step: ((index, t, losses, labels) of examples, (before, gradient, largest) of leaves)."""
    rows = recipe.config.train.batch_size
    shards = sharding.batch_shards(mesh)
    objective = players.trained_objective(recipe.objective, recipe.network)

    def loss(params, before, keys, part):
        networks = program.networks(before._replace(params=params))
        with layout.over(mesh):
            losses, details = objective(networks, recipe.schedule, keys, part, before.step)
        return losses.sum() / rows, (losses, details["t"])

    keys = example_keys(training_key(seed), before.step, jnp.arange(rows))
    cut = split((keys, prepare(batch)), program.micro_batches, shards)
    shared = {} if recipe.objective.density is None else {"density": before.density}
    shared |= {} if recipe.objective.buffer is None else {"buffer": before.buffer}
    gradient = None
    parts = []
    for i in range(program.micro_batches):
        key, part = jax.tree.map(lambda x, i=i: x[i], cut)
        (_, values), more = jax.value_and_grad(loss, has_aux=True)(before.params, before, key, part | shared)
        gradient = more if gradient is None else jax.tree.map(jnp.add, gradient, more)
        parts.append(values)
    losses, t = join(jax.tree.map(lambda *x: jnp.stack(x), *parts), shards)
    largest = jax.tree.map(lambda leaf: jnp.abs(leaf).max(), gradient)
    return (batch["index"], t, losses, batch.get("label")), (_bad(before), _bad(gradient), largest)


def _bad(tree: Any) -> Any:
    """The number of entries of each leaf that are not finite."""
    return jax.tree.map(lambda leaf: jnp.sum(~jnp.isfinite(leaf)), tree)


def _origins(function) -> list[str]:
    """The first operation of a function whose result is infinite, and the first whose result is NaN."""
    origins = []
    for kind, checked in (("infinite", jax.debug_infs), ("not a number", jax.debug_nans)):
        try:
            with jax.disable_jit(), checked(True):  # operation by operation, also within scans
                function()
        except FloatingPointError as error:
            written = [frame for frame in traceback.extract_tb(error.__traceback__) if _written(frame.filename)]
            where = f", in {written[-1].name} ({written[-1].filename}:{written[-1].lineno})" if written else ""
            origins.append(f"the first {kind}: {error}{where}")
    return origins


def _written(file: str) -> bool:
    """Whether a frame belongs to the user's code or this library, and not to JAX, Python or this command."""
    path = pathlib.Path(file)
    if path.is_relative_to(SOURCES):
        return True
    return path.is_file() and not any(path.is_relative_to(folder) for folder in OTHERS)


def report(repeated: Repeated) -> str:
    """The report of a repeated step, as lines of text."""
    metrics = repeated.metrics
    verdict = "finite" if repeated.finite else "NOT FINITE"
    lines = [
        f"step {repeated.step} (counted from 0), examples {repeated.index.min()} to {repeated.index.max()}: {verdict}",
        f"  loss {float(metrics['loss']):.8g}, gradient norm {float(metrics['grad_norm']):.8g}",
    ]
    for name, counts in (("the state before it", repeated.before), ("its gradient", repeated.gradient)):
        bad = {leaf: count for leaf, count in counts.items() if count}
        lines.append(f"  {name}: {'every number is finite' if not bad else f'not finite in {len(bad)} leaves:'}")
        lines += _some([f"    {leaf}: {count} numbers" for leaf, count in bad.items()])
    order = np.flatnonzero(~np.isfinite(repeated.losses))
    lines.append(f"  losses of single examples: {len(order)} of {len(repeated.losses)} are not finite")
    if not len(order):
        order = np.argsort(-repeated.losses)[:3]
        lines[-1] += "; the largest:"
    label = lambda i: "" if repeated.labels is None else f", label {repeated.labels[i]}"
    time = lambda i: np.array2string(repeated.t[i], precision=6)
    example_line = lambda i: f"    example {repeated.index[i]}{label(i)}, t {time(i)}: loss {repeated.losses[i]:.8g}"
    lines += _some(list(map(example_line, order)))
    leaf = max(repeated.largest, key=lambda name: np.nan_to_num(repeated.largest[name], nan=np.inf))
    lines.append(f"  largest entry of the gradient: {repeated.largest[leaf]:.4g} in {leaf}")
    return "\n".join([*lines, *(f"  {origin}" for origin in repeated.origins)])


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"    ... and {len(lines) - SHOWN} more"]


def main(argv: list[str]) -> None:
    """Runs the command line."""
    with as_config_errors():
        sharding.initialize_distributed()
    repeated = repeat(checks.validate(flags.FLAGS.config), flags.FLAGS.workdir, flags.FLAGS.step)
    if jax.process_index() == 0:
        print(report(repeated))
    sys.exit(0 if repeated.finite else 1)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
