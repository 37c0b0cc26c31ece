"""Heads of a discriminator: one logit a block, of that block's features alone, wherever their positions are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.feature_heads import FeatureHeads


@pytest.mark.extended
def test_a_logit_is_the_mean_over_the_positions_of_its_own_block():
    module = FeatureHeads(width=5)
    first, second = (jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate([(3, 6, 4), (3, 2, 2, 8)]))
    params = module.init(jax.random.key(2), (first, second))
    logits = module.apply(params, (first, second))
    assert (logits.shape, logits.dtype) == ((3, 2), jnp.float32)
    at_positions = [module.apply(params, (first[:, i : i + 1], second))[:, 0] for i in range(6)]
    np.testing.assert_allclose(logits[:, 0], np.mean(at_positions, axis=0), rtol=1e-5, atol=1e-6)
    assert np.ptp(at_positions, axis=0).min() > 1e-3
    rolled = module.apply(params, (first, jnp.roll(second, 1, axis=2)))
    np.testing.assert_allclose(rolled, logits, rtol=1e-5, atol=1e-6)
    changed = module.apply(params, (first, second + jax.random.normal(jax.random.key(3), second.shape)))
    np.testing.assert_array_equal(changed[:, 0], logits[:, 0])
    assert (changed[:, 1] != logits[:, 1]).all()
