"""A U-Net of more channels: zeros at the start, what it receives, in which type the tuned model is, and refusals."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters.inpainting import inpainting
from diffusion.adapters.instruct_pix2pix import instruct_pix2pix
from diffusion.adapters.tuning import Tuning
from diffusion.adapters.wider_unet import widened
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.text_to_image import pipelines
from tests.adapters.received import half, instead_of, reached, same, types, wide
from tests.text_to_image import made_pipelines

CLOCK = jnp.zeros(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(described, loaded) Stable Diffusion, tiny; the loaded one computes in bfloat16."""
    folder = made_pipelines.folder("sd", tmp_path_factory.mktemp("sd"))
    return text_to_image.described(folder), text_to_image.load(folder, dtype="bfloat16")


def seen(params, condition, x):
    """Three channels of the base's bias and of an entry, which it takes out."""
    return condition.pop("hint") + params["unet"]["conv_out"]["bias"][:3]


def test_new_channels_begin_at_zero_and_all_weights_are_float32(models):
    base, model = models
    tuning = widened(base, "StableDiffusionInpaintPipeline", 3, seen, reads=("hint",), networks=("vae",))
    assert (tuning.copies, tuning.replaces, tuning.reads, tuning.networks) == (
        ("unet",),
        ("unet",),
        ("hint",),
        ("vae",),
    )
    assert tuning.write(None, {}, {}) == [] and tuning.base is base
    weights = tuning.init(jax.random.key(0), model.params)
    before = wide(model.params["unet"])
    assert types(weights) == {"float32"} and weights["conv_in"].keys() == {"kernel", "bias"}
    kernel = weights["conv_in"]["kernel"]
    assert kernel.shape == (3, 3, 7, before["conv_in"]["kernel"].shape[-1])
    np.testing.assert_array_equal(kernel[:, :, :4], before["conv_in"]["kernel"])
    assert not np.any(kernel[:, :, 4:])
    same(weights | {"conv_in": {**weights["conv_in"], "kernel": kernel[:, :, :4]}}, before)


def test_the_network_receives_the_new_channels_behind_x_and_the_base_no_gradient(models, monkeypatch):
    base, model = models
    tuning = widened(base, "StableDiffusionInpaintPipeline", 3, seen, networks=("unet",))
    params = {"unet": wide(model.params["unet"])}
    weights = {"conv_in": jnp.ones(2)}
    x = jnp.full((1, 2, 2, 4), 5, jnp.bfloat16)
    condition = {"hint": jnp.ones((1, 2, 2, 3)), "text": jnp.ones((1, 3, 4))}
    instead_of(ConditionalUNet, monkeypatch)
    of_module, received, clock, rest = tuning.apply(params, weights, x, CLOCK, condition)
    same((of_module, clock, rest), (weights, CLOCK, {"text": condition["text"]}))
    assert condition.keys() == {"hint", "text"}  # the caller's own is left as it was
    assert received.dtype == jnp.bfloat16 and received.shape == (1, 2, 2, 7)
    np.testing.assert_array_equal(received[..., :4], x)
    beside = 1 + params["unet"]["conv_out"]["bias"][:3]
    np.testing.assert_array_equal(received[0, 0, 0, 4:], half(beside))
    to_base = reached(lambda base: tuning.apply({"unet": base}, weights, x, CLOCK, condition), params["unet"])
    assert not any(jax.tree.leaves(to_base))


def test_kernels_of_the_new_channels_begin_at_zero_behind_the_others(models):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float16)
    params = {"unet": {"conv_in": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(5)}}}
    tuning = widened(models[0], "StableDiffusionInpaintPipeline", 3, seen, networks=())
    begun = tuning.init(jax.random.key(0), params)["conv_in"]
    np.testing.assert_array_equal(begun["kernel"], np.concatenate([kernel, np.zeros((3, 3, 3, 5))], 2))
    assert begun["kernel"].dtype == jnp.float32 and begun["bias"].tolist() == [1] * 5


def test_the_tuned_network_has_the_input_channels_that_it_receives(models):
    base, model = models
    attached = widened(base, model.kind.relatives.inpainting, 5, seen, networks=()).attach(model, {})
    assert attached.denoiser == model.denoiser.clone(in_channels=9)


