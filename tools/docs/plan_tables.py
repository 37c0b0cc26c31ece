"""The plans on docs/scale.md: each as the command beside it prints it today.

    python -m tools.docs.plan_tables
    python -m tools.docs.plan_tables --check

The first command rewrites the text after each marker, `<!-- diffusion plan ARGUMENTS -->`, and two tables that compare
the compiled steps of docs/programs.json with their plans: one of memory, one of time. The second command prints what is
outdated, and ends with status 1 if anything is.
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
COMPILED = {  # cases of benchmarks.programs, and the same steps for the plan
    "train_dit_xl2@h100": "--devices=1 --machine=h100",
    "train_dit_xl2@h100x8": "--devices=8 --config.mesh.fsdp=8 --machine=h100",
    "train_dit_xl2@v5px64": "--devices=64 --config.mesh.fsdp=64 --machine=v5p",
    "train_dit_xl2@v5px64-data": "--devices=64 --config.mesh.data=64 --config.mesh.fsdp=1 --machine=v5p",
    "train_dit_xl2@v5px64-4x16": "--devices=64 --config.mesh.data=4 --config.mesh.fsdp=16 --machine=v5p",
}
STATE = ("parameters", "optimizer", "average", "others")  # what a step leaves in memory
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
    """Bytes of a compiled step on one device: temporaries by XLA and by the plan, the peak by XLA and by the plan."""
    compiled = next(row["memory"] for row in json.loads(PROGRAMS.read_text()) if row["case"] == case)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        printed(f"diffusion plan --config=imagenet256_dit {COMPILED[case]} --out={file.name}")
        (machine,) = json.loads(pathlib.Path(file.name).read_text())["machines"].values()
    parts = machine["memory"]
    passing = sum(size for name, size in parts.items() if name not in STATE)
    return compiled["temp"], passing, compiled["peak"], sum(parts.values())


def memory_table() -> str:
    """The memory of the compiled steps as a table."""
    lines = ["| case | temporaries: XLA, plan | peak: XLA, plan |", "| --- | --- | --- |"]
    size = lambda value: f"{value / 1e9:.3g} GB"
    for case in COMPILED:
        temporary, passing, peak, planned = map(size, memory(case))
        lines.append(f"| `{case}` | {temporary}, {passing} | {peak}, {planned} |")
    return "\n".join(lines) + "\n"


def plans(page: str) -> Iterator[tuple[str, str]]:
    """The arguments of each plan on the page, and the text that the page has for it."""
    return ((block["arguments"], block["text"]) for block in BLOCK.finditer(page))


def renewed(page: str) -> str:
    """The page with the plans of today."""

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
    flags.DEFINE_bool("check", False, "only say which plans are outdated")
    app.run(main)
