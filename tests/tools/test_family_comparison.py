"""The table of families, variants, deviation and reason on docs/families.md is that of what the tests compare."""

import importlib

from diffusion.text_to_image import pipelines
from tools.docs import family_comparison
from tools.docs.family_comparison import BEGIN, END, PAGE


def test_the_page_has_the_table_of_today():
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert family_comparison.written(page) == page, "run python -m tools.docs.family_comparison"
    other = page.replace("| sd |", "| other |")
    assert other != page and family_comparison.written(other) == page


def test_every_family_and_every_reason_is_in_it():
    rows = family_comparison.rows()
    rooms = {path.parent.name for path in PAGE.parents[1].glob("diffusion/published/*/pipeline.py")}
    opens = lambda room: hasattr(importlib.import_module(f"diffusion.published.{room}.pipeline"), "KINDS")
    assert {family for family, *_ in rows} == set(filter(opens, rooms))
    assert family_comparison.REASONS.keys() <= {variant for _, variant, *_ in rows}
    assert {kind.strip("`") for _, _, kind, *_ in rows} <= set(pipelines.KINDS)
    assert all(0 < float(deviation) <= 1e-4 for *_, deviation, _ in rows)
