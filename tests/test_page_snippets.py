"""The Python of pages that a reader copies runs in its order, without what the reader would have to guess."""

import ast
import pathlib
import re

import jax
import numpy as np
import pytest

from diffusion.recipe import recipes

DOCS = pathlib.Path(__file__).parents[1] / "docs"
OF_FILES = ("symbol_tables.load(", "language_tables.load(")  # of published weights, which the tests do not have
SIZES = {"steering": ("samples", (64, 2)), "discrete": ("samples", (4, 16))}


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", SIZES)
def test_each_block_of_a_page_runs_after_those_before(page):
    blocks = blocks_of(page)
    names = {"config": recipes.load("digits")}
    ran = [exec(code, names) for code in blocks if not any(word in code for word in OF_FILES)]
    assert len(ran) >= 6
    name, shape = SIZES[page]
    assert names[name].shape == shape
    arrays = [value for value in names.values() if isinstance(value, jax.Array) and value.dtype == np.float32]
    assert arrays and all(np.isfinite(array).all() for array in arrays)


def test_configs_of_a_page_are_python():
    """Each block parses, and sets something."""
    blocks = blocks_of("post_training")
    assert len(blocks) >= 6 and all(ast.parse(code).body for code in blocks)
