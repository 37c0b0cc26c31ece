"""Measures how the step's time and memory grow with depth, width, tokens and batch, and compares the formulas.

    python -m benchmarks.growth
    python -m benchmarks.growth --figure=docs/images/growth.png --out=runs/growth.json
    python -m benchmarks.growth --sweeps=batch --rounds=2

Starting from one DiT, one quantity is changed at a time. Each round measures every size in turn, and the least time of
all rounds counts. The memory is what XLA reserves for the arguments and temporaries of the compiled step. An exponent p
is the slope of the least squares line through (log size, log cost), so cost ~ size^p. The table also shows the slope of
a formula at the same sizes: the operations of `diffusion.models.budget.flops` for the time, and the estimate of
`diffusion plan` for the memory. The formulas are no pure powers (they have terms in the width D and in D^2, in the
tokens N and in N^2), so their slopes also depend on the sizes.
"""

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    NAMES = ["depth", "width", "tokens", "batch"]  # of SWEEPS
    flags.DEFINE_multi_enum("sweeps", NAMES, NAMES, "quantity to change; may be repeated")
    flags.DEFINE_integer("rounds", 3, "number of rounds, each of which measures every size in turn", 1)
    flags.DEFINE_string("figure", None, "file for the figure, e.g. docs/images/growth.png; by default none is drawn")
    flags.DEFINE_string("out", None, "file for the rows as JSON")
    command_line.begin()

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows
from diffusion.experiments import plan
from diffusion.experiments.planning import estimate
from diffusion.experiments.run import program
from diffusion.recipe import Recipe
from diffusion.recipe.defaults import defaults
from diffusion.training import sharding


