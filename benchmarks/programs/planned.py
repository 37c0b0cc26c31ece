"""Compares `diffusion plan` with the compiled train steps of docs/programs.json, or fits its constants to them.

    python -m benchmarks.programs.planned
    python -m benchmarks.programs.planned --fit

The first command prints the least time of each compiled step of a DiT and that of its plan, term by term; docs/scale.md
has the table. The second command fits `Passes` of `experiments/planning/machines.py` to the same programs, for each
machine, by non-negative least squares; the errors are divided by the programs' times.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_bool("fit", False, "fit the passes, and print them in place of the table")
    command_line.begin()

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import AbstractMesh, AxisType
from scipy import optimize

from benchmarks.programs import training
from benchmarks.programs.cases import DEVICES, MESHES, Devices
from diffusion.experiments import plan
from diffusion.experiments.planning import estimate
from diffusion.experiments.planning.compiled import roofline
from diffusion.experiments.planning.machines import MACHINES, Passes
from diffusion.experiments.planning.tables import in_bytes, in_seconds
from diffusion.training import sharding

RECORDED = pathlib.Path(__file__).parents[2] / "docs/programs.json"


class Terms(NamedTuple):
    """The terms of a step's least time, in seconds.

    Attributes:
        products: the time of matrix products at the device's rate.
        passes: the time of all other work of kernels.
        exposed: the time of collectives during which no kernel runs.
        step: the time of the whole step; longer than the sum of the three if collectives that overlap with kernels take
            longer than these.
    """

    products: float
    passes: float
    exposed: float
    step: float


def recorded() -> dict[str, Mapping[str, Any]]:
    """The rows of compiled train steps of DiTs by the names of their cases."""
    rows = json.loads(RECORDED.read_text())
    return {row["case"]: row for row in rows if row["case"].partition("@")[0] in training.DITS and "error" not in row}


@functools.cache
def work(case: str) -> tuple[estimate.Work, Devices]:
    """(the work of a case, its devices), on a mesh without devices."""
    program, _, name = case.partition("@")
    devices = (DEVICES | MESHES)[name]
    axes = {axis: devices.axes.get(axis, 1) for axis in sharding.AXES}
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    config = training.dit(program)
    return plan.work_of(config, tuple(config.data.shape), mesh), devices


def compiled_terms(row: Mapping[str, Any]) -> Terms:
    """The terms of a compiled step."""
    limits = row["roofline"]
    taken = lambda entry: entry["bytes"] / roofline.links(MACHINES[row["machine"]], row["devices"], entry["group"])
    exposed = sum(taken(entry) for entry in row["collectives"] if not entry["overlapped"])
    return Terms(limits["compute"], limits["seconds"] - limits["compute"] - exposed, exposed, limits["seconds"])


def planned_terms(case: str) -> Terms:
    """The terms of the plan of a case."""
    run, devices = work(case)
    times = estimate.seconds(run, devices.sheet)
    return Terms(times["compute"], times["memory"], times["exposed"], times["overlapped"])


def fitted(machine: str) -> Passes:
    """The `Passes` with the least squared errors for the compiled programs of a machine, as shares of their steps."""
    rows = {case: row for case, row in recorded().items() if row["machine"] == machine}
    sheet = MACHINES[machine]
    shares = [
        np.array(estimate.passed(work(case)[0], sheet)) / row["roofline"]["seconds"] for case, row in rows.items()
    ]
    passes = [compiled_terms(row).passes / row["roofline"]["seconds"] for row in rows.values()]
    return Passes(*optimize.nnls(np.array(shares) / sheet.bandwidth, np.array(passes))[0].tolist())


def table() -> str:
    """The terms of each compiled step and of its plan, as Markdown."""
    lines = [
        "| case | products: XLA, plan | passes | collectives alone | sent | step | the plan is off by |",
        "| --- | --- | --- | --- | --- | --- | ---: |",
    ]
    for case, row in recorded().items():
        xla, ours = compiled_terms(row), planned_terms(case)
        run, devices = work(case)
        sent = (
            sum(entry["bytes"] for entry in row["collectives"]),
            sum(collective.bytes for collective in estimate.collectives(run, devices.sheet)),
        )
        pairs = [", ".join(map(in_seconds, pair)) for pair in zip(xla, ours, strict=True)]
        pairs.insert(3, ", ".join(map(in_bytes, sent)))
        lines.append(f"| `{case}` | {' | '.join(pairs)} | {ours.step / xla.step - 1:+.1%} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Runs the command line."""
    if not flags.FLAGS.fit:
        print(table(), end="")
        return
    for machine in dict.fromkeys(row["machine"] for row in recorded().values()):
        print(machine, fitted(machine))


if __name__ == "__main__":
    command_line.run(main)
