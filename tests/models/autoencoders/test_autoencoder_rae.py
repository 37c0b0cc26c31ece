"""Representation autoencoders: what the peer's outputs do not show (tests/models/interchange/test_families.py)."""

import operator
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.arrays.boxes import patchify, unpatchify
from diffusion.models import interchange
from diffusion.models.autoencoders import autoencoder_rae, rae_decoder
from diffusion.models.autoencoders.autoencoder_rae import AutoencoderRAE
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.image_encoders.dinov3 import DINOv3
from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.interchange import folder_writing, folders, rae_tables

DECODER = RAEDecoder(8, width=8, depth=1, heads=2, hidden=12, patch=2)
ENCODER = DINOv3(width=8, depth=3, heads=2, hidden=12, patch=4, affine=False, fused=(1, 3))
RAE = AutoencoderRAE(ENCODER, DECODER, (2, 3, 8))
PICTURE = jax.ShapeDtypeStruct((2, 4, 6, 3), jnp.float32)


def parameters(module, x=PICTURE):
    """Parameters that are nowhere zero, without compiling an initialisation."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(x.shape)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def pictures():
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, PICTURE.shape), jnp.float32)


@pytest.mark.extended
def test_sizes_and_bad_calls():
    apply = lambda module, x, method: module.init_with_output(jax.random.key(0), x, method=method)[0]
    call = lambda x, method, module=RAE: jax.eval_shape(lambda x: apply(module, x, method), x)
    z = call(PICTURE, "encode")
    assert z.shape == (2, 2, 3, 8) and call(z, "decode").shape == PICTURE.shape
    anywhere = RAE.clone(statistics=(8,))
    assert call(jnp.zeros((1, 8, 2, 3)), "encode", anywhere).shape == (1, 4, 1, 8)
    for x, method, message in (
        (jnp.zeros((1, 5, 6, 3)), "encode", "2 does not divide 5 x 6"),
        (jnp.zeros((1, 4, 6, 1)), "encode", r"takes pictures \[B, H, W, 3\]"),
        (
            jnp.zeros((1, 6, 6, 3)),
            "encode",
            r"features of the shape \(2, 3, 8\), but these have \(3, 3, 8\)\. Valid: pictures of 4 x 6",
        ),
        (jnp.zeros((1, 3, 3, 8)), "decode", r"features of the shape \(2, 3, 8\), but these have \(3, 3, 8"),
        (jnp.zeros((1, 2, 3, 7)), "decode", r"decodes latents \[B, h, w, 8\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, method)
    for build, message in (
        (
            lambda: RAE.clone(decoder=DECODER.clone(features=7)),
            "reads 7 features for each patch, but the encoder has 8",
        ),
        (lambda: RAE.clone(statistics=(2, 8)), r"statistics=\(2, 8\): the encoder has 8 features"),
        (lambda: RAE.clone(statistics=(7,)), r"Valid: \(\), \(8,\) or \(h, w, 8\)"),
        (lambda: DECODER.clone(mean=(0.5,)), r"mean=\(0\.5,\) must have one number for each of the 3 channels"),
        (lambda: DECODER.clone(width=6, heads=2), "width=6 must be a multiple of 4, for the fixed positions"),
        (lambda: ENCODER.clone(fused=(3, 1)), r"fused=\(3, 1\).*be layers out of 1 \.\. 3,"),
        (lambda: rae_decoder.preset("ViT-S", 8), "ViT-S"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


class Patches(nn.Module):
    """An encoder whose features are the pixels of a patch."""

    width: int = 12
    patch: int = 2

    def __call__(self, x):
        return ImageFeatures(patchify(x, 2), x[:, 0, 0])


class Pixels(nn.Module):
    """Its inverse, as a decoder."""

    features: int = 12
    patch: int = 2
    picture_channels: int = 3

    def __call__(self, z):
        return unpatchify(z.reshape(len(z), -1, 12), 2, 2 * z.shape[1], 2 * z.shape[2])


@pytest.mark.parametrize("statistics", [(), (12,), (2, 1, 12)])
def test_latents_are_features_without_their_mean_and_deviation(statistics):
    """A deviation as small as the number that is added to it."""
    module = AutoencoderRAE(Patches(), Pixels(), statistics=statistics)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 2, 3)).astype(np.float32)
    mean = rng.normal(size=statistics).astype(np.float32)
    std = (1e-5 * rng.uniform(1, 9, statistics)).astype(np.float32)
    variables = {"params": {"features_mean": mean, "features_std": std}} if statistics else {}
    z = module.apply(variables, x, method="encode")
    of_patches = x.reshape(2, 2, 2, 1, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 1, 12)
    expected = (of_patches - mean) / (std + 1e-5) if statistics else of_patches / (1 + 1e-5)
    np.testing.assert_allclose(z, expected, rtol=1e-4)
    np.testing.assert_allclose(module.apply(variables, z, method="decode"), x, atol=1e-5)


@pytest.mark.slow
def test_latents_are_normalised_features_and_fused_ones_are_means_of_layers():
    """RAEv2's features by hand: the mean of the normalised layers, and the mean of the last one over the picture."""
    params = parameters(RAE)
    params["features_std"] = jnp.abs(params["features_std"]) + 0.5
    z = RAE.apply({"params": params}, pictures(), method="encode")
    larger = autoencoder_rae.resized(pictures(), (8, 12))
    layers = []
    for depth in (1, 3):  # an encoder that ends after a layer has this layer's normalised output
        first = jax.tree.map(operator.itemgetter(slice(depth)), params["encoder"]["encoder"]["layers"])
        cut = {**params["encoder"], "encoder": {"layers": first}}
        layers.append(ENCODER.clone(depth=depth, fused=()).apply({"params": cut}, larger).patches)
    features = (layers[0] + layers[1]) / 2 + layers[1].mean(axis=1, keepdims=True)
    expected = (features.reshape(2, 2, 3, 8) - params["features_mean"]) / (params["features_std"] + 1e-5)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_the_stream():
    x = np.random.default_rng(0).normal(3, 2, (7, 2, 2, 5)).astype(np.float32)
    mean, std = autoencoder_rae.measured([x[:3], x[3:3], x[3:]])
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, x.std(0), rtol=1e-5)
    with pytest.raises(ValueError, match="statistics need at least two pictures with finite features; got 1"):
        autoencoder_rae.measured([x[:1]])
    module, params = autoencoder_rae.with_statistics(RAE, {}, np.zeros(8), np.ones(8))
    assert module.statistics == (8,) and params["features_std"].shape == (8,)
    with pytest.raises(ValueError, match=r"statistics=\(7,\): the encoder has 8 features"):
        autoencoder_rae.with_statistics(RAE, {}, np.zeros(7), np.ones(7))


