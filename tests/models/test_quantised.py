"""Kernels in 8 bits: exact where they can be, within half a step elsewhere, and read by layers as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.dit import DiT
from diffusion.models.layers.magnitude import MPConv
from diffusion.models.quantised import Quantised, quantised, stored
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.network import MMDiT

RNG = np.random.default_rng(0)
LAYER = {"kernel": RNG.standard_normal((2, 6, 3, 5)).astype(np.float32), "bias": np.zeros((2, 3, 5), np.float32)}
STACK = {"blocks": {"qkv": LAYER, "out": {"kernel": np.ones((2, 3, 5, 6)), "bias": np.zeros((2, 6))}}}


@pytest.mark.extended
@pytest.mark.parametrize("kind, share", [("int8", 0.5 / 127), ("fp8", 2**-4)])
def test_the_error_of_a_value_is_half_a_step_of_its_channel(kind, share):
    """int8: half of max / 127 in each channel; e4m3 has three bits of mantissa: 2^-4 of the value itself."""
    node = quantised(STACK, kind)["blocks"]["qkv"]["kernel"]
    kernel = LAYER["kernel"]
    error = np.abs(np.asarray(jnp.asarray(node)) - kernel)
    top = np.abs(kernel).max(axis=1, keepdims=True)
    assert node.scale.shape == (2, 1, 3, 5) and node.values.dtype.itemsize == 1
    bound = share * top if kind == "int8" else share * np.abs(kernel) + top * 2**-17
    assert (error <= bound * (1 + 1e-5)).all() and error.max() > 0.5 * share * top.min()
    found = stored(STACK, quantised(STACK, kind))
    assert found.largest == pytest.approx(float((error / top).max()), rel=1e-4)
    assert found.kernels == 2


@pytest.mark.extended
def test_a_kernel_of_powers_of_two_is_exact():
    powers = np.exp2(RNG.integers(-3, 4, (7, 4))).astype(np.float32) * RNG.choice([-1, 1], (7, 4))
    of = lambda kernel, kind: np.asarray(jnp.asarray(quantised({"d": {"kernel": kernel}}, kind)["d"]["kernel"]))
    np.testing.assert_array_equal(of(powers * np.float32([1, 2**-9, 64, 2**20]), "fp8"), powers * [1, 2**-9, 64, 2**20])
    small = np.float32([[256], [2**-9], [1.5 * 2**-9], [2**-12]])  # its scale is 1, whose smallest number is 2^-9
    np.testing.assert_array_equal(of(small, "fp8"), [[256], [2**-9], [2**-8], [0]])
    whole = np.concatenate([RNG.integers(-126, 127, (6, 4)), [[127, -127, 127, 127]]]).astype(np.float32)
    whole *= np.float32([1, 0.5, 4, 2**-10])
    np.testing.assert_array_equal(of(whole, "int8"), whole)  # multiples of a power of two, up to 127 of them
    np.testing.assert_array_equal(of(np.zeros((3, 2), np.float32), "int8"), 0)


def _made(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape) / 4, jnp.float32), shapes)


X, T = jnp.asarray(RNG.standard_normal((2, 4, 4, 4)), jnp.float32), jnp.array([0.3, 0.6])
TEXT = {"text": jnp.ones((2, 3, 6)), "pooled": jnp.ones((2, 5))}
NETWORKS = {
    "dit": (DiT(2, 16, 3, 2, 3), (X, T, jnp.array([1, 2])), 7),
    "mmdit": (MMDiT(4, 4, 2, 16, 3, 2, 6, 5, 4, 4), (X, T, TEXT), 24),
    "conditional_unet": (
        ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4),
        (X, T, {"text": TEXT["text"]}),
        None,
    ),
}


@pytest.mark.extended
@pytest.mark.parametrize(
    "name, kind",
    [
        ("dit", "int8"),
        pytest.param("dit", "fp8", marks=pytest.mark.slow),
        pytest.param("mmdit", "int8", marks=pytest.mark.slow),
        pytest.param("conditional_unet", "int8", marks=pytest.mark.slow),
    ],
)
def test_a_network_reads_quantised_kernels_as_the_arrays_that_they_stand_for(name, kind):
    module, inputs, _ = NETWORKS[name]
    params = _made(module, *inputs)
    few = quantised(params, kind)
    whole = jax.tree.map(jnp.asarray, few, is_leaf=lambda node: isinstance(node, Quantised))
    apply = jax.jit(lambda params: module.apply({"params": params}, *inputs))
    np.testing.assert_allclose(apply(few), apply(whole), rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    kernels = [node for node in jax.tree.leaves(few, is_leaf=lambda node: isinstance(node, Quantised))]
    biases = [node for node in kernels if not isinstance(node, Quantised)]
    assert all(leaf.dtype == jnp.float32 for leaf in biases)
    found = stored(params, few)
    assert found.after < found.before and 0 < found.error < (0.01 if kind == "int8" else 0.04)
    if name == "dit":
        blocks = few["blocks"]
        assert blocks["attention"]["out"]["kernel"].scale.shape == (3, 1, 1, 16)
        assert blocks["attention"]["qkv"]["kernel"].scale.shape == (3, 1, 3, 2, 8)
        assert few["timestep_embedding"]["hidden"]["kernel"].scale.shape == (1, 16)


def test_heads_without_a_bias_have_a_scale_for_each_output():
    """[D, 3, heads, size] sums over D; a convolution [3, 3, D, D'] over all but its last axis."""
    tree = lambda shape: {"a": {"kernel": jnp.ones(shape)}, "norm": {"scale": jnp.ones(7)}}
    scale = lambda *shape: quantised(tree(shape), "int8")["a"]["kernel"].scale.shape
    assert scale(16, 3, 2, 4) == (1, 3, 2, 4)
    assert scale(3, 3, 8, 4) == (1, 1, 1, 4)


def test_a_layer_of_edm2_normalises_a_quantised_kernel():
    params = quantised({"kernel": RNG.standard_normal((6, 5)).astype(np.float32)}, "int8")
    kernel = np.asarray(params["kernel"].values, np.float64) * np.asarray(params["kernel"].scale)
    x = RNG.standard_normal((3, 6))
    expected = x @ (kernel / np.linalg.norm(kernel, axis=0))
    found = MPConv(5).apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match=r"'int4'.*int8, fp8"):
        quantised(STACK, "int4")
    with pytest.raises(ValueError, match="no kernel"):
        quantised({"w": jnp.ones((2, 2))}, "int8")
