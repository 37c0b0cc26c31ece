"""Files of one JSON value, which other programs can read whatever the figures are."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.io import json_files


def test_nested_values_become_what_json_holds():
    value = {1: (np.float32(0.5), [np.int64(2)]), "a": {"b": None, "c": True}}
    assert json_files.plain(value) == {"1": [0.5, [2]], "a": {"b": None, "c": True}}
    numbers = json_files.plain([np.float64(0.5), np.array(2), jnp.float32(0.25)])  # a scalar, and arrays without sides
    assert numbers == [0.5, 2, 0.25] and [type(number) for number in numbers] == [float, int, float]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_a_number_that_json_does_not_have_is_null(tmp_path, value):
    """JSON of Python writes NaN, which readers of other languages refuse."""
    json_files.write(tmp_path / "a.json", {"fid": value, "steps": 3, "rows": [{"x": value}, True]})

    def refuse(name):
        raise AssertionError(name)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"fid": None, "steps": 3, "rows": [{"x": None}, True]}


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    json_files.write(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        json_files.write(tmp_path / "a.json", object())
    assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n" and len(list(tmp_path.iterdir())) == 1


def test_finite_numbers_texts_and_flags_stay_as_they_are():
    value = {"a": [0.5, -1e300, 3, "nan", True, None], "b": {"c": 0.0}}
    assert json_files.finite(value) == value
