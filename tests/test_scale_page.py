"""docs/scale.md: its plans are those of today, and its figures of compiled steps those of docs/programs.json."""

import json
import re

import pytest

from tools.docs import plan_tables

PAGE = plan_tables.PAGE.read_text()
PROGRAMS = {row["case"]: row for row in json.loads(plan_tables.PROGRAMS.read_text())}


def test_each_plan_stands_below_the_command_that_prints_it():
    commands = re.findall(r"```sh\ndiffusion plan (.*)\n```\n\n<!-- diffusion plan (.*) -->", PAGE)
    assert len(commands) == len(list(plan_tables.plans(PAGE))) == 2
    assert all(shown == generated for shown, generated in commands)


@pytest.mark.parametrize("mesh, case", [("`fsdp=64`", "v5px64"), ("`data=64`", "v5px64-data"),
                                        ("**`data=4`, `fsdp=16`**", "v5px64-4x16")])  # fmt: skip
def test_the_compiled_steps_have_the_figures_of_their_programs(mesh, case):
    program = PROGRAMS[f"train_dit_xl2@{case}"]
    (row,) = (line.replace("*", "") for line in PAGE.splitlines() if line.startswith(f"| {mesh} |"))
    _, _, least, share, _, on_links, peak, _ = map(str.strip, row.split("|"))
    roofline = program["roofline"]
    assert least == f"{1e3 * roofline['seconds']:.1f} ms" and share == f"{100 * roofline['mfu']:.0f} %"
    assert on_links == f"{1e3 * roofline['network']:.1f} ms" and peak == f"{program['memory']['peak'] / 1e9:.1f} GB"


def test_the_page_names_no_share_of_the_peak_beside_its_tables():
    """A sentence that repeats one goes out of date where the table does not."""
    text = re.sub(r"```.*?```|^\|.*?$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert "MFU" in text and not re.findall(r"\d+ %[^.]*(?:MFU|of the peak|compiled)", text)


@pytest.mark.slow
def test_the_plans_are_what_the_commands_print_today():
    for arguments, text in plan_tables.plans(PAGE):
        command = f"diffusion plan {arguments}"
        assert text == plan_tables.printed(command), f"python -m tools.docs.plan_tables: {command}"


@pytest.mark.slow
def test_the_plan_of_memory_is_within_a_tenth_of_the_compiled_steps():
    assert plan_tables.memory_table() in PAGE
    for case in plan_tables.COMPILED:
        _, _, peak, planned = plan_tables.memory(case)
        assert planned == pytest.approx(peak, rel=0.1), case
