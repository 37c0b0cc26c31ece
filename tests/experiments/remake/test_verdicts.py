"""The rule by which a published figure and its measurements agree, against numbers worked out by hand."""

import math

import pytest

from diffusion.experiments.remake.claims import Published, verdict


@pytest.mark.parametrize(
    ("values", "half_width", "mean", "error", "reproduced", "distance"),
    [
        ([1.04], 0.05, 1.04, 0.0, True, 0.8),
        ([1.06], 0.05, 1.06, 0.0, False, 1.2),
        ([0.94], 0.05, 0.94, 0.0, False, 1.2),
        ([1.2, 1.4], 0.2, 1.3, 0.1, True, 0.3 / math.hypot(0.2, 0.1)),  # a gap of 0.3, within 0.2 + 2 x 0.1
        ([1.28, 1.48], 0.2, 1.38, 0.1, True, 0.38 / math.hypot(0.2, 0.1)),
        ([1.32, 1.52], 0.2, 1.42, 0.1, False, 0.42 / math.hypot(0.2, 0.1)),
        ([1.3, 1.5], 0.1, 1.4, 0.1, False, 0.4 / math.hypot(0.1, 0.1)),
        ([1.0], 0.0, 1.0, 0.0, True, 0.0),
        ([1.5], 0.0, 1.5, 0.0, False, math.inf),
        ([1.5], 0.5, 1.5, 0.0, True, 1.0),  # the end of the interval belongs to it
    ],
)
def test_a_figure_is_reproduced_within_its_interval_and_two_standard_errors(
    values, half_width, mean, error, reproduced, distance
):
    stated = verdict(Published("W2", 1.0, half_width), values)
    assert (stated.value, stated.standard_error) == (pytest.approx(mean), pytest.approx(error, abs=1e-12))
    assert stated.reproduced is reproduced
    assert stated.distance == pytest.approx(distance)


def test_the_standard_error_is_that_of_the_mean_over_parts():
    """Of 1, 2, 3, 4: the variance is 5 / 3, and that of the mean 5 / 12."""
    stated = verdict(Published("W2", 2.5, 0.0), [1.0, 2.0, 3.0, 4.0])
    assert stated.standard_error == pytest.approx(math.sqrt(5 / 12)) and stated.value == 2.5
