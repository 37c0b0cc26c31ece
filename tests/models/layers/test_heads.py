"""The projection into heads: flax's dense layer by parameters and values, one product a part on a GPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.heads import Heads

X = jax.random.normal(jax.random.key(1), (2, 5, 12))
LAYER = Heads(3, 4, "float32")
PARAMS = jax.tree.map(
    lambda leaf: leaf + jax.random.normal(jax.random.key(2), leaf.shape), LAYER.init(jax.random.key(0), X)
)
FLAX = nn.DenseGeneral((3, 3, 4), kernel_init=nn.initializers.xavier_uniform())


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


def test_initial_parameters_are_those_of_a_dense_layer(backend):
    jax.tree.map(np.testing.assert_array_equal, LAYER.init(jax.random.key(0), X), FLAX.init(jax.random.key(0), X))


@pytest.mark.extended
def test_parts_and_gradients_are_those_of_a_dense_layer(backend):
    weights = jax.random.normal(jax.random.key(3), (2, 5, 3, 3, 4))
    ours = lambda params: (jnp.stack(LAYER.apply(params, X), axis=2) * weights).sum()
    theirs = lambda params: (FLAX.apply(params, X) * weights).sum()
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, jax.value_and_grad(ours)(PARAMS), jax.value_and_grad(theirs)(PARAMS))


def test_a_gpu_has_a_product_for_each_part(backend):
    text = str(jax.make_jaxpr(LAYER.apply)(PARAMS, X))
    assert text.count("dot_general") == {"cpu": 1, "gpu": 3}[backend]
    assert text.count("name=kept") == {"cpu": 0, "gpu": 3}[backend]


def test_what_stands_beside_them_has_its_size_and_a_layer_may_have_no_bias(backend):
    layer = Heads(3, 4, "bfloat16", bias=False, beside=2)
    parts, params = layer.init_with_output(jax.random.key(0), X)
    assert [part.shape for part in parts] == [(2, 5, 3, 4)] * 3 + [(2, 5, 2, 3, 4)]
    assert {part.dtype for part in parts} == {jnp.dtype("bfloat16")}
    assert jax.tree.map(jnp.shape, params) == {"params": {"kernel": (12, 5, 3, 4)}}
