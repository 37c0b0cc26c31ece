"""Stable Diffusion 3's IP-Adapter: its attention in closed form, its files, and where diffusers' pipeline ends."""

import dataclasses
import functools
import gzip
import json
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import samplers, text_to_image
from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.image_projections import ResamplerLayer
from diffusion.models.interchange import schedulers
from diffusion.models.joint_image_projections import JointIPAdapter, TimedResampler
from diffusion.models.layers import extra_attention
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.network import MMDiT
from diffusion.text_to_image import attached, canvas
from diffusion.text_to_image.picture_controls import Control
from tests import drawn_parameters
from tests.adapters.test_ip_adapter import picture
from tests.peers.made_weights import drawn, made
from tests.text_to_image import made_pipelines

TINY = MMDiT(width=8, depth=2, heads=2, text_width=4, pooled_width=4, positions=4, sample_size=4)
PROJECTION = TimedResampler(6, 8, tokens=3, inner=4, depth=1, heads=1, time_features=4)


@functools.cache
def fixture():
    arrays = load_file(made_pipelines.FIXTURES / "ip_adapter_mmdit.safetensors")
    return json.loads(gzip.decompress(arrays.pop("about").tobytes())), arrays


def test_the_time_shifts_and_scales_what_the_norms_put_out():
    """Before the attention, then before the MLP: as norms with another scale and bias, without a time."""
    y, x, c = (np.random.default_rng(seed).normal(size=(1, 2, 4)).astype(np.float32) for seed in range(3))
    layer = ResamplerLayer(1, 4, 2)
    params = drawn_parameters.drawn(layer.init, y, x, c[:, 0])["params"]
    vectors = np.float32([[1.0, -1, 2, 0.5], [0.5, 2, -1, 1], [-2, 1, 0.5, 1], [1, 0.5, -2, 2]])
    params["modulation"]["dense"] = {"kernel": np.zeros((4, 4, 4), np.float32), "bias": vectors}
    plain = {name: leaf for name, leaf in params.items() if name != "modulation"}
    for name, (shift, scale) in (("norm_own", vectors[:2]), ("norm_mlp", vectors[2:])):
        norm = {part: leaf * (1 + scale) for part, leaf in params[name].items()}
        plain[name] = {**norm, "bias": norm["bias"] + shift}
    timed = layer.apply({"params": params}, y, x, c[:, 0])
    np.testing.assert_allclose(timed, layer.apply({"params": plain}, y, x), atol=1e-4)


@pytest.mark.extended
def test_without_scores_a_picture_sees_the_mean_of_its_own_values_and_the_prompts():
    """A scale of zero makes every score zero; with the other of one the scores are those of unit queries and keys."""
    q, k, v = (drawn(name, 2, 4, 2, 3) for name in "qkv")
    keys, values = drawn("keys", 2, 5, 6), drawn("values", 2, 5, 6)
    weight = np.array([[1, 0, 0.5, 2], [0, 1, 1, 1]], np.float32)
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    all_values = np.concatenate([v, values.reshape(2, 5, 2, 3)], axis=1)
    found = extra_attention.beside_own(q, k, v, ((keys, values, weight, zeros, ones),), "matmul")
    np.testing.assert_allclose(found, weight[..., None, None] * all_values.mean(1, keepdims=True), atol=1e-6)

    unit = lambda a: a / np.sqrt(np.square(a).mean(-1, keepdims=True))
    both = np.concatenate([2 * unit(k), keys.reshape(2, 5, 2, 3)], axis=1)
    scores = np.exp(np.einsum("bnhd,bmhd->bnhm", unit(q), both) / np.sqrt(3))
    expected = np.einsum("bnhm,bmhd->bnhd", scores / scores.sum(-1, keepdims=True), all_values)
    one = np.ones((2, 1), np.float32)
    found = extra_attention.beside_own(q, k, v, ((keys, values, one, ones, 2 * ones),), "matmul")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.extended
