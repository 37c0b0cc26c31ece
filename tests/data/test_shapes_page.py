"""docs/shapes.md: its ten lines run, and say what they show."""

import pathlib
import re

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "shapes.md"


@pytest.mark.extended
def test_the_ten_lines_run():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    assert names["velocity"].shape == (8, 64, 3) and names["apart"].shape == (4, 4)
    order = np.random.default_rng(0).permutation(64)
    shuffled = names["point_clouds"].earth_movers(names["x"][0], names["x"][:1, order])
    np.testing.assert_allclose(shuffled, 0)
    # Each point on one of the parts, and within neither.
    distances = np.stack([part.distance(names["cloud"]) for part in names["saturn"]])
    np.testing.assert_allclose(distances.min(axis=0), 0, atol=1e-9)
