"""Stacks of layers as one scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers.scan import scanned

TRACED = []


class Layer(nn.Module):
    """A layer that notes each time it is traced."""

    @nn.compact
    def __call__(self, h, shared, own):
        TRACED.append(self.name)
        return jnp.tanh(nn.Dense(h.shape[-1])(h) + shared + own), None


class Stack(nn.Module):
    check: bool = False

    @nn.compact
    def __call__(self, h):
        layers = scanned(Layer, 3, "none", self.check or self.is_initializing(), (nn.broadcast, 0))
        return layers(name="layers")(h, h.sum(), jnp.arange(3.0))[0]


def test_an_application_is_not_traced_for_a_check_and_is_the_same_program():
    h = jnp.ones((2, 4))
    params = Stack().init(jax.random.key(0), h)
    texts, counts = [], []
    for check in (False, True):
        TRACED.clear()
        texts.append(jax.jit(Stack(check).apply).lower(params, h).as_text())
        counts.append(len(TRACED))
    assert texts[0] == texts[1]
    assert counts[1] == counts[0] + 1
