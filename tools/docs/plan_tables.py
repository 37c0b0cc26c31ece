"""Rewrites or checks the plans on docs/scale.md, each of which is the output of the command beside it.

    python -m tools.docs.plan_tables
    python -m tools.docs.plan_tables --check

The first command rewrites the text after each marker, `<!-- diffusion plan ARGUMENTS -->`, and two tables that compare
the compiled training steps of docs/programs.json with their plans: a table of memory and a table of times. The second
command prints what is outdated, and ends with status 1 if anything is.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from absl import app, flags

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "scale.md"
PROGRAMS = PAGE.with_name("programs.json")
COMPILED = {  # {case of benchmarks.programs: the arguments of `diffusion plan` for the same step}
    "train_dit_xl2@h100": "--devices=1 --machine=h100",
    "train_dit_xl2@h100x8": "--devices=8 --config.mesh.fsdp=8 --machine=h100",
    "train_dit_xl2@v5px64": "--devices=64 --config.mesh.fsdp=64 --machine=v5p",
    "train_dit_xl2@v5px64-data": "--devices=64 --config.mesh.data=64 --config.mesh.fsdp=1 --machine=v5p",
    "train_dit_xl2@v5px64-4x16": "--devices=64 --config.mesh.data=4 --config.mesh.fsdp=16 --machine=v5p",
}
STATE = ("parameters", "optimizer", "average", "others")  # what stays in memory between steps
BEGIN, END = "<!-- memory of compiled steps -->\n", "<!-- end of the memory of compiled steps -->"
PLANNED = "benchmarks.programs.planned"  # the command that prints the table of times
STEPS, STEPS_END = f"<!-- python -m {PLANNED} -->\n", "<!-- end of the planned steps -->"
BLOCK = re.compile(r"<!-- diffusion plan (?P<arguments>.*?) -->\n```\n(?P<text>.*?)```\n", re.DOTALL)


def printed(module: str) -> str:
    """The standard output of `python -m MODULE ARGUMENTS`, without its progress."""
    command = [sys.executable, "-m", *shlex.split(module)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PAGE.parents[1], check=True)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def memory(case: str) -> tuple[float, float, float, float]:
    """The bytes of a compiled step on one device: temporaries by XLA, by the plan; peak by XLA, by the plan."""
    compiled = next(row["memory"] for row in json.loads(PROGRAMS.read_text()) if row["case"] == case)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        printed(f"diffusion plan --config=imagenet256_dit {COMPILED[case]} --out={file.name}")
        (machine,) = json.loads(pathlib.Path(file.name).read_text())["machines"].values()
    parts = machine["memory"]
    temporaries = sum(size for name, size in parts.items() if name not in STATE)
    return compiled["temp"], temporaries, compiled["peak"], sum(parts.values())


def memory_table() -> str:
    """The memory of the compiled steps as a table."""
    lines = ["| case | temporaries: XLA, plan | peak: XLA, plan |", "| --- | --- | --- |"]
    size = lambda value: f"{value / 1e9:.3g} GB"
    for case in COMPILED:
        temporaries, planned_temporaries, peak, planned_peak = map(size, memory(case))
        lines.append(f"| `{case}` | {temporaries}, {planned_temporaries} | {peak}, {planned_peak} |")
    return "\n".join(lines) + "\n"


def plans(page: str) -> Iterator[tuple[str, str]]:
    """The arguments of each plan on the page, and the text that the page has for it."""
    return ((block["arguments"], block["text"]) for block in BLOCK.finditer(page))


def renewed(page: str) -> str:
    """The page with its plans and tables rewritten."""

    def renew(block: re.Match[str]) -> str:
        command = f"diffusion plan {block['arguments']}"
        return f"<!-- {command} -->\n```\n{printed(command)}```\n"

    before, _, rest = BLOCK.sub(renew, page).partition(BEGIN)
    page = before + BEGIN + memory_table() + END + rest.partition(END)[2]
    before, _, rest = page.partition(STEPS)
    return before + STEPS + printed(PLANNED) + STEPS_END + rest.partition(STEPS_END)[2]


def main(argv: list[str]) -> None:
    """Rewrites the page, or checks it."""
    page = PAGE.read_text()
    if not flags.FLAGS.check:
        PAGE.write_text(renewed(page))
        return
    commands = ((f"diffusion plan {arguments}", text) for arguments, text in plans(page))
    outdated = [command for command, text in commands if printed(command) != text]
    outdated += [] if memory_table() in page else ["the memory of compiled steps"]
    outdated += [] if printed(PLANNED) in page else ["the time of compiled steps"]
    for what in outdated:
        print(f"{PAGE}: outdated: {what}")
    sys.exit(bool(outdated))


if __name__ == "__main__":
    flags.DEFINE_bool("check", False, "write nothing; print what is outdated, and end with status 1 if anything is")
    app.run(main)
