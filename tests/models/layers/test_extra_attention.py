"""Attention to image prompts, and what attention shows and takes: exact small cases."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers import attention_records, extra_attention
from diffusion.models.layers.attention_records import MAPS, STATES
from diffusion.models.layers.blocks import Attention
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.models.layers.scan import scanned

HEADS, SIZE, TOKENS = 2, 3, 4
WIDTH = HEADS * SIZE


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_image_prompts_add_up_and_a_weight_acts_at_its_queries():
    """A softmax over one key is one: an image prompt of one token adds its value, times the weight, to every query."""
    out = drawn(0, 2, TOKENS, HEADS, SIZE)
    q = drawn(1, 2, TOKENS, HEADS, SIZE)
    first, second = drawn(2, 2, 1, WIDTH), drawn(3, 2, 1, WIDTH)
    mask = np.array([[1, 0, 0.5, 0], [0, 1, 1, 0]], np.float32)
    found = extra_attention.added(out, q, ((first, first), (first, second, mask)), "matmul")
    value = lambda a: a.reshape(2, 1, HEADS, SIZE)
    np.testing.assert_allclose(found, out + value(first) + mask[:, :, None, None] * value(second), rtol=1e-6)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "the condition's 'extra' must be a tuple of image prompts"),
        (((),), "image prompt 0: this network has 2 layers that attend to image prompts; got 0"),
        ((((np.zeros((1, 3, 4)),) * 2, (np.zeros((1, 3, 5)),) * 2),), r"prompt 0, layer 1: .*\(1, K, 4\)"),
        ((((np.zeros((1, 3, 4)), np.zeros((1, 2, 4))),) * 2,), "prompt 0, layer 0"),
        ((((np.zeros((1, 3, 4)), np.zeros((1, 3, 4)), np.zeros((1, 5))),) * 2,), r"\[B, N\] = \(1, 6\)"),
    ],
)
def test_image_prompts_of_another_network_are_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        extra_attention.check(extra, 1, (ExtraLayer(4, 2, 3),) * 2)


@pytest.mark.extended
def test_maps_are_shown_to_who_asks_and_leave_no_trace_otherwise():
    """The maps, applied to the values, are the output; without a request the program does not have them."""
    layer = CrossAttention(HEADS, SIZE)
    x = drawn(0, 2, TOKENS, WIDTH)
    text = drawn(1, 2, 5, 7)
    params = layer.init(jax.random.key(0), x, text)["params"]
    out, seen = layer.apply({"params": params}, x, text, mutable=[MAPS])
    (maps,) = attention_records.records(seen)
    values = jnp.einsum("bme,ehd->bmhd", text, params["value"]["kernel"])
    expected = jnp.einsum("bhnm,bmhd,hdo->bno", maps, values, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-6)
    text_of = lambda f: jax.jit(f).lower(params, x, text).as_text()
    plain = text_of(lambda p, *a: layer.apply({"params": p}, *a))
    ignored = text_of(lambda p, *a: layer.apply({"params": p}, *a, mutable=["other"])[0])
    assert plain == ignored and plain.count("exponential") == 1


class Layer(nn.Module):
    """One layer of `Stack`."""

    @nn.compact
    def __call__(self, x):
        return x + CrossAttention(HEADS, SIZE, name="attention")(x), None


class Stack(nn.Module):
    """Two layers of self-attention in a scan."""

    @nn.compact
    def __call__(self, x):
        return scanned(Layer, 2, "none", self.is_initializing(), ())(name="blocks")(x)[0]


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["separate", "fused"])
def test_the_states_of_a_reference_are_keys_and_values_beside_ones_own(kind):
    x = drawn(0, 1, TOKENS, WIDTH)
    other = drawn(1, 1, TOKENS, WIDTH)
    layer = CrossAttention(HEADS, SIZE) if kind == "separate" else Attention(HEADS, False, "matmul", "float32")
    rest = () if kind == "separate" else (None, {})
    params = layer.init(jax.random.key(0), x, *rest)["params"]
    assert set(layer.init(jax.random.key(0), x, *rest)) == {"params"}
    _, states = layer.apply({"params": params}, other, *rest, mutable=[STATES])
    found = layer.apply({"params": params, **states}, x, *rest)
    both = np.concatenate([x, other], axis=1)
    whole = layer.apply({"params": params}, both, *rest)[:, :TOKENS]  # of the tokens of both, the queries of x alone
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert np.abs(found - layer.apply({"params": params}, x, *rest)).max() > 1e-3


@pytest.mark.extended
def test_a_scan_shows_and_takes_the_states_of_each_layer():
    x = drawn(0, 1, TOKENS, WIDTH)
    params = Stack().init(jax.random.key(0), x)["params"]
    out, states = Stack().apply({"params": params}, x, mutable=[STATES])
    (leaf,) = jax.tree.leaves(states)
    assert leaf.shape == (2, 1, TOKENS, WIDTH)
    # A softmax over every token twice is that over each once.
    np.testing.assert_allclose(Stack().apply({"params": params, **states}, x), out, atol=1e-6)
