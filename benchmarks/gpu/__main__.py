"""Measures on a GPU, in stages that resume: correctness first, then every rate of docs/speed.md's GPU part.

    python -m benchmarks.gpu --out=results --minutes=9
    python -m benchmarks.gpu --out=results --minutes=9 --done=earlier  # continues earlier/results.json
    python -m benchmarks.gpu --out=/tmp/rehearsal --minutes=9 --tiny     # a rehearsal of all stages, on a CPU
    python -m benchmarks.gpu --out=results --minutes=0                   # prints the table of the results so far

The command writes results.json and log.txt after each stage. Exit status: 0 if all stages are done; 75 if the same
command must run again; 1 if a stage failed, for the reason below the table. README.md beside this file says how the
files reach a lent machine.
"""

import importlib.util
import math
import pathlib
import subprocess
import sys

from absl import app, flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "folder of results.json and log.txt", required=True)
    DONE = flags.DEFINE_multi_string("done", [], "folder with the results.json of an earlier call; may be repeated")
    MINUTES = flags.DEFINE_float("minutes", 9.0, "number of minutes that this call may take")
    ONLY = flags.DEFINE_list("stages", None, "names of the stages to run; all of them by default")
    TINY = flags.DEFINE_bool("tiny", False, "use sizes that a CPU measures in seconds, for a rehearsal")
    DATA = flags.DEFINE_string("data_dir", "", "folder of CIFAR-10 as TFDS prepares it, for the stage input_pipeline")
    TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "python of the environment with PyTorch")
    command_line.begin()

from rich.console import Console

from benchmarks import rows
from benchmarks.gpu import plan, stages

PIPELINE = ("grain", "tensorflow_datasets", "benchmarks.input_pipeline")  # modules that the stage input_pipeline needs


def all_stages() -> list[stages.Stage]:
    """Every stage, in order; the stage of the input pipeline only if its modules are installed."""
    python = (sys.executable, "-m")
    tiny = ("--tiny",) if TINY.value else ()
    known_stages = [
        stages.Stage("environment", (*python, "benchmarks.gpu.environment"), 20, 60),
        stages.Stage("correctness", (*python, "benchmarks.gpu.correctness", *tiny), 60, 420),
        stages.Stage("tangent", (*python, "benchmarks.gpu.tangent", *tiny), 30, 120),
    ]
    for name, what in plan.measurements().items():
        command = (*python, "benchmarks.gpu.measure", f"--stage={name}", f"--torch_python={TORCH_PYTHON.value}", *tiny)
        known_stages.append(stages.Stage(name, command, 10 if TINY.value else 0.7 * what.seconds, 3 * what.seconds))
    known_stages.append(stages.Stage("profile", (*python, "benchmarks.gpu.profile", *tiny), 60, 240))
    missing = [name for name in PIPELINE if not importlib.util.find_spec(name)]
    if missing:
        print(f"input_pipeline: left out, no {' or '.join(missing)} there")
        return known_stages
    return [*known_stages, stages.Stage("input_pipeline", (*python, PIPELINE[-1], f"--data_dir={DATA.value}"), 60, 200)]


def backend() -> str:
    """The kind of device that JAX uses, read in a separate process, whose end frees the device's memory."""
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1]


def main(argv: list[str]) -> None:
    """Runs the stages that are left, and prints the table of all results."""
    stages.stoppable()
    known = all_stages()
    wanted = ONLY.value or [stage.name for stage in known]
    unknown = set(wanted) - {stage.name for stage in known}
    if unknown:
        raise app.UsageError(f"--stages: {sorted(unknown)} is unknown. Valid: {[stage.name for stage in known]}")
    chosen = [stage for stage in known if stage.name in wanted]
    if MINUTES.value > 0 and not TINY.value and backend() != "gpu":
        raise SystemExit("not measured: JAX finds no GPU here. --tiny rehearses all of it on a CPU.")
    done = [pathlib.Path(folder) for folder in DONE.value]
    results = stages.run(chosen, pathlib.Path(OUT.value), 60 * MINUTES.value, done)
    written = [results.get(stage.name, {}).get("result", {}) for stage in known]
    all_rows = [rows.Row(**row) for result in written for row in result.get("rows", ())]
    devices = dict.fromkeys(
        result["result"]["title"]
        for name, result in results.items()
        if name in plan.measurements() and "result" in result
    )
    measured = [row for row in all_rows if math.isfinite(sum(row.ours))]
    Console(width=170).print(rows.table(measured, "; ".join(devices)))
    print("".join(f"{row.what}: not measured, {row.note}\n" for row in all_rows if row not in measured), end="")
    sys.exit(stages.summary(chosen, results))


if __name__ == "__main__":
    command_line.run(main)