class Size(NamedTuple):
    """The size of the DiT and of its step: blocks, features, pixels along a side (patches have 2), images in a step."""

    depth: int = 4
    width: int = 256
    side: int = 16
    batch: int = 8

    @property
    def tokens(self) -> int:
        """The tokens of one image."""
        return (self.side // 2) ** 2


class Cost(NamedTuple):
    """The cost of one step: its seconds in each round and its bytes, and the formulas' operations and bytes."""

    seconds: tuple[float, ...]
    bytes: float
    operations: float
    estimate: float


SWEEPS = {
    "depth": [Size(depth=depth) for depth in (2, 4, 8)],
    "width": [Size(width=width) for width in (128, 256, 512)],
    "tokens": [Size(side=side) for side in (8, 16, 32)],
    "batch": [Size(batch=batch) for batch in (2, 4, 8, 16)],
}
HEAD, CHANNELS = 64, 4


def main(argv: list[str]) -> None:
    """Measures in turn, prints one table, and draws the figure."""
    logging.set_verbosity(logging.ERROR)  # JAX would warn about missing backends
    args = flags.FLAGS
    sweeps = {name: SWEEPS[name] for name in args.sweeps}
    costs = measured(sorted({size for sizes in sweeps.values() for size in sizes}), args.rounds)
    slopes = [row for name, sizes in sweeps.items() for row in exponents(name, sizes, costs)]
    if args.figure:
        draw(sweeps, costs, pathlib.Path(args.figure))
    rows.report(slopes, f"growth of a train step, jax {jax.__version__}, {jax.devices()[0].device_kind}", args.out)


def measured(sizes: list[Size], rounds: int) -> dict[Size, Cost]:
    """The cost of a step of each size; all steps are compiled before the first one is measured."""
    prepared_sizes = {size: prepared(size) for size in sizes}
    seconds = rows.interleaved({str(size): run for size, (run, *_) in prepared_sizes.items()}, rounds, rest=0.05)
    return {size: Cost(seconds[str(size)], *formulas) for size, (_, *formulas) in prepared_sizes.items()}


def prepared(size: Size) -> tuple[Callable[[], float], float, float, float]:
    """(seconds of a step, its bytes, its operations, the estimate of its bytes) for flow matching on random images."""
    config = defaults()
    config.model = {
        "name": "dit",
        "patch": 2,
        "width": size.width,
        "depth": size.depth,
        "heads": size.width // HEAD,
        "num_classes": 10,
    }
    config.train.batch_size = size.batch
    shape = (size.side, size.side, CHANNELS)
    mesh = sharding.make_mesh({"data": 1})
    work = plan.work_of(config, shape, mesh)
    built = program.build(Recipe.from_config(config, shape), mesh)
    step = built.step.lower(built.target, built.batch, built.seed).compile()
    memory = step.memory_analysis()
    rng = np.random.default_rng(0)
    # Small numbers in place of `built.init`, which would have to be compiled too.
    random = lambda leaf: jax.device_put(rng.normal(0, 0.02, leaf.shape).astype(leaf.dtype), leaf.sharding)
    zeros = lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    state = jax.tree.map(zeros, built.target)
    state = state._replace(
        params=jax.tree.map(random, built.target.params), failed_at=zeros(built.target.failed_at) - 1
    )
    images = rng.integers(0, 256, (size.batch, *shape), dtype=np.uint8)
    batch = {"image": images, "index": np.arange(size.batch), "label": np.arange(size.batch, dtype=np.int32) % 10}
    carried = [state]
    batch = sharding.to_devices(batch, mesh, size.batch)

    def run():
        carried[0], metrics = step(carried[0], batch, built.seed)
        jax.block_until_ready(carried[0])
        return metrics

    if not np.isfinite(run()["loss"]):
        raise SystemExit(f"the loss of {size} is not finite: its time would mean nothing.")
    expected = sum(estimate.memory_by_part(work, "cpu").values())
    bytes_ = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return functools.partial(least, run), bytes_, estimate.operations(work)["model"], expected


def least(run: Callable[[], object]) -> float:
    """The seconds of the faster one of two runs."""
    return min(rows.seconds(run)() for _ in range(2))


def slope(x: list[float], y: list[float]) -> float:
    """p of the least squares line log y = p log x + c."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def exponents(name: str, sizes: list[Size], costs: dict[Size, Cost]) -> list[rows.Row]:
    """The exponents of the time, one for each round, and of the memory, each with the formula's exponent."""
    x = [getattr(size, name) for size in sizes]
    size_costs = [costs[size] for size in sizes]
    between = f"{name} {x[0]} to {x[-1]}"
    rounds = range(len(size_costs[0].seconds))
    return [
        rows.Row(
            f"exponent of the step's time, {between}",
            "",
            False,
            ours=tuple(slope(x, [cost.seconds[turn] for cost in size_costs]) for turn in rounds),
            note=f"{best(x, size_costs):.2f} by the least times; "
            f"expected {slope(x, [cost.operations for cost in size_costs]):.2f} (operations)",
        ),
        rows.Row(
            f"exponent of the step's memory, {between}",
            "",
            False,
            ours=(slope(x, [cost.bytes for cost in size_costs]),),
            note=f"expected {slope(x, [cost.estimate for cost in size_costs]):.2f} (estimate of diffusion plan)",
        ),
    ]


def best(x: list[float], costs: list[Cost]) -> float:
    """The exponent of the least times of all rounds."""
    return slope(x, [min(cost.seconds) for cost in costs])


def draw(sweeps: dict[str, list[Size]], costs: dict[Size, Cost], path: pathlib.Path) -> None:
    """Draws time and memory against each quantity, and the formulas' values.

    The operations are scaled so that their geometric mean equals that of the times.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2,
        len(sweeps),
        figsize=(2.6 * len(sweeps), 4.6),
        sharey="row",
        sharex="col",
        layout="constrained",
        squeeze=False,
    )
    kinds = {
        "ms a step": (lambda cost: 1e3 * min(cost.seconds), lambda cost: cost.operations, "operations"),
        "MB": (lambda cost: cost.bytes / 1e6, lambda cost: cost.estimate / 1e6, "estimate"),
    }
    for column, (name, sizes) in enumerate(sweeps.items()):
        x = [getattr(size, name) for size in sizes]
        size_costs = [costs[size] for size in sizes]
        for (unit, (ours, formula, called)), axis in zip(kinds.items(), axes[:, column]):
            y = [ours(cost) for cost in size_costs]
            expected = np.array([formula(cost) for cost in size_costs])
            if called == "operations":  # the mean rate of all sizes turns operations into milliseconds
                expected = expected * np.exp(np.mean(np.log(y) - np.log(expected)))
            axis.loglog(x, expected, "--", color="0.55", linewidth=1.2, label=f"{called}: {slope(x, expected):.2f}")
            axis.loglog(x, y, "o-", color="tab:blue", markersize=4, linewidth=1.2, label=f"measured: {slope(x, y):.2f}")
            axis.legend(fontsize=7.5, title="exponent", title_fontsize=7.5, loc="upper left", frameon=False)
            axis.set_xticks(x, [str(size) for size in x])
            axis.minorticks_off()
            axis.grid(alpha=0.25, linewidth=0.6)
            if not column:
                axis.set_ylabel(unit)
        axes[-1, column].set_xlabel(name)
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(low, 6 * high)  # room for the legends
    low, high = axes[1, 0].get_ylim()
    axes[1, 0].set_ylim(low, 6 * high)
    middle = Size()
    figure.suptitle(
        f"A train step of a DiT of depth {middle.depth}, width {middle.width}, {middle.tokens} tokens, "
        f"batch {middle.batch}; one quantity changed at a time",
        fontsize=9.5,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    command_line.run(main)
