"""What numbers samplers, processes and losses of symbols take: each end of a range, and what lies beyond it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps

LINE = discrete.linear()
UNIFORM, MASKED = discrete.uniform(LINE, 3), discrete.absorbing(LINE, 3)
DENSITY = timesteps.uniform_density(schedules.rectified_flow())
KEYS, X = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 4), int)
EVEN = lambda x, t: jnp.full((*x.shape, 3), -jnp.log(3.0))
LOGITS = jnp.log(jnp.full((2, 3), 1 / 3))
LEAST, NAN = 1e-9, float("nan")
IN_BLOCKS = (discrete.ancestral(), lambda memory: EVEN, lambda x, memory: memory, UNIFORM, X)

RANGES = {  # name: (the call with a number, numbers at the ends of the range, numbers beyond)
    "semi_autoregressive": (discrete.semi_autoregressive, [1], [0]),
    "block_diffusion": (
        lambda v: jax.eval_shape(lambda: discrete.block_bound(EVEN, MASKED, KEYS, X, jnp.full(2, 0.5), v)),
        [1, 4],
        [0, 5],
    ),
    "sample_blocks": (
        lambda v: jax.eval_shape(lambda: discrete.sample_blocks(*IN_BLOCKS, timesteps.plan([1.0, 0.0]), KEYS, 0, v)),
        [1, 4],
        [0, 3, 8],
    ),
    "noised": (
        lambda v: jax.eval_shape(lambda: discrete.noised(UNIFORM, KEYS, X, v)),
        [0.0, 1.0],
        [-LEAST, 1.001, NAN],
    ),
    "discrete_time_bound": (
        lambda v: jax.eval_shape(lambda: discrete.discrete_time_bound(EVEN, UNIFORM, KEYS, X, jnp.zeros(2, int), v)),
        [1],
        [0],
    ),
    "in_chunks": (lambda v: discrete.in_chunks(lambda x, t: x, jnp.ones((2, 3)), 2, v), [1], [0]),
    "masked_diffusion chunk": (lambda v: discrete.masked_diffusion(MASKED, DENSITY, chunk=v), [0, 1], [-1]),
    "corrected corrections": (lambda v: discrete.corrected(v), [1], [0]),
    "corrected size": (lambda v: discrete.corrected(1, v), [LEAST], [0.0, NAN]),
    "duo until": (lambda v: discrete.duo(UNIFORM, DENSITY, v), [0], [-1]),
    "duo temperature": (lambda v: discrete.duo(UNIFORM, DENSITY, 1, v), [LEAST], [0.0, NAN]),
    "discrete_consistency steps": (lambda v: discrete.discrete_consistency(UNIFORM, DENSITY, v, 1, 3), [4], [3]),
    "discrete_consistency stage": (lambda v: discrete.discrete_consistency(UNIFORM, DENSITY, 4, v, 3), [1], [0]),
    "discrete_consistency rounds": (lambda v: discrete.discrete_consistency(UNIFORM, DENSITY, 4, 1, v), [1, 3], [0, 4]),
    "hybrid_bound steps": (lambda v: discrete.hybrid_bound(UNIFORM, DENSITY, v), [1], [0]),
    "hybrid_bound share": (lambda v: discrete.hybrid_bound(UNIFORM, DENSITY, 2, v), [0.0], [-LEAST, NAN]),
    "flow": (discrete.flow, [0.0], [-LEAST, NAN]),
    "polynomial": (discrete.polynomial, [1.0, 1e30], [0.999, np.inf, NAN]),
    "confident": (discrete.confident, [LEAST, 1.0], [0.0, 1.001, NAN]),
    "low_entropy": (discrete.low_entropy, [0.0, 1e30], [-LEAST, np.inf, NAN]),
    "surest": (discrete.surest, [1], [0]),
    "blockwise": (lambda v: discrete.blockwise(discrete.surest(1), v), [1], [0]),
    "absorbing mask": (lambda v: discrete.absorbing(LINE, 3, v), [0, 2], [-1, 3]),
    "uniform size": (lambda v: discrete.uniform(LINE, v), [2], [1]),
    "absorbing size": (lambda v: discrete.absorbing(LINE, v, 0), [2], [1]),
    "banded_rates": (lambda v: discrete.banded_rates(4, v), [1, 3], [0, 4]),
    "gaussian_rates size": (lambda v: discrete.gaussian_rates(v, 1.0), [2], [1]),
    "gaussian_rates width": (lambda v: discrete.gaussian_rates(3, v), [0.1], [0.0, NAN]),
    "capped": (discrete.capped, [0.0, 1.0], [-LEAST, 1.001, NAN]),
    "rescaled": (discrete.rescaled, [0.0, 1.0], [-LEAST, 1.001, NAN]),
    "theta_trapezoidal": (discrete.theta_trapezoidal, [LEAST, 0.999], [0.0, 1.0, NAN]),
    "trained_masks": (lambda v: discrete.trained_masks(v, DENSITY), [2], [1]),
    "tempered": (lambda v: discrete.tempered(LOGITS, v), [LEAST], [0.0, NAN]),
    "top_k": (lambda v: discrete.top_k(LOGITS, v), [1, 3], [0, 4]),
    "nucleus": (lambda v: discrete.nucleus(LOGITS, v), [LEAST, 1.0], [0.0, 1.001, NAN]),
    "token_masks": (lambda v: discrete.token_masks(np.array([1.5, v])), [LEAST], [-2.5, np.inf]),
}


@pytest.mark.parametrize("name", RANGES)
def test_numbers_at_the_ends_of_a_range_are_taken_and_beyond_it_refused(name):
    make, valid, invalid = RANGES[name]
    for number in valid:
        make(number)
    for number in invalid:
        with pytest.raises(ValueError, match=re.escape(str(number))):
            make(number)