def test_a_picture_acts_where_the_mask_is():
    """One layer of the network mixes no tokens after it has read the picture: outside of the mask it is the base."""
    module = TINY.clone(depth=1)
    x, t = drawn("x", 1, 8, 8, module.channels), np.full(1, 0.5)
    condition = {"text": drawn("text", 1, 3, 4), "pooled": drawn("pooled", 1, 4)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, condition)["params"]
    params = jax.tree.map(lambda leaf: drawn(str(leaf.shape), *leaf.shape), shapes)
    layers = ((drawn("keys", 1, 5, 8), drawn("values", 1, 5, 8), np.ones((1, 4)), np.ones((1, 4))),)
    mask = np.broadcast_to(np.arange(16) < 8, (1, 16, 16)).astype(np.float32)
    masked = lambda weight: {"extra_joint": (ip_adapter._everywhere_or_masked(layers, weight, module, x),)}
    apply = jax.jit(lambda more: module.apply({"params": params}, x, t, condition | more))
    base, everywhere, left = apply({}), apply(masked(np.ones(1))), apply(masked(mask))
    assert np.abs(everywhere - base).max((0, 1, 3)).min() > 1e-3 * np.abs(base).max()
    within = {"rtol": 0, "atol": 1e-5 * np.abs(base).max()}
    np.testing.assert_allclose(left[:, :, :4], everywhere[:, :, :4], **within)
    np.testing.assert_allclose(left[:, :, 4:], base[:, :, 4:], **within)


def test_prompts_of_another_network_are_refused():
    pair = (np.zeros((1, 3, 4)),) * 2
    valid = (*pair, np.zeros((1, 1)), *(np.zeros((1, 2)),) * 2)
    layers = (ExtraLayer(4, 2, 3),)
    extra_attention.check_joint(((valid,),), 1, layers, heads=2)
    message = r"'extra_joint', image prompt 0, layer 0: .* two scales \[B, D / H\] = \(1, 4\)"
    with pytest.raises(ValueError, match=message):
        extra_attention.check_joint(((valid,),), 1, layers, heads=1)
    with pytest.raises(ValueError, match="image prompt 0, layer 0"):
        extra_attention.check_joint(((pair,),), 1, layers, heads=2)
    with pytest.raises(ValueError, match="'extra_joint', image prompt 0: this network has 1 layers"):
        extra_attention.check_joint(((),), 1, layers, heads=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(module, weights, path) of a file for `TINY`."""
    module = JointIPAdapter(PROJECTION, (8, 8), 2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 2, 6)), np.zeros(1))["params"]
    weights = jax.tree.map(lambda leaf: drawn(str(leaf.shape), *leaf.shape), shapes)
    path = tmp_path_factory.mktemp("joint") / "a.safetensors"
    ip_adapter_files.save(path, module, weights, TINY)
    return module, weights, path


def test_a_file_is_read_and_written_in_instantx_names(written):
    module, weights, path = written
    read, again = ip_adapter_files.load(path, TINY)
    assert read == module
    jax.tree.map(np.testing.assert_array_equal, again, weights)
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["ip_adapter.1.norm_ip_k.weight"], weights["image_key_scale_1"])
    assert {"image_proj.layers.0.2.1.bias", "ip_adapter.0.norm_ip.linear.weight"} < set(tensors)


UNET = ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4)
OTHERS = [
    (UNET, r"Stable Diffusion 3 and.*the denoiser is a ConditionalUNet\.$"),
    (TINY.clone(dual=1), r"is a MMDiT with second attentions \(3.5 medium\)\.$"),
    (TINY.clone(width=16), "tokens have 8 features, and this MMDiT has 16"),
    (TINY.clone(depth=3), r"this MMDiT has 3 layers .* ip_adapter\.2\.to_k_ip\.weight is missing"),
]


@pytest.mark.parametrize("denoiser, message", OTHERS, ids=["unet", "second attentions", "width", "depth"])
def test_a_file_for_another_denoiser_is_refused(denoiser, message, written):
    with pytest.raises(interchange.Mismatch, match=message):
        ip_adapter_files.load(written[2], denoiser)


def test_inner_tokens_are_of_an_encoder_that_offers_them():
    with pytest.raises(ValueError, match="ConditionalUNet is no image encoder: it has no width"):
        prompt_features.inner(UNET, {}, np.zeros((1, 28, 28, 3)))
    with pytest.raises(ValueError, match=r"SimpleNamespace does not offer .* Valid: SigLIP, CLIP"):
        prompt_features.inner(types.SimpleNamespace(width=3), {}, np.zeros((1, 28, 28, 3)))


@functools.cache
def theirs():
    """The model of diffusers' pipeline with its adapter, the image encoder beside the file."""
    about, _ = fixture()
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "image_encoder").mkdir()
        (place / "image_encoder" / "config.json").write_text(json.dumps(about["config"]))
        encoder = {name: made(f"image_encoder.{name}", tuple(shape)) for name, shape in about["encoder"].items()}
        save_file(encoder, place / "image_encoder" / "model.safetensors")
        tensors = {name: made(f"joint {name}", tuple(shape)) for name, shape in about["file"].items()}
        save_file(tensors, place / "adapter.safetensors")
        folder = made_pipelines.folder("mmdit", place / "model", about["base"])
        return text_to_image.load(folder, attachments={"style": place / "adapter.safetensors"})