@pytest.mark.extended
@pytest.mark.parametrize("encoder", [
    pytest.param(ENCODER, marks=pytest.mark.slow),
    DINOv2(width=8, depth=1, heads=2, hidden=32, size=28, registers=1, affine=False),
], ids=["dinov3", "dinov2"])  # fmt: skip
def test_an_encoder_that_diffusers_does_not_build_is_kept_in_the_folder(tmp_path, encoder):
    module = RAE.clone(encoder=encoder, statistics=(8,), decoder=DECODER.clone(mean=(0.0,) * 3, std=(1.0,) * 3))
    params = parameters(module)
    interchange.save(tmp_path, module, params)
    config = folders.read_config(tmp_path)
    assert config["encoder_type"] not in rae_tables.KINDS
    assert np.shape(config["latents_mean"]) == (8, 1, 1)
    again, read = interchange.load(tmp_path)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, read, params)


@pytest.mark.extended
def test_the_authors_decoder_is_read_from_its_file(tmp_path):
    """Their names, with the fixed positions that the file holds."""
    params = parameters(DECODER, jax.ShapeDtypeStruct((1, 2, 2, 8), jnp.float32))
    family = rae_tables.DECODER_FAMILY
    file = dict(folder_writing.write(family, DECODER, "original", params))
    assert file["decoder_layers.0.attention.attention.query.weight"].shape == (8, 8)
    assert file["decoder_pos_embed"].shape == (1, 257, 8) and not file["decoder_pos_embed"][0, 0].any()
    np.testing.assert_allclose(file["decoder_pos_embed"][0, 18, :2], np.sin([1, 1e-2]), rtol=1e-5)  # row 1, column 1
    save_file({name: np.ascontiguousarray(array) for name, array in file.items()}, tmp_path / "model.safetensors")
    config = {"_class_name": "RAEDecoder", **family.describe(DECODER)}
    module, read = interchange.load(tmp_path, config=config)
    assert module == DECODER
    jax.tree.map(np.testing.assert_array_equal, read, params)
    file["decoder_pos_embed"] = file["decoder_pos_embed"] + 0.5
    save_file({name: np.ascontiguousarray(array) for name, array in file.items()}, tmp_path / "model.safetensors")
    with pytest.raises(interchange.Mismatch, match="decoder_pos_embed differs from the table that RAEDecoder computes"):
        interchange.load(tmp_path, config=config)


