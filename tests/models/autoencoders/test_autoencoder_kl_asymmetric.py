"""The asymmetric autoencoder: what its decoder does with a kept part of a picture, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models import facts, interchange
from diffusion.models.autoencoders.autoencoder_kl_asymmetric import (
    AsymmetricAutoencoderKL,
    ConditionEncoder,
    condition_widths,
)
from diffusion.models.interchange.family import Refusal
from tests.models.interchange import published
from tests.models.interchange.test_families import CALLS

SMALL = AsymmetricAutoencoderKL(widths=(4,) * 4, layers=1, decoder_widths=(4,) * 4, decoder_layers=1, groups=2)
CASE = "autoencoder_kl_asymmetric_equal"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return interchange.load(published.case(CASE).folder(tmp_path_factory.mktemp("folder")))


@pytest.mark.extended
def test_the_outputs_are_diffusers_with_and_without_a_kept_part(loaded):
    module, params = loaded
    case = published.case(CASE)
    network = lambda params: lambda *arguments, **named: module.apply({"params": params}, *arguments, **named)
    outputs = jax.jit(lambda params, inputs: CALLS[CASE].outputs(network(params), inputs))(params, case.inputs)
    for name in ("mean", "log_variance", "decoded", "painted"):
        expected = case.outputs[name]
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def convolved(x, kernel, bias, stride):
    """[H, W, C] by a kernel [k, k, C, D] over x with a border of one zero, number by number."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    side = kernel.shape[0]
    rows, columns = ((n - side) // stride + 1 for n in x.shape[:2])
    parts = [
        [x[i * stride : i * stride + side, j * stride : j * stride + side] for j in range(columns)] for i in range(rows)
    ]
    return np.einsum("hwijc,ijcd->hwd", np.array(parts), kernel) + bias


def test_the_features_of_a_kept_picture_are_two_of_its_side_and_three_of_halved_ones():
    """Before the activation, which stands between the layers alone."""
    module = ConditionEncoder((2, 4, 5, 5, 5), "float32")
    x = np.random.default_rng(0).normal(size=(1, 8, 16, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    features: Any = module.apply({"params": params}, x)
    assert [feature.shape[1:] for feature in features] == [(8, 16, 2), (8, 16, 4), (4, 8, 5), (2, 4, 5), (1, 2, 5)]
    expected = np.asarray(x[0], np.float64)
    for i, feature in enumerate(features):
        layer = params[f"conv_{i}"]
        assert layer["kernel"].shape[0] == (3 if i < 2 else 4)
        expected = convolved(np.maximum(expected, 0) if i else expected, layer["kernel"], layer["bias"], 1 + (i > 1))
        np.testing.assert_allclose(feature[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("widths, channels", [
    ((192, 384, 768, 768), (192, 384, 768, 768, 768)),  # x 1.5
    ((256, 512, 1024, 1024), (256, 512, 1024, 1024, 1024)),  # x 2
    ((8, 8), (8, 8, 8, 8, 8)),
    ((128, 128, 512), (128, 256, 512, 512, 512)),
])  # fmt: skip
def test_the_channels_of_the_features_double_up_to_the_decoders_last(widths, channels):
    """As the shapes of the published files have them."""
    assert condition_widths(widths) == channels
    module = SMALL.clone(widths=(8,), decoder_widths=widths, groups=8)
    assert facts.sees_kept(module) == (channels[:4] == widths)
    assert not facts.sees_kept(object())


@pytest.mark.extended
def test_a_picture_that_is_painted_everywhere_or_nowhere(loaded):
    """With a mask of ones the decoder is the plain one; with zeros the latents do not matter."""
    module, params = loaded
    case = published.case(CASE)
    z, picture = (jnp.asarray(case.inputs[name]) for name in ("z", "picture"))
    decode = jax.jit(lambda params, *arguments: module.apply({"params": params}, *arguments, method="decode"))
    half = (jnp.arange(24) >= 8)[:, None] & jnp.ones((1, 16, 1, 1), bool)  # of two columns of latents in three
    everywhere, nowhere = jnp.ones_like(half), jnp.zeros_like(half)
    np.testing.assert_allclose(decode(params, z, picture, everywhere), case.outputs["decoded"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(decode(params, z, picture, nowhere), decode(params, 2 * z, picture, nowhere))
    one = decode(params, z, picture[:1], half)
    both = decode(params, z, jnp.concatenate([picture[:1]] * 2), jnp.concatenate([half] * 2))
    np.testing.assert_allclose(one, both, rtol=0, atol=1e-5)  # one picture for all latents
    hidden = jnp.where(half, 9.0, picture[:1])
    np.testing.assert_array_equal(decode(params, z, hidden, half), one)


def call(module, *arguments, method="decode"):
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), *arguments, method=method)[0])


@pytest.mark.parametrize("module, shapes, message", [
    (SMALL, [(2, 1, 2, 3)], r"decodes latents \[B, h, w, 4\]; got an array of shape \(2, 1, 2, 3\)"),
    (SMALL, [(2, 1, 2, 4), (2, 8, 16, 3), None], "only by a picture and its mask; name both or neither"),
    (SMALL, [(2, 1, 2, 4), None, (2, 8, 16, 1)], "only by a picture and its mask; name both or neither"),
    (SMALL, [(2, 1, 2, 4), (2, 8, 8, 3), (2, 8, 16, 1)], r"the picture of latents .* \(2 or 1, 8, 16, 3\); got"),
    (SMALL, [(2, 1, 2, 4), (3, 8, 16, 3), (2, 8, 16, 1)], r"the picture .*; got \(3, 8, 16, 3\)"),
    (SMALL, [(2, 1, 2, 4), (2, 8, 16, 3), (2, 1, 2, 1)], r"the mask of latents .* \(2 or 1, 8, 16, 1\); got"),
    (SMALL, [(2, 1, 2, 4), (2, 8, 16, 3), (2, 8, 16, 3)], r"the mask .*; got \(2, 8, 16, 3\)"),
    (SMALL.clone(decoder_widths=(4, 4)), [(2, 4, 8, 4), (2, 8, 16, 3), (2, 8, 16, 1)],
     r"decoder_widths=\(4, 4\): a kept part needs 4 levels .*such as \(4, 4, 4, 4\); leave the picture out"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(module, shapes, message):
    with pytest.raises(ValueError, match=message):
        call(module, *(None if shape is None else jnp.zeros(shape) for shape in shapes))


def test_sizes_and_pictures_that_do_not_fit():
    larger = SMALL.clone(widths=(4, 4), decoder_widths=(4, 4, 4))
    assert (SMALL.factor, larger.factor, larger.decoded_factor) == (8, 2, 4)
    with pytest.raises(ValueError, match="2 does not divide 6 x 5; the nearest valid size is 6 x 4"):
        call(larger, jnp.zeros((1, 6, 5, 3)), method="encode")
    with pytest.raises(ValueError, match=r"groups=2 does not divide the width 3 of widths=\(3,\)"):
        SMALL.clone(decoder_widths=(3,))
    with pytest.raises(ValueError, match=r"groups=2 does not divide the width 5 of widths=\(5,\)"):
        SMALL.clone(widths=(5,))


@pytest.mark.parametrize("changes, message", [
    ({"out_channels": 4}, r"out_channels = 4 is not supported; supported: 3\."),
    ({"act_fn": "gelu"}, r"act_fn = 'gelu' is not supported; supported: 'silu'\."),
    ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types = .* is not supported"),
    ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types = .* is not supported"),
    ({"block_out_channels": [8] * 4}, "block_out_channels = .* is not supported"),
    ({"layers_per_up_block": -1}, "layers_per_up_block"),
    ({"use_quant_conv": True}, "the config sets use_quant_conv = True, which this version does not know"),
])  # fmt: skip
def test_other_configs_are_refused(changes, message):
    family = interchange.FAMILIES["AsymmetricAutoencoderKL"]
    config = {**family.published["x 1.5"]}
    with pytest.raises(Refusal, match=message):
        family.build(config | changes)
    named = {"block_out_channels": [192, 384, 768, 768], "force_upcast": False, "sample_size": 256}
    assert (
        family.build(config | named) == AsymmetricAutoencoderKL() == family.build(family.describe(family.build(config)))
    )
    with pytest.raises(Refusal, match="one scaling_factor and no shift here"):
        family.describe(SMALL.clone(shift=0.5))


def test_a_file_alone_is_of_the_size_that_its_shapes_show():
    family = interchange.FAMILIES["AsymmetricAutoencoderKL"]
    assert family.build(family.published["x 1.5"]) == AsymmetricAutoencoderKL()
    larger = family.build(family.published["x 2"])
    assert (larger.decoder_widths, larger.decoder_layers, larger.scale) == ((256, 512, 1024, 1024), 5, 0.18215)
