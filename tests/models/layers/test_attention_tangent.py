"""The kernel of attention's tangent, emulated: against the einsum, in its memory, and in the losses that need it."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.attention import xla
from diffusion.models.layers.attention_tangent import tangent, with_tangent

fused = with_tangent(xla, interpret=True)


def arrays(queries, keys, width, dtype="float32", batch=1, heads=2):
    """q, k, v and a change of each."""
    rng = np.random.default_rng(0)
    shapes = [(batch, n, heads, width) for n in (queries, keys, keys)]
    draw = lambda: tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    return draw(), draw()


# Blocks have 64 queries, 32 keys and a power of two of features: the sizes are odd, short of a block, and beyond it.
@pytest.mark.extended
@pytest.mark.parametrize(
    ("queries", "keys", "width", "dtype", "within"),
    [
        (67, 77, 24, "float32", 1e-6),
        (64, 96, 24, "bfloat16", 1e-3),
        pytest.param(5, 7, 4, "float32", 1e-6, marks=pytest.mark.slow),
        pytest.param(130, 33, 72, "float32", 4e-6, marks=pytest.mark.slow),
        pytest.param(67, 77, 24, "bfloat16", 1e-3, marks=pytest.mark.slow),
        pytest.param(256, 256, 72, "bfloat16", 1e-3, marks=pytest.mark.slow),
    ],
)
def test_value_and_tangent_are_those_of_the_einsum(queries, keys, width, dtype, within):
    primals, tangents = arrays(queries, keys, width, dtype)
    in_32 = jax.tree.map(lambda a: a.astype(jnp.float32), (primals, tangents))
    expected = jax.jvp(xla, *in_32)
    found = jax.jvp(fused, primals, tangents)
    for a, b in zip(found, expected):
        assert a.dtype == dtype
        error = np.abs(a.astype(np.float32) - b)
        # Single outputs in bfloat16 are rounded by up to 2^-9 of their size, as the probabilities are.
        assert (error.max() if dtype == "float32" else np.sqrt(np.mean(error**2))) <= within


def shapes_in(jaxpr):
    """Of all arrays of a program, those of its loops and calls too; inside the kernel those of its blocks."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_in(getattr(inner, "jaxpr", inner))


def test_no_array_has_a_side_of_queries_and_one_of_keys():
    (q, k, v), changes = arrays(256, 320, 16)
    scores = lambda shape: 256 in shape and 320 in shape
    program = lambda f: list(shapes_in(jax.make_jaxpr(f)(q, k, v, q, *changes).jaxpr))
    assert not any(map(scores, program(lambda *a: tangent(*a, interpret=True))))
    assert any(map(scores, program(lambda q, k, v, out, *d: jax.jvp(xla, (q, k, v), d))))  # so the search can find one


def in_layers(attend):
    """Two layers of attention in a scan with `remat`, as networks have them, and one that x does not reach."""

    def network(scale, x, t):
        layer = jax.checkpoint(lambda h, s: (h + attend(s * h, h, jnp.sin(t + h)), None))
        h, _ = jax.lax.scan(layer, x, scale)
        fixed = jnp.ones_like(x) * scale[0]
        return h * attend(fixed, fixed, fixed).mean()

    return network


@pytest.mark.extended
def test_losses_with_a_fixed_tangent_have_the_gradient_of_the_einsum():
    """As in MeanFlow and sCM; reverse mode alone, as of a part of the network that x does not reach, works as well."""
    (x, _, v), (dx, _, _) = arrays(5, 5, 4)

    def loss(scale, network):
        value, change = jax.jvp(lambda x, t: network(scale, x, t), (x, 0.3), (dx, 1.0))
        return jnp.sum((value - jax.lax.stop_gradient(v - change)) ** 2)

    scale = jnp.asarray([0.7, 1.3])
    found, expected = (
        jax.jit(jax.value_and_grad(functools.partial(loss, network=in_layers(attend))))(scale)
        for attend in (fused, xla)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)


@pytest.mark.slow
def test_a_gradient_through_the_tangent_is_that_of_the_einsum():
    primals, tangents = arrays(5, 7, 4)
    loss = lambda attend: lambda p, d: jnp.sum(jax.jvp(attend, p, d)[1] ** 3)
    found, expected = (jax.jit(jax.grad(loss(attend), (0, 1)))(primals, tangents) for attend in (fused, xla))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


@pytest.mark.slow
def test_reverse_mode_alone_is_that_of_the_fused_attention():
    primals, _ = arrays(5, 7, 4)
    loss = lambda attend: lambda p: jnp.sum(attend(*p) ** 2)
    found, expected = (jax.grad(loss(attend))(primals) for attend in (fused, xla))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


SPLIT = """
import jax, numpy as np
from diffusion.models.layers import layout
from diffusion.training import sharding
from tests.models.layers.test_attention_tangent import arrays, tangent, xla

mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "sequence": 2, "tensor": 2})
(q, k, v), changes = arrays(5, 7, 4, batch=2, heads=4)
whole = lambda *a: tangent(*a, interpret=True)

def over(*a):
    with layout.over(mesh):
        return whole(*(layout.split(x, "batch", None, "attended heads", None) for x in a))

arguments = (q, k, v, xla(q, k, v), *changes)
program = jax.jit(over).lower(*arguments).compile()
assert "all-gather" not in program.as_text().split("ENTRY")[1], "a device computes what is not its own"
out = program(*arguments)
assert len(out.sharding.device_set) == 8 and out.addressable_shards[0].data.shape == (1, 5, 1, 4)
np.testing.assert_allclose(out, whole(*arguments), atol=1e-6)
"""


@pytest.mark.slow
def test_each_device_computes_its_own_examples_and_heads():
    root = pathlib.Path(__file__).parents[3]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", SPLIT], env=os.environ | flags, cwd=root, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
