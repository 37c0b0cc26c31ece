"""A whole tiny LTX-2 beside diffusers': latents, clips and sounds; its sizes, and what its requests become."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, text_to_image
from diffusion.arrays import pytrees
from diffusion.models.autoencoders import latent_space
from diffusion.published.ltx2 import LTX2, pipeline
from diffusion.text_to_image import jobs, programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.published.ltx2.facts import SOUND_TRAJECTORIES
from tests.text_to_image import made_pipelines

VIDEO = {"text": 3.5, "perturbed": 1.2, "apart": 2.5, "rescale": 0.6}
GUIDED = {"video": VIDEO, "sound": {"text": 6.0, "perturbed": 0.8, "apart": 3.0, "rescale": 0.3}}
PROMPTS = ["a cat", "the red car on a hill"]
NOISE = {"video": drawn("latents", 2, 3, 2, 2, 8), "sound": drawn("sound latents", 2, 18, 8)}
SIZES = {"frames": 17, "height": 64, "width": 64}


def opened(name, place):
    """With prompts of 16 tokens, as the fixture's."""
    model = text_to_image.load(made_pipelines.folder(name, place))
    tokenizers = {name: tokenizer._replace(length=16) for name, tokenizer in model.tokenizers.items()}
    return dataclasses.replace(model, tokenizers=tokenizers)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND_TRAJECTORIES)
def test_latents_clips_and_sounds_are_diffusers(name, tmp_path):
    """Six steps with all guidances and with none, from the same noise; and from a first frame."""
    _, arrays = made_pipelines.fixture(name)
    model = opened(name, tmp_path)
    picture = (128 + 60 * drawn("first frame", 64, 64, 3)).clip(0, 255).astype(np.uint8)
    image = picture if name.endswith("from_image") else None
    job = Job.prepare(model, Request.make(PROMPTS, seeds=[0, 1], steps=6, image=image, **SIZES))
    course, keys = job.course, job.keys()
    shape = course.shape(model)
    assert {name: leaf.shape[1:] for name, leaf in NOISE.items()} == shape
    with pytest.warns(UserWarning, match="this part is left out: 'ill'"):  # of more than 16 tokens
        both = text_to_image.conditions(model, PROMPTS, "bad", 1.0, 64, 64, 17, rate=course.rate)
    begin = jax.jit(functools.partial(programs.begin, model, course))
    _, _, first, _, beside = begin(model.params["vae"], keys, *job.canvas.arrays())
    conditional, unconditional = (one | beside for one in both)
    vae, of_sound = model.modules["vae"], model.modules["audio_vae"]
    plain = course._replace(guided=False, evaluation=course.evaluation._replace(perturbed=False, apart=False))
    assert course.guided and course.evaluation.perturbed and course.evaluation.apart

    def sampled(course, scale, params, x):
        begun = programs.Start(x, keys, first)
        evaluated, _ = programs._guided(model, course, params, begun, conditional, unconditional, scale)
        sampler, plan = course.trajectory.sampler, course.trajectory.plan
        return samplers.sample(sampler, evaluated, model.process.schedule, x, plan, keys)

    start = course.trajectory.start * pytrees.pack(NOISE)
    for case, settled, scale in (("alone", plain, None), ("guided", course, jax.tree.map(jnp.float32, GUIDED))):
        x = jax.jit(functools.partial(sampled, settled, scale))(model.weights, start)
        z = pytrees.unpack(x, shape)
        z["video"] = z["video"] if first is None else z["video"].at[:, :1].set(first)
        video = latent_space.from_diffusion(z["video"], vae.scale, vae.shift)
        for key, ours in (("latents", video), ("sound_latents", of_sound.latents(z["sound"]))):
            expected = arrays[f"{case}/{key}"]
            within = SOUND_TRAJECTORIES[name]["euler"] * np.abs(expected).max()
            np.testing.assert_allclose(ours, expected, rtol=0, atol=within, err_msg=f"{case}, {key}")
    if image is not None:
        return
    frames = programs.decoded(model, course, model.params["vae"], course.pictured(model, x))
    np.testing.assert_allclose(frames[:1, ::4] / 255, arrays["clip"], rtol=0, atol=0.5 / 255 + 1e-4)
    expected = arrays["waveform"]
    waveform = programs.sounds(model, course, model.drawing, x)
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_clip_depends_on_its_own_prompt_and_seed_alone(tmp_path):
    model = opened("ltx2", tmp_path)
    make = lambda prompts, seeds: jobs.results(
        model, Request.make(prompts, seeds=seeds, negative="bad", steps=2, **SIZES)
    )
    two, one = make(["a cat", "a red car"], [3, 4]), make("a red car", 4)
    assert two.pictures.shape == (2, 17, 64, 64, 3) and two.sounds.shape == (2, 69 * 6, 2)
    assert (two.rate, two.sample_rate) == (24.0, 24000)
    np.testing.assert_array_equal(two.pictures[1:], one.pictures)
    np.testing.assert_array_equal(two.sounds[1:], one.sounds)
    assert (two.pictures[:1] != one.pictures).any()


def test_a_latent_of_the_sound_is_40_milliseconds():
    """Of its frames at 24 a second, rounded; never none."""
    modules = {"transformer": LTX2(sound_channels=8)}
    for frames, rate, length in ((121, 24.0, 126), (25, 25.0, 25), (9, 24.0, 9), (17, 24.0, 18), (1, 60.0, 1)):
        assert pipeline.sound_shape(modules, frames, rate) == (length, 8)


def test_layers_are_perturbed_where_the_denoiser_says_so():
    """Layer 28, or the last of a smaller one."""
    for perturbed in (False, True):
        kind = pipeline.LTX_2.denoiser.variant(pipeline.LTX_2, LTX2(perturbed=perturbed))
        assert (kind.guidance.perturbed_scale, kind.guidance.perturbs is None) == (float(perturbed), not perturbed)
    for depth, layer in ((48, 28), (2, 1)):
        (mask,) = pipeline.LTX_2.guidance.perturbs(LTX2(depth=depth))
        assert mask.shape == (depth,) and np.flatnonzero(mask).tolist() == [layer]


def test_texts_of_clip_and_sound_are_the_connectors(monkeypatch):
    """Prompts have no blanks around them; the first of both texts is the clip's."""
    read = []
    monkeypatch.setattr(pipeline, "encode", lambda prompts, gemma, **how: read.append((prompts, gemma, how)) or made)
    made = type("", (), {"tokens": jnp.ones((2, 3, 4)), "mask": np.array([[True], [False]])})()
    result = pipeline.ltx2([" a cat\n", "b"], "gemma", lambda states, mask: (2 * states, mask), windows=False)
    assert read == [(["a cat", "b"], "gemma", {"windows": False})]
    np.testing.assert_array_equal(result["text"], 2 * made.tokens)
    np.testing.assert_array_equal(result["sound_text"], made.mask)
