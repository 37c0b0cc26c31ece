"""Products in bfloat16: exact for small whole numbers, rounded once, with all derivatives, whatever lies transposed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.layers import bfloat16_products
from diffusion.models.layers.products import rows_first

M, K, N = 3, 4, 5


def whole(rng, *shape):
    """Whole numbers whose products and sums here bfloat16 holds exactly: at most 48 of its 256."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def short(a):
    return jnp.asarray(a, jnp.bfloat16)


@pytest.mark.extended
@pytest.mark.parametrize(("a", "b"), itertools.product((0, 1), (0, 1)))
def test_it_is_the_product_with_its_derivatives(a, b):
    rng = np.random.default_rng(0)
    x, dx = (whole(rng, *((K, M) if a == 0 else (M, K))) for _ in range(2))
    w, dw = (whole(rng, *((K, N) if b == 0 else (N, K))) for _ in range(2))
    g = whole(rng, M, N)
    rows = lambda x: x if a == 1 else x.T
    columns = lambda w: w if b == 0 else w.T
    product = lambda x, w: bfloat16_products.product(x, w, a, b)
    out, tangent = jax.jvp(product, (short(x), short(w)), (short(dx), short(dw)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, rows(x) @ columns(w))
    np.testing.assert_array_equal(tangent, rows(dx) @ columns(w) + rows(x) @ columns(dw))
    for vjp in (lambda g: jax.vjp(product, short(x), short(w))[1](g), jax.jit(lambda g: _vjp(product, x, w, g))):
        to_x, to_w = vjp(short(g))
        np.testing.assert_array_equal(to_x, rows(g @ columns(w).T))
        np.testing.assert_array_equal(to_w, columns(rows(x).T @ g))


def _vjp(product, x, w, g):
    return jax.vjp(product, short(x), short(w))[1](g)


def test_it_sums_in_float32_and_rounds_once():
    """1 + 1/256 + 1/256 is 1.0078125 in bfloat16; a sum that is rounded on the way stays 1."""
    x = short([[1, 1 / 256, 1 / 256]])
    for run in (bfloat16_products.product, jax.jit(bfloat16_products.product)):
        np.testing.assert_array_equal(run(x, short(np.ones((3, 1)))), [[1.0078125]])


def test_several_at_once_are_each_its_own_product():
    rng = np.random.default_rng(0)
    x, w = whole(rng, 2, M, K), whole(rng, 2, K, N)
    found = jax.vmap(bfloat16_products.product)(short(x), short(w))
    np.testing.assert_array_equal(found, x @ w)
    found = jax.vmap(jax.grad(lambda w, x: bfloat16_products.product(x, w).sum()), (None, 0))(short(w[0]), short(x))
    np.testing.assert_array_equal(found, np.broadcast_to(x.sum(1)[..., None], (2, K, N)))


def test_dense_layers_take_it_on_a_cpu_and_count_its_operations():
    x, w = short(np.ones((2, M, K))), short(np.ones((K, N)))
    dense = lambda x, w: rows_first(x, w, (((2,), (0,)), ((), ())))
    assert "dot_general_bfloat16" in str(jax.make_jaxpr(dense)(x, w))
    assert "dot_general_bfloat16" not in str(jax.make_jaxpr(dense)(x.astype(jnp.float32), w.astype(jnp.float32)))
    assert counted_flops(dense, x, w) == 2 * 2 * M * K * N


def test_other_devices_get_the_plain_product():
    x, w = short(np.ones((M, K))), short(np.ones((K, N)))
    lowered = jax.jit(bfloat16_products.product).trace(x, w).lower(lowering_platforms=("tpu",)).as_text()
    assert "tensor<3x5xbf16>" in lowered and "f32" not in lowered


def test_where_shard_map_tracks_what_varies_the_product_is_the_plain_one():
    """The kernel's gradient is summed over the devices by JAX itself, which has to know that x varies."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec

    def gradient(w, x):
        product = lambda w: rows_first(x, w, (((1,), (0,)), ((), ()))).sum()
        return jax.grad(product)(w)

    traced = jax.make_jaxpr(jax.shard_map(gradient, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec()))(
        short(np.ones((K, N))), short(np.ones((M, K)))
    )
    assert "psum" in str(traced) and bfloat16_products.NAME not in str(traced)
