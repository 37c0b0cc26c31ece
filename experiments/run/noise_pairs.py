"""Pairs of noise and a teacher's sample from it, generated when a run starts, by `config.teacher.pairs`.

    WORKDIR/pairs/teacher.json    the teacher's checkpoint, by its step and a hash of its weights; and the shift
    WORKDIR/pairs/00000512.npy    float32 [n, 2, H, W, C], sample and noise of pairs 512 .. 512 + n - 1

Pair i has the condition of example i of the data, a label or a caption; the examples are used again from the beginning
if there are more pairs. The noise of a pair depends only on the run's seed and on i, so that an interrupted run
continues with the files that are missing. The times of the teacher's steps are shifted by `config.sample.shift`.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion import objectives, parameterizations, timesteps
from diffusion.data import pipeline, sources
from diffusion.data.sources.spec import Derived, ManyAtOnce
from diffusion.data.sources.streams import Stream
from diffusion.experiments.run import players
from diffusion.experiments.run.examples import Examples
from diffusion.io import files, json_files, opener
from diffusion.models.layers import layout
from diffusion.recipe import ConfigError
from diffusion.recipe.companions import Teacher
from diffusion.recipe.recipe import Recipe
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement, progress
from diffusion.training.step import prepare

FILE = 512  # pairs in a file


class Pairs(Derived, ManyAtOnce):
    """The records of the data, repeated as often as needed, with pairs `[2, H, W, C]` in place of the examples."""

    def __init__(self, source: sources.Source, spec: sources.DataSpec, parts: Sequence[np.ndarray]):
        super().__init__(source)
        self._parts = parts
        self.spec = spec._replace(shape=(2, *spec.shape), dtype="float32")

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        records = pipeline.fetch(self._of, np.asarray(rows) % len(self._of))
        return [record | {"x": np.array(self._parts[row // FILE][row % FILE])} for record, row in zip(records, rows)]


def paired(recipe: Recipe, workdir: str | pathlib.Path, data: Examples, mesh: Mesh) -> Examples:
    """Generates the missing pairs of a run, and opens all of them. Every process of a run calls it.

    Args:
        recipe: the recipe of the run, which names the teacher.
        workdir: the run folder, which stores the pairs.
        data: the examples, whose conditions the pairs have.
        mesh: the mesh on which the teacher samples.

    Returns:
        The examples, with samples as "x" in each batch, and their initial noise as "noise".

    Raises:
        ConfigError: if another teacher made the existing pairs, or if pairs are not finite.
        CheckpointError: if the teacher's checkpoint is missing or damaged.
    """
    folder = pathlib.Path(workdir) / "pairs"
    assert not isinstance(data.source, Stream)  # the opened examples refuse a stream
    teacher = recipe.companions.teacher
    assert teacher is not None  # pairs are those of a teacher
    number = teacher.pairs
    shape = recipe.examples.shape
    runs = [range(first, min(first + FILE, number)) for first in range(0, number, FILE)]
    # Only process 0 looks: all processes make a file together, and another host may see an older file only later.
    lacks = lambda rows: jax.process_index() == 0 and _read(folder, rows, shape) is None
    lacking = json.loads(agreement.gather("pairs", json.dumps([rows.start for rows in runs if lacks(rows)]))[0])
    missing = [rows for rows in runs if rows.start in lacking]
    if missing:
        _make(recipe, folder, data, mesh, missing, teacher)
    parts: list[np.ndarray] = []
    for rows in runs:
        pairs = _read(folder, rows, shape)
        assert pairs is not None  # it is made above
        parts.append(pairs)
    pairs = Pairs(data.source, data.spec, parts)
    both = lambda batch: batch | {"x": batch["x"][:, 0], "noise": batch["x"][:, 1]}
    return data._replace(sizes=(), stored=Examples(pairs, pairs.spec, augment=()), complete=both)


def _read(folder: pathlib.Path, rows: range, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pairs of a file, which are read from disk when they are used; None if it is missing or incomplete."""
    pairs = files.array(_file(folder, rows), mmap_mode="r")
    sound = pairs is not None and pairs.shape == (len(rows), 2, *shape) and pairs.dtype == np.float32
    return pairs if sound else None


def _file(folder, rows):
    return folder / f"{rows[0]:08}.npy"