def test_the_tuned_model_is_of_its_pipeline_and_in_the_types_of_the_loaded_one(models):
    base, model = models
    tuning = inpainting(base)
    weights = tuning.init(jax.random.key(0), model.params)
    model._programs["old"] = 1
    attached = tuning.attach(model, jax.tree.map(lambda leaf: leaf + 1, weights))
    assert attached.name == model.kind.relatives.inpainting and attached.kind is pipelines.KINDS[attached.name]
    assert attached.sees_mask and not model.sees_mask and not attached._programs
    assert attached.denoiser == model.denoiser.clone(in_channels=9)
    assert attached.denoiser.dtype == model.denoiser.dtype != base.denoiser.dtype
    assert types(attached.params["unet"]) == {"bfloat16"}
    same(attached.params["unet"], half(jax.tree.map(lambda leaf: leaf + 1, weights)))
    for part in ("vae", "text_encoder"):
        assert attached.params[part] is model.params[part] and attached.modules[part] is model.modules[part]


def test_editing_widens_by_the_channels_of_the_latents(models):
    base, model = models
    tuning = instruct_pix2pix(base)
    weights = jax.eval_shape(tuning.init, jax.random.key(0), model.params)
    assert weights["conv_in"]["kernel"].shape[2] == 8
    attached = tuning.attach(model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), weights))
    assert attached.name == model.kind.relatives.edits and attached.sees_picture
    assert (tuning.reads, tuning.latents, tuning.networks) == (("original",), ("original",), ())
    assert tuning.apart == ("captioned", "original")


def test_another_denoiser_is_refused(models, tmp_path):
    base, _ = models
    nine = base.as_pipeline("StableDiffusionPipeline")
    nine.modules["unet"] = base.denoiser.clone(in_channels=9)
    try:
        with pytest.raises(ValueError, match=r"sees only the 4 channels of.*a ConditionalUNet of 9 channels"):
            widened(nine, "StableDiffusionInpaintPipeline", 5, seen)
    finally:
        nine.modules["unet"] = base.denoiser.clone(in_channels=4)
    pixart = text_to_image.described(made_pipelines.folder("pixart", tmp_path / "pixart"))
    with pytest.raises(ValueError, match=r"the denoiser of the base is a PixArt$"):
        widened(pixart, "StableDiffusionInpaintPipeline", 5, seen)
    with pytest.raises(ValueError, match="that kind of model has no inpainting pipeline"):
        inpainting(pixart)
    with pytest.raises(ValueError, match="that kind of model has no pipeline that edits by instructions"):
        instruct_pix2pix(pixart)


def test_the_new_channels_of_inpainting_are_the_mask_and_what_is_kept(monkeypatch):
    """Latents of 2 x 2 pixels: one is painted where any of its pixels is, and what is kept is (z - shift) scale."""

    class Blocks:
        factor, scale, shift = 2, np.float32(3.0), np.float32(0.5)

        def apply(self, variables, picture, method):
            assert method == "encode" and variables == {"params": "weights"}
            return picture[:, ::2, ::2]

    monkeypatch.setattr(sys.modules[inpainting.__module__], "widened", lambda *arguments, **how: (*arguments, how))
    kind = SimpleNamespace(relatives=SimpleNamespace(inpainting="Painting"))
    base = SimpleNamespace(kind=kind, modules={"vae": Blocks()}, channels=3)
    of_base, pipeline, channels, seen, how = inpainting(base)
    assert (of_base, pipeline, channels) == (base, "Painting", 4)
    assert how == {"networks": ("vae",), "reads": ("picture", "mask")}
    picture = np.random.default_rng(0).normal(size=(1, 4, 6, 3)).astype(np.float32)
    mask = np.zeros((1, 4, 6, 1), np.float32)
    mask[0, 1, 5], mask[0, 2, 2] = 1, 0.01
    condition = {"picture": jnp.asarray(picture), "mask": jnp.asarray(mask), "text": 1}
    found = seen({"vae": "weights"}, condition, jnp.zeros((1, 2, 3, 3)))
    assert condition == {"text": 1}
    np.testing.assert_array_equal(found[0, ..., 0], [[0, 0, 1], [0, 1, 0]])
    kept = np.where(mask > 0, 0, picture)[:, ::2, ::2]
    np.testing.assert_allclose(found[..., 1:], (kept - 0.5) * 3, rtol=1e-6)


def test_a_tuning_that_says_nothing_else_trains_no_text_and_reads_nothing():
    one = Tuning(None, None, None, None, None, ("unet",))
    assert not one.encodes and one.see is None and one.sees == {} and one.sees_of == ""
    assert one.copies == one.reads == one.latents == one.replaces == one.words == one.apart == ()
