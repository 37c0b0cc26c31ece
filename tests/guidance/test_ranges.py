"""What numbers guidances and measurements take: each end of a range, and what lies beyond it, which is named."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance
from diffusion.guidance import attention_losses, measurements
from diffusion.parameterizations import Prediction
from diffusion.schedules import rectified_flow
from tests.conformance import SCHEDULES

S = SCHEDULES["cosine"]
LEAST, NAN = 1e-9, float("nan")
PICTURE, MASK = jnp.zeros((1, 2, 2, 1)), measurements.masked(np.ones((2, 2, 1), bool))
one = lambda x, t: Prediction(x, x)
both = guidance.separately(one, one)
interval = lambda v: guidance.classifier_free(guidance.separately(one, one), 2.0, interval=v)
of_flow = lambda v: guidance.strength.check_interval(v, rectified_flow())
box = lambda corner, size: measurements.box((4, 6, 1), corner, size)

RANGES = {  # name: (the call with a number, numbers at the ends of the range, numbers beyond)
    "adaptive_projected threshold": (
        lambda v: guidance.adaptive_projected(both, S, 2.0, norm_threshold=v),
        [LEAST],
        [0.0, NAN],
    ),
    "adaptive_projected momentum": (
        lambda v: guidance.adaptive_projected(both, S, 2.0, momentum=v),
        [-0.999, 0.999],
        [-1.0, 1.0, NAN],
    ),
    "rescaled": (lambda v: guidance.rescaled(both, S, 2.0, v), [0.0, 1.0], [-LEAST, 1.001, NAN]),
    "dynamic_threshold percentile": (lambda v: guidance.dynamic_threshold(one, S, v), [LEAST, 1.0], [0.0, 1.001]),
    "dynamic_threshold maximum": (lambda v: guidance.dynamic_threshold(one, S, 0.9, v), [1.0], [0.999, NAN]),
    "zero_star": (lambda v: guidance.zero_star(both, S, 2.0, zero_above=v), [0.0], [-LEAST, NAN]),
    "power_cosine": (guidance.power_cosine, [LEAST], [0.0, NAN]),
    "interval": (interval, [(0.3, 0.3), (0.0, 1.0)], [(0.3, 0.299)]),
    "interval of a schedule": (of_flow, [(1.0, 1.0), (0.5, float("inf"))], [(1.001, 1.002), (0.5, 1.001)]),
    "windows": (lambda v: guidance.windows(one, (3,), (v,)), [1, 3], [0, 4]),
    "composed": (lambda v: guidance.product(both, S, v), [(1.0, -0.999)], [(1.0, -1.0), (-1.0, 0.5)]),
    "proximal": (lambda v: guidance.proximal(one, S, MASK, PICTURE, v), [0.0], [-LEAST, NAN]),
    "pseudoinverse noise": (lambda v: guidance.pseudoinverse(one, S, MASK, PICTURE, v), [0.0], [-LEAST, NAN]),
    "pseudoinverse data": (lambda v: guidance.pseudoinverse(one, S, MASK, PICTURE, 0.1, v), [LEAST], [0.0, NAN]),
    "gaussian_likelihood": (lambda v: guidance.gaussian_likelihood(abs, PICTURE, v), [LEAST], [0.0, NAN]),
    "quantile_likelihood": (lambda v: guidance.quantile_likelihood(abs, PICTURE, v), [LEAST, 0.999], [0.0, 1.0, NAN]),
    "at_random": (lambda v: measurements.at_random((4, 4, 1), v, 0), [0.1, 1.0], [0.0, 1.001]),
    "blurred": (measurements.blurred, [LEAST, 1e30], [0.0, float("inf"), NAN]),
    "pooled": (measurements.pooled, [1, 2.0], [0, 1.5]),
    "box": (
        lambda v: box(*v),
        [((0, 0), (4, 6)), ((3, 5), (1, 1))],
        [((-1, 0), (1, 1)), ((0, 0), (0, 1)), ((3, 5), (1, 2))],
    ),
    "grid": (lambda v: attention_losses.grid(v, 2, 4), [2, 8], [1, 6, 0]),
}


@pytest.mark.parametrize("name", RANGES)
def test_numbers_at_the_ends_of_a_range_are_taken_and_beyond_it_refused(name):
    make, valid, invalid = RANGES[name]
    for number in valid:
        make(number)
    for number in invalid:
        words = [str(part) for part in number] if isinstance(number, tuple) else [str(number)]
        with pytest.raises(ValueError, match=re.escape(words[0])) as error:
            make(number)
        assert all(word in str(error.value) for word in words)