def _make(
    recipe: Recipe, folder: pathlib.Path, data: Examples, mesh: Mesh, missing: list[range], teacher: Teacher
) -> None:
    params = _teacher(recipe.config, folder, mesh)
    make = _maker(recipe, teacher, mesh)
    number = teacher.pairs
    padded = -(-FILE // sharding.batch_shards(mesh)) * sharding.batch_shards(mesh)
    held = sharding.positions(padded, mesh)
    written = number - sum(map(len, missing))
    with progress.bar("making pairs", number, "pairs", speaks=jax.process_index() == 0) as advance:
        for rows in missing:
            numbers = np.resize(np.asarray(rows, np.int32), padded)[held]  # a short last file is filled up, then cut
            pairs = make(params, *sharding.to_devices((_conditions(recipe, data, numbers), numbers), mesh, padded))
            arrays = {name: np.asarray(pairs[name].addressable_data(0)) for name in ("x", "noise")}
            pair = np.stack([arrays["x"], arrays["noise"]], axis=1)[: len(rows)]
            _require_finite(pair, rows, teacher)  # on every process, since each has all pairs
            if jax.process_index() == 0:
                with files.atomic(_file(folder, rows)) as file:
                    np.save(file, pair)
            written += len(rows)
            advance(written)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("pairs made")


def _require_finite(pair: np.ndarray, rows: range, teacher: Teacher) -> None:
    """Refuses pairs `[n, 2, ...]` that are not finite, since one of them would end the training at a later step."""
    finite = np.isfinite(pair).reshape(len(pair), -1).all(1)
    if not finite.all():
        raise ConfigError(
            f"{(~finite).sum()} of the pairs {rows.start} to {rows.stop - 1} of the teacher are not finite, the first "
            f"is pair {rows.start + int(np.argmin(finite))}. They were made with config.teacher.pairs.steps = "
            f"{teacher.pair_steps} and config.teacher.scale = {teacher.scale}. Try more steps, another sampler "
            "(config.teacher.pairs.sampler), or a smaller scale."
        )


def _conditions(recipe: Recipe, data: Examples, numbers: np.ndarray) -> Any:
    """The conditions of these pairs, `[b, ...]`; None for an unconditional network."""
    if recipe.examples.null is None:
        return None
    assert not isinstance(data.source, Stream)  # `paired` refuses a stream
    return prepare(pipeline.conditions(data.source, data.spec, numbers % len(data.source)))["condition"]


def _maker(recipe: Recipe, teacher: Teacher, mesh: Mesh):
    """A function (parameters, conditions `[b, ...]`, numbers of pairs `[b]`) -> {"x", "noise"}, on every process."""
    config = recipe.config
    schedule = recipe.schedule
    apply = players.guided_teacher(players.teacher(recipe.network).apply, teacher.scale, recipe.examples.null)
    grid = timesteps.uniform(schedule, steps=teacher.pair_steps)
    plan = timesteps.plan(timesteps.shift(schedule, grid, config["sample"]["shift"]))
    key = functools.partial(jax.random.fold_in, jax.random.split(jax.random.key(np.uint32(config["seed"])), 3)[2])

    def make(params, condition, numbers):
        network = lambda *inputs: apply(params, *inputs)
        with layout.over(mesh):
            denoise = parameterizations.denoiser(network, schedule, teacher.parameterization, condition)
            return objectives.reflow_pairs(
                denoise, schedule, plan, jax.vmap(key)(numbers), recipe.examples.shape, teacher.pair_sampler
            )

    return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _teacher(config: Mapping, folder: pathlib.Path, mesh: Mesh) -> Any:
    """The teacher's moving average, from the checkpoint that made the first pairs, or from the latest one."""
    path = pathlib.Path(config["teacher"]["path"]).expanduser()
    record = folder / "teacher.json"
    before = opener.read_json(record) if record.exists() else None
    params, step = checkpoints.load_ema(path, before and before["step"])
    leaves = json.dumps(checkpoints.read_about(path, step)["leaves"], sort_keys=True)
    now = {"step": step, "sha256": hashlib.sha256(leaves.encode()).hexdigest()}
    now["shift"] = float(config["sample"]["shift"])
    before = before and {"shift": now["shift"], **before}  # earlier versions did not write it
    if before and before["shift"] != now["shift"]:
        raise ConfigError(
            f"config.sample.shift = {now['shift']:g}, but the first pairs in {folder} were made with "
            f"{before['shift']:g}. Valid: {before['shift']:g} until all pairs are made, or a new --workdir."
        )
    if before not in (None, now):
        raise ConfigError(
            f"config.teacher.path = {str(path)!r} holds another run than the teacher that made the first pairs in "
            f"{folder}. Valid: that teacher, or a new --workdir."
        )
    if jax.process_index() == 0 and before is None:
        folder.mkdir(exist_ok=True)
        json_files.write(record, now)
    return jax.device_put(params, sharding.shardings(params, mesh))
