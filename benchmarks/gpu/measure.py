"""Measures one stage of `plan`, all of its cases in turn, round after round, and writes the rows.

python -m benchmarks.gpu.measure --stage=attention --out=attention.json
"""

import math
import statistics
import sys

from absl import flags

from benchmarks.gpu import plan
from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    STAGE = flags.DEFINE_enum("stage", None, list(plan.measurements()), "stage to measure", required=True)
    OUT = flags.DEFINE_string("out", None, "file for the rows, as JSON", required=True)
    TINY = flags.DEFINE_bool("tiny", False, "use sizes that a CPU measures in seconds, for a rehearsal")
    ROUNDS = flags.DEFINE_integer("rounds", 5, "number of rounds, each of which measures every case in turn")
    TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "python of the environment with PyTorch")
    command_line.begin()

from benchmarks import rows
from benchmarks.gpu.accounting import Worker, beside_base, beside_limit, describe


def main(argv: list[str]) -> None:
    """Measures, prints the table and writes it."""
    what = plan.measurements()[STAGE.value]
    specs = {name: plan.tiny(spec) if TINY.value else spec for name, spec in what.cases.items()}
    measured, workers = {}, {}
    for part in [{name: spec} for name, spec in specs.items()] if what.apart else [specs]:
        began = {}
        try:
            for name, spec in part.items():  # one at a time, since XLA times kernels while it compiles
                began[name] = Worker(name, spec, TORCH_PYTHON.value)
            measured |= rows.interleaved(
                {name: worker.seconds for name, worker in began.items()}, ROUNDS.value, rest=0.1
            )
            for name in part:  # printed at once, so that the log has it if the stage is ended later
                print(f"case {name}: {statistics.median(measured[name]):.4g} s", flush=True)
        finally:
            for worker in began.values():
                worker.close()
        workers |= began
    title = what.title + (" (tiny: a rehearsal, no result)" if TINY.value else "")
    lines = beside_limit(title, workers, measured) if "ours" in workers else beside_base(title, workers, measured)
    if not any(math.isfinite(taken) for times in measured.values() for taken in times):
        raise SystemExit("; ".join(f"{name}: {worker.about.get('failed')}" for name, worker in workers.items()))
    rows.report(lines, describe(workers), OUT.value)


if __name__ == "__main__":
    command_line.run(main)
