"""Errors say what is valid in one way, a sentence of its own: "steps = 0. Valid: at least 1"."""

import re

import pytest

from tests.library_files import ROOT, example_files, library_files

OTHER = re.compile(r"; valid(?:: | are | is )|: valid (?:are|is) |[\"(][Vv]alid are ")


@pytest.mark.parametrize("text", ["steps = 0; valid: 1", "layer 3: valid are 0 .. 2", '"valid are 0 < low < high"'])
def test_another_way_is_seen(text):
    assert OTHER.search(text) and not OTHER.search("steps = 0. Valid: at least 1")


def test_every_error_says_what_is_valid_in_one_way():
    files = [*library_files(), *example_files(), *(ROOT / "benchmarks").rglob("*.py")]
    assert len(files) > 700
    assert {str(path.relative_to(ROOT)) for path in files if OTHER.search(path.read_text())} == set()