def latents(model, weight=0.7):
    """Those of a prompt, a negative prompt and a picture after four steps, as in tests/peers/joint_ip_adapters.py."""
    conditional, unconditional = text_to_image.conditions(model, ["a cat"], "bad", 5.0, 16, 16)
    (one,) = canvas.opened_controls([Control("style", picture("first"), weight)], model.attachments, (16, 16))
    seen = one.attachment.encode(one.attachment.params, jnp.asarray(one.picture))
    ready = [attached.Attached(one.attachment, seen, jnp.float32(weight), jnp.array([0.0, 1.0]))]
    trajectory = schedulers.trajectory(model.process, "euler", 4, tokens=16)
    params = model.params["transformer"]
    denoise = jax.jit(text_to_image.denoise(model, params, conditional, unconditional, 5.0, ready))
    x = trajectory.start * jnp.asarray(drawn("latents", 1, 8, 8, 4))
    keys = jax.random.split(jax.random.key(0), 1)
    return samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)


@pytest.mark.slow
def test_latents_are_those_of_diffusers_pipeline():
    expected = fixture()[1]["latents"]
    found = latents(theirs())
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_generate_takes_the_adapter_and_a_weight_of_zero_is_the_base():
    model = theirs()
    same = {"steps": 2, "guidance": 2.0, "height": 16, "width": 16}
    free = text_to_image.generate(dataclasses.replace(model, attachments={}, _programs={}), "a cat", **same)
    make = lambda *controls: text_to_image.generate(model, "a cat", controls=controls, **same)
    np.testing.assert_array_equal(make(("style", picture("first"), 0.0)), free)
    whole = make(("style", picture("first"), 4.0))
    assert (whole != free).mean() > 0.1
    left = np.broadcast_to(np.arange(16) < 8, (16, 16))
    assert (make({"attachment": "style", "picture": picture("first"), "weight": 4.0, "mask": left}) != whole).any()


def test_what_an_adapter_sees_is_weighted_for_each_picture_or_each_place(monkeypatch):
    """By a stand-in whose keys are the features, and whose values are twice them; beside them stands the clock."""

    class Joint:
        projection, widths = types.SimpleNamespace(reads_tokens=True, features=2), "its widths"

        def apply(self, variables, seen, clock):
            assert variables == {"params": "its own"}
            return [(seen, 2 * seen, clock)]

    monkeypatch.setattr(ip_adapter, "JointIPAdapter", Joint)
    monkeypatch.setattr(prompt_features, "width", lambda encoder, whole: 2)
    monkeypatch.setattr(prompt_features, "inner", lambda encoder, params, images: images + 1)
    monkeypatch.setattr(ip_adapter_files, "widths", lambda denoiser: "its widths")
    denoiser = types.SimpleNamespace(extra_layers=lambda rows, columns: [ExtraLayer(2, rows, columns // 2)])
    one = ip_adapter.attachment(Joint(), "its own", denoiser, "encoder", "of the encoder")
    assert one.masked and one.params == {"adapter": "its own", "encoder": "of the encoder"}
    shown, absent = one.encode(one.params, jnp.ones((1, 2)))
    np.testing.assert_array_equal([shown, absent], [[[2, 2]], [[0, 0]]])
    seen, x, weight = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 4, 6, 1)), jnp.asarray([0.5, 2.0])
    for strength, expected in (
        (weight, [[0.5], [2.0]]),
        (weight[:, None, None] * jnp.ones((2, 4, 6)), np.tile([[0.5], [2.0]], 4 * 3)),
    ):
        (((keys, values, strengths, clock),),) = one.entries(one.params, strength, seen, x, None, 7.0)["extra_joint"]
        np.testing.assert_array_equal(keys, seen)
        np.testing.assert_array_equal(values, 2 * seen)
        np.testing.assert_allclose(strengths, expected, rtol=1e-5)
        np.testing.assert_array_equal(clock, [7.0, 7.0])
