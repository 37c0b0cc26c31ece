"""The experts of HiDream-I1's layers, and the pictures that its padding leaves room for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.hidream.network import Experts, HiDream
from tests.drawn_parameters import drawn
from tests.published.hidream.facts import SMALL


def mlp(parameters, x):
    a, b = np.moveaxis(np.einsum("nd,dkh->nkh", x, parameters["hidden"]["kernel"]), 1, 0)
    return (a / (1 + np.exp(-a)) * b) @ parameters["out"]["kernel"]


@pytest.mark.extended
@pytest.mark.parametrize("active", [1, 2, 3])
def test_a_token_has_the_experts_of_its_largest_scores(active):
    """As a loop over tokens in float64; the weights are those of the softmax over all experts."""
    x = np.random.default_rng(0).normal(size=(1, 7, 6)).astype(np.float32)
    module = Experts(3, active, "float32")
    parameters = module.init(jax.random.key(1), x)["params"]
    ours = jax.jit(lambda parameters, x: module.apply({"params": parameters}, x))(parameters, x)[0]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)
    x = x[0].astype(np.float64)
    scores = np.exp(x @ p["router"]["kernel"])
    scores /= scores.sum(1, keepdims=True)
    outputs = [mlp(jax.tree.map(lambda leaf, e=e: leaf[e], p["experts"]["mlp"]), x) for e in range(3)]
    expected = mlp(p["shared"], x)
    for n in range(7):
        for e in np.argsort(scores[n])[3 - active :]:
            expected[n] += scores[n, e] * outputs[e][n]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_text_that_stays_is_t5s_and_that_of_the_last_layer():
    """Three layers read the states 0, 2 and 1; each embeds its own."""

    class Texts(HiDream):
        @nn.compact
        def __call__(self, text):
            return self._texts(text)

    module = Texts(
        depth=2, singles=1, width=6, t5_width=2, llama_width=3, llama_layers=(0, 2, 1), heads=1, axes=(2, 2, 2)
    )
    text = np.random.default_rng(0).normal(size=(1, 4, 11)).astype(np.float32)
    params = drawn(module.init, text)["params"]
    t5, states = text[..., :2], np.split(text[..., 2:], 3, axis=-1)
    own = [states[i] @ params["llama_embeddings"]["kernel"][layer] for layer, i in enumerate((0, 2, 1))]
    stays, layers = module.apply({"params": params}, text)
    np.testing.assert_allclose(layers, own, atol=1e-5)
    np.testing.assert_allclose(stays, np.concatenate([t5 @ params["t5_embedding"]["kernel"], own[2]], 1), atol=1e-5)


def test_a_picture_that_is_no_square_has_at_most_as_many_pixels_as_the_largest():
    assert [SMALL._padding(*sides) for sides in ((8, 8), (16, 16), (6, 10), (4, 16))] == [0, 0, 1, 0]
    shapes = jnp.zeros((1, 6, 12, 4)), jnp.zeros(1), {"text": jnp.zeros((1, 5, 12)), "pooled": jnp.zeros((1, 10))}
    with pytest.raises(ValueError, match=r"latents of 6 x 12, .* have more pixels than largest=\(8, 8\)"):
        jax.eval_shape(SMALL.init, jax.random.key(0), *shapes)
