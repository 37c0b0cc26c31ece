"""Measures how FLOPs, moved bytes and peak memory of a compiled train step grow, and compares the formulas.

    python -m benchmarks.growth_compiled
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.growth_compiled --sweeps=devices

Starting from the DiT of `benchmarks.growth`, one quantity is changed at a time. The step is compiled but never run. The
figures come from XLA (`cost_analysis`, `memory_analysis`), so they do not depend on other programs on the machine. An
exponent p is the slope of the least squares line through (log size, log cost). The formulas are those of
`benchmarks.growth`. The sweep over devices splits the parameters over all devices, and each figure is of one device,
whose share of the work is 1 / devices.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    NAMES = ["tokens", "width", "batch", "devices"]
    flags.DEFINE_multi_enum("sweeps", NAMES[:3], NAMES, "quantity to change; may be repeated")
    command_line.begin()

from typing import NamedTuple

import jax

from benchmarks.growth import CHANNELS, HEAD, SWEEPS, Size, slope
from diffusion.experiments import plan
from diffusion.experiments.planning import estimate
from diffusion.experiments.run import program
from diffusion.recipe import Recipe
from diffusion.recipe.defaults import defaults
from diffusion.training import sharding

DEVICES = (1, 2, 4, 8)


class Compiled(NamedTuple):
    """Figures of one step on one device: XLA's FLOPs, moved and reserved bytes, and the formulas' FLOPs and bytes."""

    flops: float
    moved: float
    peak: float
    operations: float
    estimate: float


def main(argv: list[str]) -> None:
    """Compiles each size, and prints a table."""
    print(
        "| exponent of | FLOPs | by formula | bytes moved | peak memory | by the plan |\n| --- " + "| ---: " * 5 + "|"
    )
    for name in flags.FLAGS.sweeps:
        if name == "devices":
            x = [number for number in DEVICES if number <= len(jax.devices())]
            figures = [compiled(Size(depth=2, batch=16), number) for number in x]
        else:
            x = [getattr(size, name) for size in SWEEPS[name]]
            figures = [compiled(size._replace(depth=2)) for size in SWEEPS[name]]
        p = Compiled(*(slope(x, column) for column in zip(*figures)))
        cells = f"{p.flops:.2f} | {p.operations:.2f} | {p.moved:.2f} | {p.peak:.2f} | {p.estimate:.2f}"
        print(f"| {name}, {x[0]} to {x[-1]} | {cells} |", flush=True)


def compiled(size: Size, devices: int = 1) -> Compiled:
    """The cost of a step for each of `devices` devices, over which batch and parameters are split."""
    config = defaults()
    config.model = {
        "name": "dit", "patch": 2, "width": size.width, "depth": size.depth, "heads": size.width // HEAD,
        "num_classes": 10,
    }  # fmt: skip
    config.train.batch_size = size.batch
    config.train.accumulate = 1  # without a loop over micro-batches, whose body XLA would count once
    shape = (size.side, size.side, CHANNELS)
    mesh = sharding.make_mesh({"data": 1, "fsdp": devices}, jax.devices()[:devices])
    work = plan.work_of(config, shape, mesh)
    built = program.build(Recipe.from_config(config, shape), mesh)
    step = built.step.lower(built.target, built.batch, built.seed).compile()
    cost = step.cost_analysis()
    memory = step.memory_analysis()
    return Compiled(
        cost["flops"],
        cost["bytes accessed"],
        memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        estimate.operations(work)["model"] / devices,
        sum(estimate.memory_by_part(work, "cpu").values()),
    )


if __name__ == "__main__":
    command_line.run(main)
