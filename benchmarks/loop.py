"""Measures the loop of `diffusion train` (data, metrics, checkpoints) and its bare step, in turn in one process.

    python -m benchmarks.loop
    python -m benchmarks.loop --cases=digits --rounds=6 --out=runs/loop.json
    python -m benchmarks.loop --data_dir=/data/tfds

The real `train.run` works in a temporary run folder. After each stretch of a few steps it is held before its next
batch; then the same compiled step runs as many times on one batch that stays on the device. Every other stretch of the
loop contains a save. The time that a save adds, from the copy until the last file is on the disk, is spread over
--every steps. DiT-S/2 reads CIFAR-10 as TFDS prepares it, and is left out if CIFAR-10 is missing.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    NAMES = ["digits", "S/2"]  # of CASES
    flags.DEFINE_multi_enum("cases", NAMES, NAMES, "case to measure; may be repeated")
    flags.DEFINE_integer("steps", None, "number of steps of a stretch; by default 40 for the digits, 2 for DiT-S/2", 2)
    flags.DEFINE_integer("rounds", 5, "number of rounds, each of which measures everything; at most 2 for DiT-S/2", 1)
    flags.DEFINE_integer("every", 500, "number of steps over which the time of a save is spread", 1)
    flags.DEFINE_string("data_dir", "", "folder of the prepared CIFAR-10; by default TFDS_DATA_DIR")
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import contextlib
import io
import statistics
import tempfile
import time
from typing import Any, NamedTuple
from unittest import mock

import jax
from ml_collections import ConfigDict

from benchmarks import rows
from diffusion.data import pipeline, sources
from diffusion.experiments import train
from diffusion.experiments.run import program as programs
from diffusion.recipe import recipes
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints

CASES = {  # {name: (recipe, changes of its config, number of steps of a stretch)}
    "digits": ("configs/digits.py", {}, 40),
    "S/2": ("configs/cifar10_dit.py", {"train.batch_size": 16, "train.dtype": "float32", "data.threads": 2}, 2),
}


class Stretches(NamedTuple):
    """The seconds of stretches of equally many steps, by round.

    Attributes:
        steps: the number of steps of each stretch.
        loop: the seconds of the loop, without a save.
        saving: the seconds of the loop with one save in the middle, until the save is on the disk.
        bare: the seconds of the step alone, twice for each round: after each stretch of the loop.
    """

    steps: int
    loop: list[float]
    saving: list[float]
    bare: list[float]


def main(argv: list[str]) -> None:
    """Measures each case, and prints one table."""
    logging.set_verbosity(logging.FATAL)
    args = flags.FLAGS
    lines = []
    for name in args.cases:
        file, changes, steps = CASES[name]
        config = recipes.load(file)
        config.update_from_flattened_dict(changes | ({"data.dir": args.data_dir} if name == "S/2" else {}))
        try:
            sources.describe(config.data.name, config.data.split, config.data.dir)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
            continue
        stretches = measured(config, args.steps or steps, args.rounds if name == "digits" else min(args.rounds, 2))
        lines.append(row(f"loop of {file}, batch {config.train.batch_size}", stretches, args.every))
    rows.report(lines, f"jax {jax.__version__}, {jax.devices()[0].device_kind}", args.out)


def row(what: str, stretches: Stretches, every: int) -> rows.Row:
    """The loop's milliseconds per step, with a step's share of a save; the limit is the bare step."""
    save = max(0.0, statistics.median(a - b for a, b in zip(stretches.saving, stretches.loop)))
    pairs = list(zip(stretches.bare[::2], stretches.bare[1::2]))
    return rows.Row(
        what,
        "ms a step",
        False,
        ours=tuple(1e3 * (seconds / stretches.steps + save / every) for seconds in stretches.loop),
        limit=tuple(1e3 * sum(pair) / 2 / stretches.steps for pair in pairs),
        note=f"limit: the bare step; a save costs {save:.2f} s, here once in {every} steps",
    )


class Watched:
    """A compiled step that notes its first batch and its latest metrics.

    Attributes:
        trace: the trace of the step, by which `train.run` checks the memory.
    """

    def __init__(self, step: Any, noted: dict[str, Any]):
        self.trace = step.trace
        self._step, self._noted = step, noted

    def __call__(self, state: Any, batch: Any, seed: Any) -> tuple[Any, Any]:
        state, self._noted["metrics"] = self._step(state, batch, seed)
        self._noted.setdefault("batch", batch)
        return state, self._noted["metrics"]


def measured(config: ConfigDict, steps: int, rounds: int) -> Stretches:
    """Runs the loop of a config with stretches of the bare step in between.

    Args:
        config: the run's config; this function sets its numbers of steps, its checkpoints and its evaluation.
        steps: the number of steps of a stretch, at least 2.
        rounds: the number of rounds; a round has two stretches of the loop, of which the second contains a save, and a
            stretch of the bare step after each.
    """
    # Stretches end between two multiples of `steps`, saves fall on every other multiple.
    bounds = [steps + steps // 2 + turn * steps for turn in range(2 * rounds + 1)]
    config.train.steps = bounds[-1] + 1
    config.checkpoint.every = 2 * steps
    config.evaluate.every, config.checkpoint.keep = 0, 1
    stretches = Stretches(steps, [], [], [])
    build = programs.build
    batches = pipeline.batches
    last = {}

    def building(*arguments):
        program = build(*arguments)

        last["bare"], last["state"], last["seed"] = program.step, None, program.seed
        last["initial"] = lambda: sharding.create(program.init, program.target, program.seed)
        return program._replace(step=Watched(program.step, last))

    def bare():
        state = last["state"] if last["state"] is not None else last["initial"]()
        for _ in range(2):  # two steps that are not timed, which fill the caches
            state, metrics = last["bare"](state, last["batch"], last["seed"])
        jax.block_until_ready(metrics)
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = last["bare"](state, last["batch"], last["seed"])
        jax.block_until_ready(metrics)
        stretches.bare.append(time.perf_counter() - began)
        last["state"] = state

    with tempfile.TemporaryDirectory() as folder:

        def watched(*args, **options):
            with contextlib.closing(batches(*args, **options)) as inner:
                for at, batch in enumerate(inner):  # `at` steps have been dispatched
                    if at in bounds:
                        hold(at)
                    yield batch

        def hold(at):
            jax.block_until_ready(last["metrics"])
            saved = at // (2 * steps) * 2 * steps  # the step of the latest save
            while saved and checkpoints.latest(folder) != saved:
                time.sleep(0.002)
            if at > bounds[0]:
                (stretches.saving if at - saved < steps else stretches.loop).append(time.perf_counter() - last["began"])
                bare()
            last["began"] = time.perf_counter()

        with (
            mock.patch.object(programs, "build", building),
            mock.patch.object(pipeline, "batches", watched),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            train.run(config, folder)
    return stretches


if __name__ == "__main__":
    command_line.run(main)
