"""CogVideoX's scale of the guidance at each step, by its formula and by diffusers' pipeline."""

import math

import numpy as np
import pytest

from diffusion.published.cogvideox.pipeline import dynamic_scales
from tests.text_to_image import made_pipelines


def test_the_scales_are_those_that_diffusers_pipeline_used():
    """Of 25 steps with a scale of 7.5, each with its time of the 1000."""
    times, scales = made_pipelines.fixture("cogvideox_dynamic")[1]["scales"].T
    np.testing.assert_allclose(dynamic_scales(7.5, times, 25), scales, rtol=1e-12)


@pytest.mark.parametrize("time, share", [(10, 0.0), (0, 1.0), (5, (1 - math.cos(math.pi / 32)) / 2)])
def test_the_scale_lies_between_none_and_one_more_than_the_requests(time, share):
    """At tau = N the cosine is 1, at tau = 0 it is -1, and half way its angle is pi / 2^5."""
    np.testing.assert_allclose(dynamic_scales(6.0, np.array([time]), 10), [1 + 6 * share], rtol=1e-12)
