"""The README's code runs as it stands."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_toy_example_is_short_and_learns_its_distribution():
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 25
    names: dict = {}
    exec(code, names)
    radius = np.linalg.norm(names["x_0"], axis=-1)
    assert abs(radius.mean() - 1) < 0.03
    assert radius.std() < 0.12
    angle = np.arctan2(names["x_0"][:, 1], names["x_0"][:, 0])
    counts = np.histogram(angle, bins=8, range=(-np.pi, np.pi))[0]
    assert counts.min() > 60  # 125 expected in each eighth of the circle
