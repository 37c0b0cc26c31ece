"""Compiles every program that `benchmarks.gpu` measures for a described H100, to show that it compiles and fits.

    make accelerators-env
    .venv-accelerators/bin/python -m benchmarks.gpu.rehearsal                     # continues after an interruption
    .venv-accelerators/bin/python -m benchmarks.gpu.rehearsal --stages=remat,jvp
    python -m benchmarks.gpu.rehearsal --minutes=0                                 # prints the table of the rows so far

No device is needed, and nothing is computed. Each case is compiled in a separate process with its XLA flags. Its row is
written to benchmarks/gpu/rehearsed.json at once, with the commit, so that the same command continues; --again compiles
all cases again. The table shows in which call of nine minutes each stage runs, by the estimates of `plan`. A stage fits
if the memory of the device holds the peaks of all programs that are on it at once, and the memory that CUDA takes in
each process. PyTorch's programs are not rehearsed. Exit status: 0 if every stage compiles and fits; 1 if one does not;
75 if one is not rehearsed.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("stages", None, "names of stages of benchmarks.gpu; all of them by default")
    flags.DEFINE_float("minutes", float("inf"), "number of minutes after which no further program is begun")
    flags.DEFINE_bool("again", False, "also compile programs that were compiled before")
    flags.DEFINE_string("case", "", "a case as JSON; compiles only this case, and prints its row")
    command_line.begin()

from rich.console import Console
from rich.table import Table

from benchmarks.gpu import plan, stages
from diffusion.experiments.planning.machines import MACHINES
from diffusion.experiments.planning.tables import in_bytes, in_seconds
from diffusion.io import files

ROOT = pathlib.Path(__file__).parents[2]
RECORDED = ROOT / "benchmarks/gpu/rehearsed.json"
MACHINE = "h100"
CALL = 530.0  # seconds for the stages in a call with --minutes=9
CONTEXT = 0.6e9  # bytes of the device that CUDA, cuDNN and cuBLAS take in each process


def key(spec: Mapping[str, Any]) -> str:
    """The name of a program, which is its spec with the attention that is tried first, as JSON."""
    return json.dumps({**spec, "attention": spec.get("attention", ["auto"])[0]}, sort_keys=True)


def programs(names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The programs of some stages without PyTorch's, {key: spec}."""
    specs = [spec for name in names for spec in plan.measurements()[name].cases.values() if spec["kind"] != "torch"]
    return {key(spec): spec for spec in specs}


def compiled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a program, compiled in this process.

    Returns:
        {"attention" and "refused": see `cases.first_that_works`, "products": how XLA chose the kernels of products,
        "seconds": the time of compilation, "peak": bytes, "least": the seconds of one turn by the roofline of
        `benchmarks.programs`}.
    """
    import jax

    from benchmarks.gpu import cases
    from benchmarks.programs.compile import finished
    from diffusion.experiments.planning import ahead_of_time, estimate
    from diffusion.experiments.planning.compiled import analysis
    from diffusion.experiments.planning.machines import topology_name

    jax.config.update("jax_enable_compilation_cache", False)
    machine = MACHINES[MACHINE]
    device = ahead_of_time.devices(machine, topology_name(machine, 1))[0]
    began = time.perf_counter()
    with estimate.as_on(machine.platform):
        case, (executable, products), attention = cases.first_that_works(
            dict(spec), device, lambda case: finished(cases.lowered(case))
        )
    spent = time.perf_counter() - began
    figures = analysis.analyse(executable.as_text(), machine, 1, case.description["flops"])
    return {
        **attention,
        "products": products,
        "seconds": round(spent, 1),
        "peak": analysis.memory(executable)["peak"],
        "least": case.runs * figures["roofline"]["seconds"],
    }


def rehearsed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a program, compiled in a separate process with its XLA flags; {"error": the reason} if this fails."""
    words = [sys.executable, "-m", "benchmarks.gpu.rehearsal", f"--case={json.dumps(spec)}"]
    xla = f"{os.environ.get('XLA_FLAGS', '')} {spec.get('flags', '')}".strip()
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | ({"XLA_FLAGS": xla} if xla else {})
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": said[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def verdict(what: plan.Measurement, rows: Mapping[str, Mapping[str, Any]], memory: float) -> dict[str, Any]:
    """The state of a stage.

    Returns:
        {"missing": the cases without a row, "failed": {case: the reason}, "bytes": the bytes on the device at once,
        "fits": whether the device holds them, "least": the least seconds of two turns to warm up and five rounds}.
    """
    row_of_case = {name: rows.get(key(spec)) for name, spec in what.cases.items() if spec["kind"] != "torch"}
    there = [row for row in row_of_case.values() if row and "error" not in row]
    held = [row["peak"] + CONTEXT for row in there] or [0.0]
    together = max(held) if what.apart else sum(held)
    return {
        "missing": [name for name, row in row_of_case.items() if not row],
        "failed": {name: row["error"] for name, row in row_of_case.items() if row and "error" in row},
        "bytes": together,
        "fits": together <= memory,
        "least": 7 * sum(row["least"] for row in there),
    }


def main(argv: list[str]) -> None:
    """Compiles the programs that are left, and prints a line for each stage."""
    args = flags.FLAGS
    if args.case:
        print(json.dumps(compiled(json.loads(args.case))))
        return
    known = plan.measurements()
    names = args.stages or list(known)
    if unknown := set(names) - known.keys():
        sys.exit(f"--stages: {sorted(unknown)} is unknown. Valid: {list(known)}")
    rows = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    ends = time.monotonic() + 60 * args.minutes
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commit = git("rev-parse", "--short=12", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    for name, spec in programs(names).items():
        if name in rows and "error" not in rows[name] and not args.again:
            continue
        if time.monotonic() > ends:
            break
        rows[name] = {**rehearsed(spec), "commit": commit}
        with files.atomic(RECORDED) as file:
            file.write((json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
        print(name, rows[name], flush=True)
    memory = MACHINES[MACHINE].memory
    verdicts = {name: verdict(known[name], rows, memory) for name in names}
    call = {name: number for number, part in enumerate(plan.calls(CALL), 1) for name in part}
    table = Table("call", "stage", "programs", "on the device at once", "turns take at least", "attention", "says")
    for name, stage in verdicts.items():
        mine = [rows.get(key(spec), {}) for spec in known[name].cases.values()]
        said = [f"not rehearsed: {', '.join(stage['missing'])}"] if stage["missing"] else []
        said += [f"{case}: {why}" for case, why in stage["failed"].items()]
        said += [] if stage["fits"] else [f"more than the {in_bytes(memory)} of the device"]
        attention = dict.fromkeys(row["attention"] for row in mine if "attention" in row)
        how = in_bytes(stage["bytes"]) + (", one at a time" if known[name].apart else "")
        table.add_row(
            str(call[name]),
            name,
            str(len(programs([name]))),
            how,
            in_seconds(stage["least"]),
            ", ".join(attention),
            "; ".join(said),
        )
    Console(width=170).print(table)
    if any(stage["failed"] or not stage["fits"] for stage in verdicts.values()):
        sys.exit(1)
    sys.exit(stages.UNFINISHED if any(stage["missing"] for stage in verdicts.values()) else 0)


if __name__ == "__main__":
    command_line.run(main)
