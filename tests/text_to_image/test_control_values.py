"""Parts of a control as a request names them: numbers are floats, and a path has the length that systems have."""

import pytest

from diffusion.text_to_image.picture_controls import Control


def test_weights_and_times_are_floats_whatever_number_names_them():
    control = Control.read({"attachment": "edges", "picture": "a.png", "weight": 1, "times": (0, 1)})
    assert (control.weight, control.times) == (1.0, (0.0, 1.0))
    assert {type(number) for number in (control.weight, *control.times)} == {float}


def test_a_path_has_at_most_4096_letters():
    named = lambda letters: Control.read(("edges", "a" * letters))
    assert len(named(4096).picture) == 4096
    with pytest.raises(ValueError, match="controls: picture"):
        named(4097)
