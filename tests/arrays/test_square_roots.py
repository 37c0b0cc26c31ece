"""Square roots: their end at 0, and what comes of NaN in the lengths that are made of them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import manifolds
from diffusion.arrays.square_roots import root
from diffusion.objectives.few_step import pseudo_huber


def test_a_root_has_no_slope_where_it_ends():
    np.testing.assert_array_equal(root(jnp.array([-1.0, 0.0, 4.0, jnp.nan])), [0, 0, 2, np.nan])
    np.testing.assert_array_equal(jax.vmap(jax.grad(root))(jnp.array([-1.0, 0.0, 4.0])), [0, 0, 0.25])


def test_a_distance_from_nan_is_not_0():
    lost = jnp.full((1, 3), jnp.nan)
    assert np.isnan(manifolds.euclidean(3).distance(jnp.ones((1, 3)), lost)).all()
    assert np.isnan(pseudo_huber()(jnp.ones((1, 3)), lost)).all()
