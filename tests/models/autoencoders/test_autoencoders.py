"""The autoencoders: what no peer's outputs show. Those stand in tests/models/interchange/test_families.py."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models import interchange
from diffusion.models.autoencoders import latent_space, tiles
from diffusion.models.autoencoders.autoencoder_dc import AutoencoderDC, Levels
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusion.models.autoencoders.autoencoder_vq import VQModel
from diffusion.models.interchange import folders
from tests.models.interchange import published
from tests.models.interchange.test_folders import sparse

KL = AutoencoderKL(widths=(8, 8), layers=1, groups=4, latent_channels=2)
VQ = VQModel(codes=5, widths=(8, 8), layers=1, groups=4)
LEVELS = Levels((8, 8), (1, 1), ("ResBlock", "EfficientViTBlock"), ((), (3,)), ("rms_norm",) * 2, ("silu",) * 2)
DC = AutoencoderDC(LEVELS, LEVELS, latent_channels=4, head_size=4)
PICTURE = jax.ShapeDtypeStruct((2, 6, 4, 3), jnp.float32)


def parameters(module, x=PICTURE):
    """Parameters that are nowhere zero, without compiling an initialisation."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(x.shape)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def pictures():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, PICTURE.shape), jnp.float32)


@pytest.mark.extended
@pytest.mark.parametrize("module", [KL, VQ, DC], ids=lambda module: type(module).__name__)
def test_sizes_and_bad_calls(module):
    apply = lambda x, method: module.init_with_output(jax.random.key(0), x, method=method)[0]
    call = lambda x, method: jax.eval_shape(lambda x: apply(x, method), x)
    z = jax.tree.leaves(call(PICTURE, "encode"))[0]
    assert z.shape[:3] == (2, 3, 2) and call(z, "decode").shape == PICTURE.shape
    assert module.factor == 2
    for x, method, message in (
        (jnp.zeros((1, 6, 5, 3)), "encode", "2 does not divide 6 x 5; the nearest valid size is 6 x 4"),
        (jnp.zeros((1, 6, 4, 1)), "encode", r"takes pictures \[B, H, W, 3\]; got .*\(1, 6, 4, 1\)"),
        (jnp.zeros((6, 4, 3)), "encode", r"takes pictures .*\(6, 4, 3\)"),
        (jnp.zeros((1, 3, 2, 7)), "decode", rf"decodes latents \[B, h, w, {z.shape[-1]}\]; got .*\(1, 3, 2, 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, method)


def test_bad_fields_are_refused_where_they_are_written():
    for build, message in (
        (lambda: KL.clone(groups=3), r"groups=3 does not divide the width 8 of widths=\(8, 8\)"),
        (lambda: KL.clone(attention_levels=(2,)), r"there is no level 2. Valid: 0 \.\. 1"),
        (lambda: KL.clone(widths=()), "at least one level"),
        (lambda: KL.clone(dtype="float16"), "dtype='float16'.*'float32', 'bfloat16'"),
        (lambda: KL.clone(attention="flash"), "attention='flash'"),
        (lambda: KL.clone(input_range=(1.0, 0.0)), r"input_range=\(1\.0, 0\.0\): the first number"),
        (lambda: VQ.clone(codes=0), r"codes=0, finite_levels=\(\): set exactly one of them"),
        (lambda: VQ.clone(codes=0, finite_levels=(3, 3)), "2 entries, but code_channels=3"),
        (lambda: DC.clone(encoder_levels=LEVELS._replace(layers=(1, 0))), r"encoder_levels\.layers=\(1, 0\)"),
        (lambda: DC.clone(decoder_levels=LEVELS._replace(norms=("rms_norm", "rms"))), r"norms='rms'.*'rms_norm'"),
        (lambda: DC.clone(decoder_levels=LEVELS._replace(widths=(8,))), r"1, 1\) must have one entry for each"),
        (lambda: DC.clone(encoder_levels=LEVELS._replace(widths=(8, 24))), "24 does not divide 4 x 8"),
        (lambda: DC.clone(head_size=3), "head_size=3 does not divide the width 8"),
        (lambda: DC.clone(latent_channels=3), "latent_channels=3 does not divide 8, the last width"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


@pytest.mark.slow
def test_codes_let_the_gradient_through():
    codebook = jnp.asarray([[0.0, 0, 0], [1, 1, 1], [5, 5, 5]])
    z = jnp.asarray([[[[0.9, 1.2, 1.1], [0.1, -0.2, 0]]]])
    vq = VQ.clone(codes=3)
    quantize = lambda z: vq.apply({"params": {"codebook": codebook}}, z, method="quantize")
    values, indices = quantize(z)
    np.testing.assert_array_equal(indices, [[[1, 0]]])
    np.testing.assert_array_equal(values, codebook[indices])
    np.testing.assert_array_equal(vq.apply({"params": {"codebook": codebook}}, indices, method="look_up"), values)
    weight = jnp.arange(6.0).reshape(z.shape)
    np.testing.assert_array_equal(jax.grad(lambda z: (weight * quantize(z)[0]).sum())(z), weight)


def test_a_mask_among_the_indices_is_no_code():
    codebook = jnp.arange(6.0).reshape(2, 3)
    found = VQ.clone(codes=2).apply({"params": {"codebook": codebook}}, jnp.array([[[1, 2, -1]]]), method="look_up")
    np.testing.assert_array_equal(found, [[[[3, 4, 5], [np.nan] * 3, [np.nan] * 3]]])


@pytest.mark.slow
def test_finite_levels_take_the_place_of_a_codebook():
    vq = VQ.clone(codes=0, finite_levels=(3, 4, 5))
    assert "codebook" not in jax.eval_shape(lambda: vq.init(jax.random.key(0), jnp.zeros(PICTURE.shape)))["params"]
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 3)), jnp.float32)
    values, indices = vq.apply({}, z, method="quantize")
    assert 0 <= indices.min() and indices.max() < 60
    np.testing.assert_allclose(vq.apply({}, indices, method="look_up"), values, atol=1e-6)
    with pytest.raises(interchange.Refusal, match="finite scalar quantization, which diffusers does not have"):
        folders.families.family_of(vq)


@pytest.mark.slow
def test_the_log_variance_is_clipped():
    params = parameters(KL)
    params["moments_conv"]["bias"] = jnp.asarray([0.0, 0.0, 99.0, -99.0])
    moments = jax.jit(lambda x: KL.apply({"params": params}, x, method="encode"))(pictures())
    np.testing.assert_array_equal(moments.log_variance[..., 0], 20)
    np.testing.assert_array_equal(moments.log_variance[..., 1], -30)
    assert moments.mean.shape == (2, 3, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("module", [KL, VQ, DC], ids=lambda module: type(module).__name__)
def test_ranges_of_pixels_are_the_networks_own(module):
    params = parameters(module)
    x = pictures()
    other = module.clone(input_range=(0.0, 2.0))
    run = lambda module, x: jax.jit(lambda x: module.apply({"params": params}, x))(x)
    np.testing.assert_allclose(run(other, x), run(module, x + 1) - 1, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("module", [KL, DC], ids=lambda module: type(module).__name__)
def test_bfloat16_is_close_and_keeps_float32_outside(module):
    params = parameters(module)
    x = pictures()
    half = module.clone(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters(half))} == {jnp.dtype("float32")}
    encode = lambda module: jax.tree.leaves(jax.jit(lambda x: module.apply({"params": params}, x, method="encode"))(x))
    for exact, rounded in zip(encode(module), encode(half)):
        assert rounded.dtype == jnp.float32
        assert 0 < jnp.linalg.norm(rounded - exact) < 16 * 2**-8 * jnp.linalg.norm(exact)


@pytest.mark.slow
def test_examples_do_not_see_each_other():
    x = pictures()
    for module in (KL, DC):
        params = parameters(module)
        run = jax.jit(lambda x, module=module, params=params: module.apply({"params": params}, x))
        np.testing.assert_allclose(run(x)[:1], run(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_tiles_of_an_autoencoder():
    shapes = {"params": jax.eval_shape(lambda: KL.init(jax.random.key(0), jnp.zeros(PICTURE.shape)))["params"]}
    x = jax.ShapeDtypeStruct((1, 40, 12, 3), jnp.float32)

    def both(variables, x):
        call = lambda method: lambda tile: KL.apply(variables, tile, method=method)
        moments = tiles.tiled(call("encode"), tile=16, overlap=4, step=2)(x)
        return moments, tiles.tiled(call("decode"), tile=8, overlap=2)(moments.mean)

    moments, picture = jax.eval_shape(both, shapes, x)
    assert moments.mean.shape == moments.log_variance.shape == (1, 20, 6, 2) and picture.shape == x.shape


def test_configs_say_how_latents_are_scaled():
    family = interchange.FAMILIES["AutoencoderKL"]
    flux = family.build(family.published["FLUX.1"])
    assert (flux.scale, flux.shift, flux.quantization_convs, flux.latent_channels) == (0.3611, 0.1159, False, 16)
    # One for each channel, as Playground v2.5 has them: z / std * scale, after the mean is taken off.
    each = family.build(
        {"latents_mean": [1.0, 2.0], "latents_std": [4.0, 8.0], "scaling_factor": 0.5, "latent_channels": 2}
    )
    np.testing.assert_allclose(latent_space.to_diffusion(jnp.asarray([5.0, 10.0]), each.scale, each.shift), [0.5, 0.5])
    assert family.build(family.describe(each)) == each
    other = KL.clone(scale=2.0, shift=0.5, input_range=(0.0, 1.0))
    assert family.build(json.loads(json.dumps(family.describe(other)))) == other
    for config, message in (
        ({"latents_mean": [0.0] * 4}, "latents_mean and latents_std must be set together"),
        ({"act_fn": "relu"}, "act_fn = 'relu' is not supported"),
        ({"up_block_types": ["UpBlock2D"]}, r"up_block_types = \('UpBlock2D',\) are not supported"),
        ({"decoder_only": True}, "decoder_only = True, which this version does not know"),
    ):
        with pytest.raises(interchange.Refusal, match=message):
            family.build(config)
    vq = interchange.FAMILIES["VQModel"]
    with pytest.raises(interchange.Refusal, match="norm_type = 'spatial'"):
        vq.build({"norm_type": "spatial"})
    with pytest.raises(interchange.Refusal, match="one scaling_factor and no shift"):
        vq.describe(VQ.clone(shift=1.0))


def test_original_names_of_attention_at_a_level():
    """Diffusers' conversion leaves these out; CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py."""
    family = interchange.FAMILIES["VQModel"]
    names = {row.theirs for row in family.tables["original"](family.build(family.published["VQ-f8"]))}
    at_level = {name for name in names if re.search(r"(down|up)\.\d\.attn", name)}
    leaves = [f"{part}.{leaf}" for part in ("norm", "q", "k", "v", "proj_out") for leaf in ("weight", "bias")]
    assert at_level == {
        f"{side}.3.attn.{j}.{leaf}"
        for side, count in (("encoder.down", 2), ("decoder.up", 3))
        for j in range(count)
        for leaf in leaves
    }
    assert {"quantize.embedding.weight", "quant_conv.weight", "post_quant_conv.bias"} < names


@pytest.mark.extended
def test_the_scale_of_a_single_file_is_never_guessed(tmp_path, monkeypatch):
    case = published.case("autoencoder_kl_original")
    family = interchange.FAMILIES["AutoencoderKL"]
    shapes = case.shapes
    names = ("Stable Diffusion", "Stable Diffusion XL")  # of which small ones are faster
    scaled = {name: {**case.config, "scaling_factor": family.published[name]["scaling_factor"]} for name in names}
    monkeypatch.setitem(interchange.FAMILIES, "AutoencoderKL", family._replace(published=scaled))
    alone = tmp_path / "vae.safetensors"
    sparse(alone, shapes)
    with pytest.raises(
        interchange.Mismatch,
        match=("Name the architecture: 'AutoencoderKL, Stable Diffusion' or 'AutoencoderKL, Stable Diffusion XL'"),
    ):
        folders.find(alone, "AutoencoderKL")
    assert folders.find(alone, "AutoencoderKL, Stable Diffusion XL").module.scale == 0.13025
    with pytest.raises(ValueError, match=r"published network='Stable Difusion'.*did you mean 'Stable Diffusion'"):
        folders.find(alone, "AutoencoderKL, Stable Difusion")
    inside = {f"first_stage_model.{name}": shape for name, shape in shapes.items()}
    for other, scale in (("conditioner.embedders.0.x", 0.13025), ("cond_stage_model.x", 0.18215)):
        sparse(tmp_path / "all.safetensors", {**inside, other: (1,)})
        tensors = interchange.open_tensors(tmp_path / "all.safetensors")
        found = folders.recognise(tensors, "AutoencoderKL", "first_stage_model.")
        assert found.module.scale == scale and found.layout == "original"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"width": 0}, "width=0 must be positive"),
        ({"encoder_layers": (1, 3)}, "have the same number of levels"),
        ({"dtype": "float16"}, "dtype='float16' is not known"),
    ],
)
def test_fields_of_the_tiny_autoencoder_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTiny(**fields)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"encoder_block_out_channels": [64, 64, 64, 32]}, "one number for all levels"),
        ({"num_decoder_blocks": [3, 1]}, "are not supported for 4 and 2 levels"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu' is not supported"),
        ({"out_channels": 4}, "out_channels = 4 is not supported"),
    ],
)
def test_a_tiny_autoencoder_that_is_not_had_is_refused(config, message):
    with pytest.raises(interchange.Refusal, match=message):
        interchange.FAMILIES["AutoencoderTiny"].build(config)


@pytest.mark.extended
def test_a_clip_is_encoded_and_decoded_frame_by_frame():
    clip = jnp.stack([pictures(), pictures()[::-1] / 2, pictures() / 3], axis=1)  # [2, 3, 6, 4, 3]
    params = {"params": parameters(KL)}
    of_clip = KL.apply(params, clip, method="encode")
    decoded = KL.apply(params, of_clip.mean, method="decode")
    assert of_clip.mean.shape == of_clip.log_variance.shape == (2, 3, 3, 2, 2) and decoded.shape == clip.shape
    for frame in range(3):
        alone = KL.apply(params, clip[:, frame], method="encode")
        for part, whole in zip(alone, of_clip):
            np.testing.assert_allclose(whole[:, frame], part, rtol=1e-5, atol=1e-6)
        picture = KL.apply(params, alone.mean, method="decode")
        np.testing.assert_allclose(decoded[:, frame], picture, rtol=1e-5, atol=1e-5)
