"""The formula of kept bytes against what JAX's linearisation of the network keeps."""

import math

import jax
import jax.numpy as jnp
import pytest

from diffusion.models.budget.activation_memory import kept_bytes, layer_bytes
from diffusion.models.dit import DiT

SHAPE, BATCH, DEPTH = (16, 16, 4), 5, 3
OPTIONS = [
    {"dtype": "bfloat16"},
    {"dtype": "float32"},
    {"dtype": "bfloat16", "attention": "matmul"},
    {"dtype": "float32", "attention": "matmul", "mlp": "swiglu"},
    {"dtype": "bfloat16", "qk_norm": True, "positions": "rope", "norm": "rmsnorm", "mlp": "swiglu"},
    {"dtype": "bfloat16", "norm": "scaled_rmsnorm", "mlp": "swiglu", "positions": "sincos_rope"},
    {"dtype": "float32", "norm": "scaled_layernorm"},
    {"dtype": "bfloat16", "remat": "narrow", "norm": "scaled_rmsnorm"},
    {"dtype": "bfloat16", "remat": "dots"},
    {"dtype": "float32", "remat": "dots", "mlp": "swiglu", "attention": "matmul"},
    {"dtype": "bfloat16", "remat": "narrow"},
    {"dtype": "bfloat16", "remat": "full"},
    {"dtype": "bfloat16", "remat": "elementwise"},
    {"dtype": "float32", "remat": "elementwise", "mlp": "swiglu", "attention": "matmul"},
    {"dtype": "bfloat16", "remat": "elementwise", "attention": "matmul"},
]


@pytest.mark.extended
@pytest.mark.parametrize("fields", OPTIONS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_formula_equals_what_jax_keeps(fields, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # on CPU, means are matrix products, which "dots" keeps
    fields = {"attention": "xla", "mlp_ratio": 3.0, **fields}
    model = DiT(patch=2, width=96, depth=DEPTH, heads=4, num_classes=10, **fields)
    struct = jax.ShapeDtypeStruct
    inputs = (struct((BATCH, *SHAPE), jnp.float32), struct((BATCH,), jnp.float32), struct((BATCH,), jnp.int32))
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    backward = jax.eval_shape(lambda p, *of: jax.vjp(lambda p: model.apply(p, *of), p)[1], params, *inputs)
    size = lambda leaves: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) / BATCH
    leaves = jax.tree.leaves(backward)  # the arrays that the backward pass receives
    rows = BATCH * (SHAPE[0] // model.patch) * (SHAPE[1] // model.patch)  # dense layers join examples and tokens
    of_layers = size(leaf for leaf in leaves if leaf.shape[:1] == (DEPTH,) and leaf.shape[1] in (BATCH, rows))
    of_rest = size(leaf for leaf in leaves if leaf.shape[:1] in ((BATCH,), (rows,)))
    assert DEPTH * layer_bytes(model, SHAPE, model.attention, model.remat) == of_layers
    ours = kept_bytes(model, SHAPE, model.attention) - of_layers
    assert ours == pytest.approx(of_rest, rel=0.1)  # a few constants aside


def test_known_answer():
    # By hand: "full" keeps one [N, D] a layer, here 256 x 1152 bfloat16 in 28 layers.
    model = DiT(patch=2, width=1152, depth=28, heads=16, num_classes=1000, remat="full", dtype="bfloat16")
    one_layer = 256 * 1152 * 2
    assert layer_bytes(model, (32, 32, 4), "xla", "full") == one_layer
    assert layer_bytes(model, (32, 32, 4), "xla", "full", sequence=4, tensor=2) == one_layer / 4
    assert 28 * one_layer < kept_bytes(model, (32, 32, 4), "xla") < 34 * one_layer
    # and cuDNN's kernel never holds the scores: 16 heads x 256 x 256, in bfloat16 and float32.
    spared = layer_bytes(model, (32, 32, 4), "xla", "none") - layer_bytes(model, (32, 32, 4), "cudnn", "none")
    assert spared == 16 * 256 * 256 * 6 + 16 * 256 * 4