def test_bad_configs_are_refused():
    config = {**rae_tables.FAMILY.describe(RAE.clone(encoder=DINOv2(
        width=64, depth=1, heads=1, hidden=256, registers=4, affine=False
    ), decoder=DECODER.clone(features=64), statistics=())), "encoder_input_size": 28}  # fmt: skip
    assert config["encoder_type"] == "dinov2"
    for change, message in (
        ({"encoder_type": "clip"}, "encoder_type = 'clip' is not known. Valid: dinov2, siglip2, mae"),
        ({"encoder_input_size": 30}, "encoder_input_size = 30 .* patch of 14 does not divide it"),
        ({"encoder_hidden_size": 72}, r"encoder_hidden_size = 72 is not supported\. Supported: multiples of 64"),
        ({"encoder_norm_mean": [0.5, 0.5, 0.5]}, "encoder_norm_mean"),
        ({"latents_mean": [[[0.0]]] * 32, "latents_std": [[[1.0]]] * 32}, "the encoder has 64 features"),
        ({"latents_mean": [[[0.0]]] * 64}, r"latents_mean has the shape \(64, 1, 1\) and latents_std"),
        ({"latents_mean": [[[0.0] * 3] * 3] * 64, "latents_std": [[[1.0] * 3] * 3] * 64}, r"3, 3\) positions,"),
        ({"image_size": 8}, "image_size = 8 is not supported; supported: None, 4"),
    ):
        with pytest.raises(interchange.Refusal, match=message):
            folders.built(rae_tables.FAMILY, {**config, **change})
    with pytest.raises(interchange.Refusal, match="affine = False cannot be written in this format"):
        interchange.FAMILIES["DINOv3ViTModel"].describe(ENCODER)


@pytest.mark.slow
def test_a_wrong_encoder_is_refused_by_its_first_leaf(tmp_path):
    module = RAE.clone(statistics=())
    interchange.save(tmp_path, module, parameters(module))
    config = folders.read_config(tmp_path)
    config["encoder_config"]["intermediate_size"] = 16
    with pytest.raises(interchange.Mismatch, match=re.escape("encoder.layer.0.mlp.up_proj.weight has shape [12, 8]")):
        interchange.load(tmp_path, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("size, count", [("ViT-B", 86), ("ViT-L", 304), ("ViT-XL", 415)])
def test_decoders_of_the_published_sizes(size, count):
    """By hand: layers of 4 w^2 + 2 w f + 9 w + f numbers, the embedding, the class token, the norm, the last layer."""
    module = rae_decoder.preset(size, 768)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 768)))
    w, f = module.width, module.hidden
    expected = module.depth * (4 * w * w + 2 * w * f + 9 * w + f) + 769 * w + 3 * w + (w + 1) * 768
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
    assert round(expected / 1e6) == count
