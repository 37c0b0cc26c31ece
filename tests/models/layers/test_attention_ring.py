"""Ring attention beside the einsum: blocks that travel between simulated devices, and the compiled train step."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers import attention, attention_ring
from diffusion.models.layers.attention import mask_bias, xla

PARTS = 4


def arrays(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (2, 8, 3, 4), dtype) for key in keys]


def in_parts(q, k, v, bias, weight):
    """The ring over PARTS parts of the tokens, which a mapped axis holds in place of devices; and its cotangents."""
    parts = lambda x, axis: jnp.stack(jnp.split(x, PARTS, axis)) if x.shape[axis] > 1 else jnp.stack([x] * PARTS)
    joined = lambda x: jnp.concatenate(list(x), axis=1)

    def of_one(q, k, v, bias, weight):
        out, pull = jax.vjp(attention_ring._ring, q, k, v, bias)
        return out, pull(weight)

    rows = None if bias is None else parts(bias, 2)
    arguments = (parts(q, 1), parts(k, 1), parts(v, 1), rows, parts(weight, 1))
    out, (*found, d_rows) = jax.vmap(of_one, axis_name="sequence")(*arguments)
    if bias is not None:
        found.append(jnp.concatenate(list(d_rows), axis=2) if bias.shape[2] > 1 else d_rows.sum(0))
    return joined(out), [*map(joined, found[:3]), *found[3:]]


def by_einsum(q, k, v, bias, weight):
    """As `in_parts`, by the einsum of all tokens."""
    arguments = (q, k, v) if bias is None else (q, k, v, bias)
    out, pull = jax.vjp(xla, *arguments)
    return out, list(pull(weight))


BIASES = {
    "none": None,
    "keys, of one example none": mask_bias(jnp.arange(8)[None] < jnp.array([[5], [0]])),
    "learned": jax.random.normal(jax.random.key(5), (1, 3, 8, 8)),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", BIASES)
def test_value_and_gradients_are_those_of_the_einsum(name):
    q, k, v, weight = arrays()
    found, expected = (jax.jit(attend)(q, k, v, BIASES[name], weight) for attend in (in_parts, by_einsum))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)


@pytest.mark.extended
def test_bfloat16_is_as_near_to_float32_as_the_einsum():
    narrow = arrays(jnp.bfloat16)
    q, k, v, weight = (x.astype(jnp.float32) for x in narrow)
    truth = by_einsum(q, k, v, None, weight)
    error = lambda attend: jax.tree.map(
        lambda a, b: float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - b) ** 2))),
        jax.jit(attend)(*narrow[:3], None, narrow[3]), truth,
    )  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_array_less(a, 1.5 * b), error(in_parts), error(by_einsum))


def test_without_a_mesh_nothing_travels():
    q, k, v, _ = arrays()
    assert "ppermute" not in str(jax.make_jaxpr(attention.attention)(q, k, v))


SPLIT = """
import jax, jax.numpy as jnp, numpy as np
from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention, xla
from diffusion.models.layers.attention_splash import splash
from diffusion.training import sharding
from tests.models.layers.test_attention_ring import BIASES, arrays

mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "sequence": 4, "tensor": 1})
*primals, weight = arrays()

def loss(primals, bias):
    with layout.over(mesh):
        q, k, v = (layout.attended(x) for x in primals)
        return (weight * layout.attended(attention(q, k, v, bias=bias))).sum()

for name, bias in BIASES.items():
    program = jax.jit(jax.value_and_grad(loss)).lower(primals, bias).compile()
    text = program.as_text()
    assert "collective-permute" in text and "all-gather" not in text, name
    assert "f32[1,3,8,8]" not in text, "scores of all queries with all keys"
    value, found = program(primals, bias)
    expected_value, expected = jax.value_and_grad(lambda p: (weight * xla(*p, bias)).sum())(primals)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)

learned = BIASES["learned"]
found = jax.jit(jax.grad(loss, 1))(primals, learned)
np.testing.assert_allclose(found, jax.grad(lambda b: (weight * xla(*primals, b)).sum())(learned), atol=2e-6)
def forward(*a):
    with layout.over(mesh):
        return layout.attended(attention(*(layout.attended(x) for x in a), implementation="auto_jvp"))

for found, expected in zip(*(jax.jvp(f, primals, primals[::-1]) for f in (jax.jit(forward), xla))):
    np.testing.assert_allclose(found, expected, atol=5e-6)
one_column = jnp.array([0.5, 1.0]).reshape(2, 1, 1, 1)
np.testing.assert_allclose(jax.jit(loss)(primals, one_column), loss(primals, None), rtol=1e-5)

def refused(words, call, *a):
    try:
        jax.eval_shape(call, *a)
    except layout.MeshError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

def alone(*a):
    with layout.over(mesh):
        return attention(*a)

def by_heads(*a):
    with layout.over(mesh):
        return splash(*a, interpret=True)

uneven = "6 tokens do not divide evenly over 4 devices (mesh.sequence)"
refused(uneven, lambda p: loss([x[:, :6] for x in p], None), primals)
refused(uneven, alone, *(x[:, :6] for x in primals))
refused("1 batch do not divide evenly over 2 devices (mesh.data)", alone, *(x[:1] for x in primals))
refused("3 attended heads do not divide evenly over 4 devices (mesh.sequence)", by_heads, *primals)
"""


@pytest.mark.slow
def test_keys_travel_between_devices_and_no_scores_of_all_tokens_exist():
    root = pathlib.Path(__file__).parents[3]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", SPLIT], env=os.environ | flags, cwd=root, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
