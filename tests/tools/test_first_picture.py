"""The README's picture shows what the shipped weights draw."""

import numpy as np
import pytest
from PIL import Image

from tools.docs import first_picture


@pytest.mark.slow
def test_the_readme_shows_what_the_shipped_weights_draw(tmp_path):
    first_picture.draw(tmp_path / "first.png")
    with Image.open(tmp_path / "first.png") as drawn, Image.open(first_picture.PLACE) as shown:
        difference = np.asarray(drawn.convert("RGB"), float) - np.asarray(shown.convert("RGB"), float)
    assert np.abs(difference).mean() < 0.5  # of 255
