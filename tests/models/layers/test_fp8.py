"""Products in fp8 against a restatement in NumPy; where they are used, and where they are refused."""

import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from diffusion.models.layers import fp8
from diffusion.models.layers.products import rows_first
from diffusion.published.flux.network import Flux
from diffusion.published.stable_diffusion_3.network import MMDiT

TOKENS = (((2,), (0,)), ((), ()))


def rounded(a, dtype):
    """(what fp8 makes of a, as float64; its scale), by ml_dtypes' own rounding."""
    scale = np.float32(np.abs(a).max()) / np.float32(ml_dtypes.finfo(dtype).max)
    return (a.astype(np.float32) / scale).astype(dtype).astype(np.float64), scale


def numbers(*shape, seed=0, spread=4.0):
    """Of many sizes, so that some fall below the least number of the type."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.exp(spread * rng.normal(size=shape))).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_an_array_is_rounded_as_numpy_rounds_it(dtype):
    a = numbers(30, 40)
    q, scale = jax.jit(fp8.quantised, static_argnums=1)(a, dtype)
    expected, expected_scale = rounded(a, dtype)
    assert q.dtype == dtype and scale == expected_scale
    np.testing.assert_array_equal(np.asarray(q).astype(np.float64), expected)
    assert np.any(expected == 0) and np.abs(expected).max() == float(jnp.finfo(dtype).max)


def test_a_product_and_its_derivatives_are_those_of_the_rounded_arrays():
    x = numbers(3, 5, 8)
    kernel = numbers(8, 2, 3, seed=1)
    g = numbers(3, 5, 2, 3, seed=2)

    @jax.jit
    def both(x, kernel, g):
        with fp8.in_fp8() as noted:
            out, back = jax.vjp(lambda x, kernel: rows_first(x, kernel, TOKENS), x, kernel)
        assert noted == [(8, 2, 3)]
        return out, *back(g)

    (qx, sx), (qk, sk), (qg, sg) = (
        rounded(x, ml_dtypes.float8_e4m3fn), rounded(kernel, ml_dtypes.float8_e4m3fn), rounded(g, ml_dtypes.float8_e5m2)
    )  # fmt: skip
    expected = (
        np.einsum("bnk,kfg->bnfg", qx, qk) * sx * sk,
        np.einsum("bnfg,kfg->bnk", qg, qk) * sg * sk,
        np.einsum("bnk,bnfg->kfg", qx, qg) * sx * sg,
    )
    for a, b in zip(both(x, kernel, g), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())
    assert np.abs(expected[0] - np.einsum("bnk,kfg->bnfg", x, kernel)).max() > 1e-3 * np.abs(expected[0]).max()


@pytest.mark.extended
def test_zeros_stay_zeros_and_what_is_not_finite_shows():
    kernel = jnp.ones((4, 2))
    assert not fp8.product(jnp.zeros((3, 4)), kernel, 1).any()
    for bad in (jnp.inf, jnp.nan):
        out = fp8.product(jnp.ones((3, 4)).at[1, 2].set(bad), kernel, 1)
        assert not jnp.isfinite(out[1]).any()


def test_products_of_examples_and_those_outside_stay_as_they_are():
    kernel = jnp.asarray(numbers(8, 3))
    c = jnp.asarray(numbers(5, 8))
    plain = rows_first(c, kernel, (((1,), (0,)), ((), ())))
    with fp8.in_fp8() as noted:
        np.testing.assert_array_equal(rows_first(c, kernel, (((1,), (0,)), ((), ()))), plain)
    assert noted == []
    np.testing.assert_array_equal(rows_first(c[None], kernel, TOKENS)[0], plain)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("network", "alone"),
    [
        (MMDiT(width=32, depth=2, heads=2, text_width=24, pooled_width=12, positions=8), set()),
        # Layers of one stream have attention and MLP in two products: 3 + 4 parts in, 1 + 4 out.
        (Flux(width=32, depth=1, singles=1, heads=2, text_width=24, pooled_width=12, axes=(4, 6, 6)),
         {(32, 7 * 32), (5, 2, 16, 32)}),
    ],
    ids=["mmdit", "flux"],
)  # fmt: skip
def test_the_joint_layers_of_picture_and_text_have_theirs_in_fp8(network, alone):
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    inputs = struct(2, 8, 8, 16), struct(2), {"text": struct(2, 5, 24), "pooled": struct(2, 12)}
    with fp8.in_fp8() as noted:
        params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    joint = {(32, 3 * 32), (2, 16, 32), (32, 128), (128, 32)}  # queries, keys and values; attention's end; the MLP
    assert set(noted) == joint | alone
    for stream in ("image", "text"):  # both have them, as parameters of their own
        assert params["params"]["blocks"][stream]["attention"]["qkv"]["kernel"].shape == (1, 32, 3, 2, 16)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ({"platform": "cpu", "device_kind": "cpu"}, ""),
        ({"platform": "gpu", "device_kind": "H100", "compute_capability": "9.0"}, ""),
        ({"platform": "gpu", "device_kind": "L40S", "compute_capability": "8.9"}, ""),
        ({"platform": "gpu", "device_kind": "A100", "compute_capability": "8.0"}, "A100 has compute capability 8.0, "),
        ({"platform": "tpu", "device_kind": "TPU v5"}, "TPU v5 has no products in fp8"),
    ],
)
def test_a_device_without_fp8_is_refused_in_words(device, words):
    said = fp8.refusal(types.SimpleNamespace(**device))
    assert said.startswith(words) and bool(said) == bool(words)


def test_values_at_the_ends_of_a_type_give_finite_products():
    kernel = jnp.ones((4, 2))
    tiny = jnp.asarray([[1e-37, 0, 0, 0]])  # its scale by the largest value is below the least normal number
    assert jnp.abs(fp8.product(tiny, kernel, 1)).max() <= 1e-37
    ones = fp8.product(jnp.ones((1, 4), jnp.float16), kernel.astype(jnp.float16), 1)  # 4 x 448^2 before the scale
    assert ones.dtype == jnp.float16
    np.testing.assert_allclose(ones, 4, rtol=1e-3)
