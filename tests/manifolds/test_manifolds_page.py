"""docs/manifolds.md: its code runs, and says what it shows."""

import math
import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "manifolds.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    np.testing.assert_allclose(names["halfway"], [math.sqrt(0.5), 0, math.sqrt(0.5)], atol=1e-6)
    flat = 1 + math.log(2 * math.pi * 0.4**2)  # the entropy in the plane; the sphere is narrower
    assert float(names["entropy"]) == pytest.approx(flat, abs=0.15)
    assert names["frames"].dimension == 384


@pytest.mark.slow
def test_the_code_of_all_its_blocks_runs_in_turn():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    # The network's output is normal to the sphere: nothing moves, and the density stays uniform.
    np.testing.assert_allclose(names["x_0"], names["x_1"], atol=1e-6)
    np.testing.assert_allclose(names["log_density"], -math.log(4 * math.pi), atol=1e-5)
