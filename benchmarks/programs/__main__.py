"""Compiles our programs for devices that are not here, and reports XLA's figures.

    make accelerators-env
    .venv-accelerators/bin/python -m benchmarks.programs
    .venv-accelerators/bin/python -m benchmarks.programs --cases=train_dit_xl2@h100 --top=10 --texts=runs/texts
    .venv-accelerators/bin/python -m benchmarks.programs --against=docs/programs.json --record

Each case is compiled in a separate process, one after the other; nothing is computed, and no device is needed. A row
has the figures of `diffusion.experiments.planning.compiled.analysis`, and the commit. --against prints the changes
since some recorded rows. --record writes docs/programs.json and the table in docs/programs.md; rows of cases that this
call does not compile stay there.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list("cases", [], "cases to compile, PROGRAM@DEVICES or parts of such names; all by default")
    flags.DEFINE_string("out", "runs/bench/programs.json", "file for the rows, as JSON")
    flags.DEFINE_string("against", "", "file of earlier rows, to print the changes since")
    flags.DEFINE_bool("record", False, "write docs/programs.json and the table of docs/programs.md")
    flags.DEFINE_string("texts", "", "folder for the texts of the compiled programs; by default none are written")
    flags.DEFINE_integer("top", 0, "number of largest copies, products ... to print for each program", 0)
    command_line.begin()

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app

from benchmarks.programs import page
from benchmarks.programs.table import CASES
from diffusion.io import files

ROOT = pathlib.Path(__file__).parents[2]
RECORDED = ROOT / "docs/programs.json"
PAGE = ROOT / "docs/programs.md"
BEGIN, END = "<!-- begin: python -m benchmarks.programs --record -->", "<!-- end -->"


def main(argv: list[str]) -> None:
    """Runs the command line."""
    args = flags.FLAGS
    is_part_of = lambda case, part: case == part if part in CASES else part in case
    chosen = [case for case in CASES if not args.cases or any(is_part_of(case, part) for part in args.cases)]
    named = [case for case in args.cases if "@" in case and case not in CASES]  # the small ones, and others
    if not chosen and not named:
        raise app.UsageError(f"--cases={','.join(args.cases)}: there is no such case. Valid: {', '.join(CASES)}.")
    before = json.loads(pathlib.Path(args.against).read_text()) if args.against else []
    if args.texts:
        pathlib.Path(args.texts).mkdir(parents=True, exist_ok=True)
    commit = _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    rows = []
    for case in [*chosen, *named]:
        began = time.perf_counter()
        row = {**compiled(case, args.texts), "commit": commit}
        rows.append(row)
        write(pathlib.Path(args.out), merged(pathlib.Path(args.out), rows))
        print(f"{case}: {time.perf_counter() - began:.0f} s", flush=True)
        for name, cell in zip(page.HEAD[1:], page.cells(row)[1:], strict=True):
            print(f"  {name}: {cell}" if cell else "", end="")
        print("\n" + page.details(row, args.top) if args.top else "", flush=True)
    for line in page.differences(rows, before) if before else ():
        print(line)
    if args.record:
        record(rows)
    failed = [row["case"] for row in rows if "error" in row]
    if failed:
        sys.exit(f"These could not be compiled: {', '.join(failed)}")


def compiled(case: str, texts: str) -> dict[str, Any]:
    """The row of a case, compiled in a separate process, whose end frees the memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "row.json"
        words = [f"--text={pathlib.Path(texts) / case}.txt"] if texts else []
        command = [sys.executable, "-m", "benchmarks.programs.compile", f"--case={case}", f"--out={out}", *words]
        done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
        if done.returncode or not out.exists():
            said = done.stderr.strip().splitlines()
            return {"case": case, "error": said[-1] if said else f"exit status {done.returncode}"}
        return json.loads(out.read_text())


def merged(path: pathlib.Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a file and the given rows, which replace those of the same case, in the order of the table."""
    old = {row["case"]: row for row in (json.loads(path.read_text()) if path.exists() else [])}
    by_case = old | {row["case"]: row for row in rows}
    order = [case for case in CASES if case in by_case] + [case for case in by_case if case not in CASES]
    return [by_case[case] for case in order]


def write(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Replaces a file of rows atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as file:
        file.write(("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())


def record(rows: list[dict[str, Any]]) -> None:
    """Writes the rows to docs/programs.json, and the table into docs/programs.md."""
    merged_rows = merged(RECORDED, [page.shortened(row) for row in rows])
    write(RECORDED, merged_rows)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{page.markdown(merged_rows)}\n\n{END}{after}")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    command_line.run(main)
