"""Pictures with a kept part by an autoencoder whose decoder sees that part: diffusers' pipeline, requests, refusals."""

import dataclasses
import functools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.models.autoencoders.autoencoder_kl_asymmetric import AsymmetricAutoencoderKL
from diffusion.models.interchange.family import Refusal
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

NAME = "inpaint_asymmetric"
IMAGE = (128 + 60 * drawn("image", 32, 32, 3)).clip(0, 255).astype(np.uint8)
RIGHT = np.broadcast_to(np.arange(32) >= 16, (32, 32))
SETTINGS = {"image": IMAGE, "mask": RIGHT, "steps": 1, "guidance": 1.0, "sampler": "ddim", "seeds": (3, 4)}


@functools.cache
def loaded(how=text_to_image.load):
    with tempfile.TemporaryDirectory() as place:
        return how(made_pipelines.folder(NAME, pathlib.Path(place)))


@pytest.mark.extended
def test_the_picture_is_that_of_diffusers_pipeline_for_its_latents():
    """From a picture in [0, 1] whose left half is kept, before anything is clipped."""
    _, found = made_pipelines.fixture(NAME)
    model = loaded()
    image = 2 * (drawn("kept", 2, 32, 32, 3) * 0.25 + 0.5).clip(0, 1) - 1
    mask = np.broadcast_to(np.arange(32) >= 16, (2, 32, 32))[..., None]
    seen = {"image": jnp.asarray(image), "mask": jnp.asarray(mask)}
    decode = jax.jit(functools.partial(programs.decode_latents, model))
    ours, theirs = decode(model.params["vae"], found["latents/ddim"], **seen), found["picture"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_a_request_with_a_mask_is_decoded_with_the_part_that_is_kept():
    """One picture for all seeds, as a whole and step by step; a model whose decoder sees nothing makes another."""
    model = loaded()
    made = text_to_image.generate(model, "a cat", batch_size=2, **SETTINGS)
    job = Job.prepare(model, Request.make("a cat", batch_size=2, **SETTINGS))
    image, mask = job.canvas.arrays()
    conditional, unconditional = job.conditions(model, 2)

    @jax.jit
    def latents(params, keys):
        start = programs.begin(model, job.course, params["vae"], keys, image, mask)
        run, plan = job.course.trajectory.sampler, job.course.trajectory.plan
        denoise, _ = programs._guided(model, job.course, params["unet"], start, conditional, unconditional, 1.0)
        return programs.samplers.sample(run, denoise, model.process.schedule, start.x, plan, start.keys)

    x = latents({"unet": model.weights, "vae": model.params["vae"]}, job.keys())
    vae = model.modules["vae"]
    decode = jax.jit(lambda params, *arguments: vae.apply({"params": params}, *arguments, method="decode"))
    expected = programs.to_uint8(decode(model.params["vae"], x / vae.scale, image, mask))
    plain = programs.to_uint8(decode(model.params["vae"], x / vae.scale))
    assert np.abs(made.astype(int) - job.canvas.with_original(np.asarray(expected))).max() <= 1
    assert np.abs(made.astype(int) - job.canvas.with_original(np.asarray(plain))).max() > 5
    *_, last = text_to_image.watch(model, "a cat", **SETTINGS)
    assert np.abs(last.pictures.astype(int) - made).max() <= 1


@pytest.mark.extended
def test_tiles_are_refused_with_a_kept_part():
    model = loaded(text_to_image.described)
    message = "tile = 16: the autoencoder of this model needs the whole kept part; leave tile out"
    with pytest.raises(ValueError, match=message):
        Job.prepare(model, Request.make("a cat", tile=16, **SETTINGS))
    Job.prepare(model, Request.make("a cat", **SETTINGS))
    blind = AsymmetricAutoencoderKL(widths=(8,) * 4, decoder_widths=(8, 8, 32, 32), groups=4)
    other = dataclasses.replace(model, modules={**model.modules, "vae": blind})
    Job.prepare(other, Request.make("a cat", tile=16, **SETTINGS))  # its decoder sees nothing


@pytest.mark.extended
def test_an_autoencoder_of_larger_pictures_is_refused(tmp_path):
    folder = made_pipelines.folder(NAME, tmp_path)
    config = json.loads((folder / "vae/config.json").read_text())
    config |= {"up_block_out_channels": [8, 8, 16, 32, 32], "up_block_types": ["UpDecoderBlock2D"] * 5}
    config.pop("block_out_channels", None)
    (folder / "vae/config.json").write_text(json.dumps(config))
    message = "must decode pictures of the size that it encodes, but this one makes them 8 times smaller and then 16"
    with pytest.raises(Refusal, match=message):
        text_to_image.described(folder, weights=False)
