"""PixArt that receives the scale of its guidance, which no class of diffusers does."""

import jax
import numpy as np

from diffusion.published.pixart import PixArt
from tests import numpy_programs

NET = PixArt((4, 4, 2), width=8, depth=1, heads=2, text_width=3, learn_sigma=False, strength=True)
X = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
TEXT = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)


def test_the_clock_of_the_strength_is_a_thousand_times_what_guidance_adds():
    """With one embedding for both, the time 200 and the scale 1.5 are the time 500 and the scale 1.2."""
    condition = lambda strength: {"text": TEXT, "strength": np.full(2, strength, np.float32)}
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, np.zeros(2, np.float32), condition(1.0))["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes)
    params["strength_embedding"] = params["timestep_embedding"]
    output = lambda t, strength: numpy_programs.outputs(
        NET.apply, {"params": params}, X, np.full(2, t, np.float32), condition(strength)
    )
    expected = output(200.0, 1.5)
    np.testing.assert_allclose(output(500.0, 1.2), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(output(500.0, 1.5) - expected).max() > 0.1 * np.abs(expected).max()
