"""The loss on held-out records during training, with the same records, times and noise for every checkpoint.

The objective draws the time and the noise of an example from the example's key. These keys depend only on the number of
the example, and not on the run's seed, checkpoint, mesh or batch size. So two measurements differ only in the weights.
An objective that changes during training is measured in the form of the last step, and an adaptive density of times in
its initial form.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from diffusion.data import identities, pipeline, sources
from diffusion.data.sources.iterated import digest_of
from diffusion.data.sources.streams import Stream
from diffusion.data.stream_batches import sound_record
from diffusion.experiments.evaluation import held_out
from diffusion.experiments.run import examples
from diffusion.experiments.run.program import Program
from diffusion.metrics import bootstrap
from diffusion.models.layers import layout
from diffusion.recipe import ConfigError, data as records
from diffusion.recipe.recipe import Recipe
from diffusion.training import sharding
from diffusion.training.state import TrainState
from diffusion.training.step import BINS, example_keys, prepare

SEED = 0  # seed of the order of records, their augmentation, times and noises
ROWS = 64  # draws that are computed at once, or a multiple if the objective compares more examples with each other
WEIGHTS = ("trained", "average")


class HeldOutLoss(NamedTuple):
    """The measurement of a run.

    Attributes:
        measure: (TrainState) -> the entry "held_out_loss" of metrics.jsonl; all processes call it.
        records: {"split", "count", "trained_on"} of the records; "trained_on" is None if it is not known.
    """

    measure: Callable[[TrainState], dict[str, Any]]
    records: dict[str, Any]

    def __str__(self) -> str:
        """One line for the start of a run."""
        count = self.records["trained_on"]
        shared = "not known" if count is None else f"{count:,}"
        split = f"{self.records['count']:,} records of {self.records['split']!r}"
        return f"the held-out loss is measured on {split}; trained on: {shared}"


def build(recipe: Recipe, program: Program, mesh: Mesh, source: sources.Source | Stream) -> HeldOutLoss:
    """Reads config.evaluate.loss.number held-out examples, and prepares the measurement.

    Args:
        recipe: the run's recipe, on its data.
        program: the run's program.
        mesh: the mesh of the run.
        source: the records that the run trains on.

    Raises:
        ConfigError: if the records do not exist, cannot be read twice, or were trained on.
        DamagedRecord: if a record is damaged and config.data.damaged = "stop".
    """
    number = recipe.config.evaluate.loss.number
    rows = math.lcm(ROWS, recipe.objective.examples.block or 1)
    data, config = examples.open_held_out(recipe, SEED, rows)
    if isinstance(data.source, Stream):
        try:
            data.source.require_repeatable("records that can be indexed, or a function that returns an iterator")
        except ValueError as error:
            raise ConfigError(f"config.evaluate.loss: {error}") from error
    trained_on = _require_held_out(recipe, config, source, data.source)
    wide = math.lcm(rows, sharding.batch_shards(mesh))  # a multiple for every device; further rows repeat the first
    mine = sharding.positions(wide, mesh) % rows
    reader = data.batches(config, 0, mine, config.data.threads)
    batches = [_inputs(batch, program) for batch in itertools.islice(reader, math.ceil(number / rows))]
    reader.close()
    drawn = _records(data, number, rows)
    measured_at = recipe.config.train.steps - 1
    everywhere = NamedSharding(mesh, PartitionSpec())

    def losses_of(state, batch, position):
        keys = example_keys(jax.random.key(SEED), jnp.int32(0), position)
        with layout.over(mesh):
            networks = program.networks(state)
            losses, metrics = recipe.objective.loss(networks, recipe.schedule, keys, prepare(batch), measured_at)
        return losses, metrics["t"].reshape(losses.shape[0], -1)[:, 0]

    compiled = jax.jit(losses_of, out_shardings=everywhere)

    def measure(state: TrainState) -> dict[str, Any]:
        state = state._replace(opt_state=(), density=(), buffer=None)
        row: dict[str, Any] = {}
        for name, params in zip(WEIGHTS, (state.params, state.ema)):
            losses, t = [], []
            for i, batch in enumerate(batches):
                position = i * rows + np.arange(wide) % rows
                batch = sharding.to_devices(batch, mesh, wide)
                some = compiled(state._replace(params=params), batch, position.astype(np.int32))
                for values, rows_of in zip(some, (losses, t)):
                    rows_of.append(np.asarray(values)[:rows])
            row[name] = summary(np.concatenate(losses)[:number], np.concatenate(t)[:number], drawn)
        counts = row["trained"].pop("count_by_t")
        row["average"].pop("count_by_t")
        return row | {"count_by_t": counts, "draws": number, "records": described}

    known = None if trained_on is None else trained_on.count
    described = {"split": data.spec.split, "count": len(np.unique(drawn)), "trained_on": known}
    return HeldOutLoss(measure, described)


def _require_held_out(
    recipe: Recipe, config: ConfigDict, train: sources.Source | Stream, other: sources.Source | Stream
) -> held_out.TrainedOn | None:
    """The number of records that were trained on; latents are recognized by their pictures, if these still exist."""
    if config.data.latents.dir:
        try:
            train, other = records.open_recipe(recipe), records.source(config, config.data.split)
        except (ConfigError, sources.DamagedRecord):
            return None
    return held_out.require_sources(recipe, train, other)


def _inputs(batch: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """The entries of a batch that the objective reads."""
    left_out = {"skipped"} if program.conditional else {"skipped", "label"}
    return {name: leaf for name, leaf in batch.items() if name not in left_out}


def _records(data: examples.Examples, number: int, rows: int) -> np.ndarray:
    """The record of each draw, int [number]; draws of one record have one number, also if the source repeats it."""
    if isinstance(data.source, Stream):
        return _records_of_stream(data.source, number, rows)
    drawn = pipeline.records_at(np.arange(number), len(data.source), SEED)
    stated = identities.stated(data.source)
    return drawn if stated is None else np.unique(stated[drawn], axis=0, return_inverse=True)[1].reshape(-1)


def _records_of_stream(stream: Stream, number: int, rows: int) -> np.ndarray:
    """The record of each of the first draws of a stream, known by its content: after its end a stream begins again.

    Args:
        stream: the records; they are read again, since a process reads only its own rows of the batches.
        number: number of draws.
        rows: number of draws in a batch, within which another record takes the place of a damaged one.
    """
    cursor = stream.cursor()
    by_content: dict[bytes, int] = {}
    drawn: list[int] = []
    while len(drawn) < number:
        batch = [cursor.next() for _ in range(rows)]
        contents = [digest_of(sound_record(stream, batch, row)[0]) for row in range(rows)]
        drawn += [by_content.setdefault(content, len(by_content)) for content in contents]
    return np.array(drawn[:number])


def summary(losses: np.ndarray, t: np.ndarray, records: np.ndarray) -> dict[str, Any]:
    """The mean of the losses with its standard error, and the means by t.

    Args:
        losses: the losses of the draws, float [N].
        t: the times of the draws in [0, 1], float [N].
        records: the records of the draws, int [N]; draws of one record are not independent.

    Returns:
        {"loss": the mean, "standard_error": the standard error of a mean over independent records, None for a single
        record, "by_t": the means in ten equal bins of t in [0, 1], None in a bin without draws, "count_by_t": the draws
        in each bin}. Numbers have eight digits; those that are not finite are None.
    """
    losses = losses.astype(np.float64)
    mean = losses.mean()
    bins = np.clip(np.floor(t * BINS), 0, BINS - 1).astype(int)
    count = np.bincount(bins, minlength=BINS)
    total = np.bincount(bins, losses, minlength=BINS)
    return {
        "loss": _digits(mean),
        "standard_error": _digits(bootstrap.standard_error(losses, records)),
        "by_t": [_digits(a / n) if n else None for a, n in zip(total, count)],
        "count_by_t": count.tolist(),
    }


def _digits(value: float) -> float | None:
    return float(f"{value:.8g}") if np.isfinite(value) else None


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a measurement by the names that a tracker uses: "held_out_loss/average", ".../0.1-0.2" ..."""
    named: dict[str, float] = {}
    for weights in WEIGHTS:
        path = f"held_out_loss/{weights}"
        named[path] = row[weights]["loss"]
        named |= {f"{path}/{i / BINS:.1f}-{(i + 1) / BINS:.1f}": x for i, x in enumerate(row[weights]["by_t"])}
    return {name: x for name, x in named.items() if x is not None}
