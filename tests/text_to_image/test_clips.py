"""Clips of prompts: pipelines are diffusers', frames and settings are checked before anything is computed."""

import dataclasses
import functools
import json
import pathlib
import re
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import guidance, parameterizations, samplers, schedules, text_to_image, timesteps
from diffusion.data.transforms import to_model, to_uint8
from diffusion.flows.flow_maps import FlowMap
from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video_15 import AutoencoderKLHunyuanVideo15
from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.family import Refusal
from diffusion.models.quantised import is_quantised
from diffusion.published.cogvideox import CogVideoX
from diffusion.published.hunyuan_video import HunyuanVideo
from diffusion.published.hunyuan_video_15 import HunyuanVideo15
from diffusion.published.ltx_video import LTXVideo
from diffusion.published.pipeline_kinds import FirstImage, Video
from diffusion.text_to_image import denoiser_checks, pipelines, programs, timed_weights, video_models
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.memory_check import check_memory
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.published.family_facts import stated
from tests.text_to_image import made_pipelines

PROMPTS = ["a cat", "the red car on a hill"]
QUOTED = ['a cat with "hé" and “cat”', PROMPTS[1]]
BESIDE, REPLACING = (HunyuanVideo(image_condition=name) for name in ("latent_concat", "token_replace"))


@functools.cache
def loaded(name, how=text_to_image.load):
    with tempfile.TemporaryDirectory() as place:
        return how(made_pipelines.folder(name, pathlib.Path(place)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, case, within",
    [(name, case, within) for name, cases in stated("CLIP_TRAJECTORIES").items() for case, within in cases.items()],
)
def test_guided_steps_end_where_diffusers_pipeline_does_and_the_clip_is_theirs(name, case, within):
    """From the same noise; with two transformers each acts on its side of the boundary; and from a first frame."""
    about, found = made_pipelines.fixture(name)
    shape = found[f"latents/{case}"].shape[1:]
    model = loaded(name)
    frames = 1 + model.modules["vae"].time_factor * 2
    rows = len(found[f"latents/{case}"])
    vae = model.modules["vae"]
    sides = vae.factor * shape[1], vae.factor * shape[2]
    pictured = name.endswith(("from_image", "conditions", "and_last")) or "vace" in name
    picture = (128 + 60 * drawn("first frame", *sides, 3)).clip(0, 255).astype(np.uint8)
    prompted = [to_model(model.sight(picture))[None]] if model.sight else []
    conditional, unconditional = text_to_image.conditions(
        model, (QUOTED if "_15" in name else PROMPTS)[:rows], "bad", 7.5, 16, 16, frames, prompted
    )
    process = schedulers.read(about["walks"][case], even=model.kind.flow.even, bent=model.kind.flow.bent)
    trajectory = schedulers.trajectory(process, case, about["steps"][case], int(np.prod(shape[:3])))
    if case == "unipc":
        assert process.parameterization.name == model.process.parameterization.name and model.process.sampler == case
    unit = {"parameterization": model.process.parameterization} if model.kind.denoiser.unit_clock else {}
    model = programs.with_clock(dataclasses.replace(model, process=process._replace(**unit)), trajectory)
    course = programs.Course(sides, trajectory, False, True, 0, (), frames=frames)
    first = None
    x = trajectory.start * jnp.asarray(drawn("latents", 2, *shape))[:rows]
    if pictured:
        begin = jax.jit(functools.partial(programs.begin, model, course))
        keys = jax.random.split(jax.random.key(0), rows)
        pictures = [picture, picture[::-1, ::-1]][: 2 if name.endswith("and_last") else name != "wan_vace"]
        image, *ends = [jnp.asarray(to_model(one))[None] for one in pictures] or [None]
        *_, first, _, beside = begin(model.params["vae"], keys, image, None, None, ends)
        seen = model.patches(pictures, rows) | beside
        conditional, unconditional = conditional | seen, unconditional | seen
        if share := model.kind.video.first.hint:
            x = (1 - share) * x + share * (beside["beside"][:, :1, ..., : model.channels] if first is None else first)
    scale = 7.5
    if "scales" in found:  # those that the pipeline has used, another one at each step
        scale = guidance.Stepwise(jnp.asarray(trajectory.plan.t), jnp.asarray(found["scales"][:, 1], jnp.float32))
    sampler = trajectory.sampler
    if sampler.draws:  # with the noise that theirs received: of the two draws of a step the second
        noises = jnp.stack([drawn(f"step {2 * i}", 2, *shape) for i in range(about["steps"][case])])
        step = lambda state, denoise, schedule, plan, i, noise: trajectory.sampler.step(
            state, denoise, schedule, plan, i, noises[i][None]
        )
        sampler = sampler._replace(step=step)
    x = x if first is None else x[:, 1:]

    @jax.jit
    def walk(weights, x):
        denoise = text_to_image.denoise(model, weights, conditional, None if model.distilled else unconditional, scale)
        denoise = denoise if first is None else video_models.completed(denoise, process.schedule, first, shape[0])
        keys = jax.random.split(jax.random.key(0), rows)
        return samplers.sample(sampler, denoise, process.schedule, x, trajectory.plan, keys)

    ours, theirs = walk(model.weights, x), found[f"latents/{case}"]
    ours = ours if first is None else np.concatenate([first, ours], axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within * np.abs(theirs).max())
    theirs = found[f"latents/{next(iter(about['walks']))}"]  # of which the picture is
    clip = jax.jit(functools.partial(programs.decoded, model, course))(model.params["vae"], theirs)
    assert clip.shape == (rows, frames - model.kind.video.first.left_out * vae.time_factor, *sides, 3)
    theirs = np.asarray(to_uint8(found["picture"]), int)  # of large clips some frames of the first
    seen = clip if theirs.shape == clip.shape else clip[:1, ::4]
    assert np.abs(np.asarray(seen, int) - theirs).max() <= 1


@pytest.mark.slow
def test_a_clip_depends_on_its_own_seed_and_frames_alone():
    model = loaded("wan")
    make = functools.partial(text_to_image.generate, model, "a cat", frames=5, height=16, width=24, steps=2)
    both = make(seeds=(3, 4), batch_size=2)
    assert both.shape == (2, 5, 16, 24, 3) and both.dtype == np.uint8
    assert np.abs(both[1].astype(int) - make(seeds=4)[0]).max() <= 1 < np.abs(both[1].astype(int) - both[0]).max()
    *_, last = text_to_image.watch(model, "a cat", frames=5, height=16, width=24, steps=2, seeds=3)
    assert np.abs(last.pictures[0].astype(int) - both[0]).max() <= 1


@pytest.mark.extended
@pytest.mark.parametrize("settings, message", [
    ({"frames": 6}, r"frames = 6: the autoencoder encodes the first frame alone .* groups of 2\. Valid: e\.g\. 5 or 7"),
    ({"height": 18}, "height = 18 must be a multiple of 4"),
    ({"image": np.zeros((16, 16, 3), np.uint8)}, "generates clips only from prompts"),
    ({"merge": 0.5}, "this model generates clips and does not support merge"),
    ({"frames": 9999, "height": 8192, "width": 8192}, "1 clip of 9999 frames of 8192 x 8192"),
])  # fmt: skip
def test_what_a_model_of_clips_cannot_make_is_refused_before_anything_is_computed(settings, message):
    model = loaded("wan", text_to_image.described)
    request = Request.make("a cat", **{"frames": 5, "height": 16, "width": 16, **settings})
    words = jax.ShapeDtypeStruct((1, 512, 32), jnp.float32)
    with pytest.raises(ValueError, match=message):
        job = Job.prepare(model, request)
        check_memory(model, job.course, 1, {"text": words}, {"text": words})


@pytest.mark.extended
def test_a_model_of_clips_has_the_size_and_the_frames_of_its_class():
    model = loaded("wan_of_two", text_to_image.described)
    job = Job.prepare(model, Request.make("a cat"))
    assert (job.course.size, job.course.frames, job.request.steps, job.guidance) == ((480, 832), 81, 50, 5.0)
    assert job.course.latents(model) == (41, 240, 416, 4)
    assert model.boundary == 0.875 and isinstance(model.weights, timed_weights.Experts)


@pytest.mark.extended
def test_a_model_that_begins_with_a_picture_needs_one_and_sees_it():
    model = loaded("wan_from_image", text_to_image.described)
    settings = {"frames": 5, "guidance": 1.0}
    with pytest.raises(ValueError, match="the clips of this model start from a picture; name the image"):
        Job.prepare(model, Request.make("a cat", **settings))
    job = Job.prepare(model, Request.make("a cat", image=np.zeros((16, 24, 3), np.uint8), **settings))
    assert (job.course.size, job.course.noised, model.seen_channels) == ((16, 24), False, 2 + 4)
    assert not model.sees_mask and not model.sees_picture


@pytest.mark.extended
def test_a_model_of_a_first_and_a_last_frame_needs_both():
    model = loaded("wan_first_and_last", text_to_image.described)
    picture, settings = np.zeros((16, 24, 3), np.uint8), {"frames": 5, "guidance": 1.0}
    prepare = lambda **more: Job.prepare(model, Request.make("a cat", **settings, **more))
    job = prepare(images=(picture, picture + 255))
    assert job.course.size == (16, 24) and [image.mean() for image in job.images] == [1]
    with pytest.raises(ValueError, match="the clips of this model start and end with pictures; name both by images"):
        prepare(image=picture)
    for images, image in (((picture,), None), ((picture,) * 3, None), ((picture,) * 2, picture)):
        with pytest.raises(ValueError, match=rf"images: {len(images)} of them.* Valid: the first and the last frame"):
            prepare(images=images, image=image)
    with pytest.raises(ValueError, match="the last image has 16 x 16 pixels"):
        prepare(images=(picture, picture[:, :16]))
    with pytest.raises(ValueError, match="this model generates clips and does not support images"):
        prompts_alone = loaded("wan", text_to_image.described)
        Job.prepare(prompts_alone, Request.make("a cat", images=(picture, picture), **settings))


class Coded:
    """An autoencoder of two frames a latent, whose latents are sums."""

    time_factor, scale, shift = 2, np.float32(1), np.float32(0)


@pytest.mark.parametrize("last, masks", [
    (None, [[1, 1], [0, 0], [0, 0]]), (7.0, [[1, 1], [0, 0], [0, 1]]),
])  # fmt: skip
def test_masks_say_which_frames_of_each_latent_are_known(last, masks):
    """The first latent is of one frame, the others of two each."""
    by_latent = lambda clip: jnp.concatenate([clip[:, :1], clip[:, 1:].reshape(1, 2, 2, 1, 1, 1).sum(2)], axis=1)
    frame = lambda value: jnp.full((1, 1, 1, 1), value)
    found = video_models.given(Coded, by_latent, frame(3.0), 5, *([] if last is None else [frame(last)]))
    assert found.shape == (1, 3, 1, 1, 3)
    np.testing.assert_array_equal(found[0, :, 0, 0, :2], masks)
    np.testing.assert_array_equal(found[0, :, 0, 0, 2], [3, 0, last or 0])


def test_one_mask_stands_behind_the_latents_of_a_known_first_frame():
    vae = types.SimpleNamespace(scale=np.float32(2), shift=np.float32(1))
    found = video_models.padded(vae, lambda clip: clip, jnp.full((1, 1, 1, 2), 4.0), 3, one_mask=True)
    np.testing.assert_array_equal(found[0, :, 0, 0], [[6, 6, 1], [0, 0, 0], [0, 0, 0]])


def test_noise_is_mixed_with_a_share_of_the_first_frame_in_each_frame():
    x, first = np.float32([[[4, 8], [0, 12]]]), np.float32([[[0, 4]]])
    np.testing.assert_array_equal(video_models.hinted(x, first, 0.25), [[[3, 7], [0, 10]]])


@pytest.mark.extended
@pytest.mark.parametrize("name, frames", [("hunyuan_video_from_image", 9), ("hunyuan_video_concat_from_image", 5)])
def test_a_hunyuan_video_from_an_image_needs_it_and_its_text_encoder_sees_it(name, frames):
    model = loaded(name, text_to_image.described)
    settings = {"frames": 9, "height": 16, "width": 16}
    with pytest.raises(ValueError, match="the clips of this model start from a picture; name the image"):
        Job.prepare(model, Request.make("a cat", **settings))
    job = Job.prepare(model, Request.make("a cat", image=np.zeros((16, 16, 3), np.uint8), **settings))
    assert [picture.shape for picture in job.prompt_images] == [(1, 12, 12, 3)]
    assert (job.request.steps, job.guidance) == (50, 1.0)
    clip = jax.eval_shape(functools.partial(programs.decoded, model, job.course), model.params["vae"],
                          jax.ShapeDtypeStruct((1, 3, 2, 2, 4), jnp.float32))  # fmt: skip
    assert clip.shape == (1, frames, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name, frames", [("hunyuan_video_from_image", 9), ("hunyuan_video_concat_from_image", 5)])
def test_a_hunyuan_video_follows_its_image(name, frames):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    make = functools.partial(text_to_image.generate, loaded(name), "a cat", frames=9, steps=2, seeds=(0,))
    clip, other = make(image=picture), make(image=255 - picture)
    assert clip.shape == (1, frames, 16, 16, 3) and np.abs(clip.astype(int) - other).max() > 1


@pytest.mark.parametrize("known, masks", [
    ((), [1, 1, 1]), ((3.0,), [0, 1, 1]), ((None, 7.0), [1, 1, 0]), ((3.0, 7.0), [0, 1, 0]),
])  # fmt: skip
def test_the_control_of_a_clip_that_is_filled_has_what_is_known_and_masks(known, masks):
    """The nearest of five frames to the middle of each third are the first, the third and the fifth."""
    vae = types.SimpleNamespace(factor=2, scale=np.float32(1), shift=np.float32(0))
    every_second = lambda clip: clip[:, ::2, ::2, ::2, :1]
    frames = [value and jnp.full((1, 4, 6, 3), value) for value in known]
    found = video_models.filled(vae, every_second, (4, 6), 5, *frames)
    assert found.shape == (1, 3, 2, 3, 1 + 1 + 4)
    first, last = [*known, None, None][:2]
    for column, expected in ((0, [first or 0, 0, last or 0]), (1, [0, 0, 0]), (2, masks), (5, masks)):
        np.testing.assert_array_equal(found[0, :, 1, 2, column], expected)


@pytest.mark.extended
def test_a_vace_makes_clips_of_prompts_and_between_frames_and_no_other_class_takes_its_denoiser(tmp_path):
    model = loaded("wan_vace", text_to_image.described)
    picture, settings = np.zeros((16, 24, 3), np.uint8), {"frames": 5, "guidance": 1.0}
    prepare = lambda **more: Job.prepare(model, Request.make("a cat", **settings, **more))
    assert prepare(height=16, width=24).course.size == prepare(image=picture).course.size == (16, 24)
    assert len(prepare(images=(picture, picture)).images) == 1
    index = json.loads(made_pipelines.fixture("wan_vace")[0]["files"]["model_index.json"])
    for fixture, kind, sees in (("wan_vace", "WanPipeline", 12), ("wan", "WanVACEPipeline", 0)):
        changed = {"files": {"model_index.json": json.dumps(index | {"_class_name": kind})}}
        folder = made_pipelines.folder(fixture, tmp_path / kind, changed)
        with pytest.raises(Refusal, match=rf"must see a control of {12 - sees} channels; this one sees {sees}\."):
            text_to_image.described(folder)


@pytest.mark.extended
@pytest.mark.parametrize("name, frames, near", [("ltx", 10, "9 or 17"), ("cogvideox", 13, "9 or 17")])
def test_frames_that_do_not_fit_the_autoencoder_are_refused_with_those_that_do(name, frames, near):
    model = loaded(name, text_to_image.described)
    with pytest.raises(ValueError, match=f"frames = {frames}: .* groups of 8. Valid: e.g. {near}"):
        Job.prepare(model, Request.make("a cat", frames=frames, height=64, width=64))


@pytest.mark.extended
@pytest.mark.parametrize("name, course, usual", [
    ("ltx", ((512, 704), 161, (21, 16, 22, 8)), (50, 3.0)),
    ("cogvideox", ((480, 720), 49, (13, 120, 180, 4)), (50, 6.0)),
    ("hunyuan_video", ((720, 1280), 129, (33, 90, 160, 4)), (50, 6.0)),
    ("hunyuan_video_15", ((32, 32), 121, (31, 2, 2, 4)), (50, 5.0)),  # its folder states the size and the guidance
    ("ltx_conditions", ((512, 704), 161, (21, 16, 22, 8)), (50, 3.0)),
    ("cogvideox_frames", ((768, 1360), 81, (22, 192, 340, 4)), (50, 6.0)),
])  # fmt: skip
def test_other_families_have_the_size_and_the_frames_of_their_class(name, course, usual):
    model = loaded(name, text_to_image.described)
    job = Job.prepare(model, Request.make("a cat"))
    assert (job.course.size, job.course.frames, job.course.latents(model)) == course
    assert (job.request.steps, job.guidance) == usual


@pytest.mark.parametrize("name, denoiser, autoencoder, message", [
    ("LTXPipeline", LTXVideo(), AutoencoderKLLTX(), ""),
    ("LTXPipeline", LTXVideo(channels=16), AutoencoderKLVideo(), r"latent of \(8, 32, 32\).*\(4, 8, 8"),
    ("CogVideoXPipeline", CogVideoX(), AutoencoderKLCogVideoX(), ""),
    ("CogVideoXPipeline", CogVideoX(frames=2), AutoencoderKLCogVideoX(), ""),
    ("CogVideoXPipeline", CogVideoX(frames=4), AutoencoderKLCogVideoX(), "one or two frames; this one has 4"),
    ("CogVideoXPipeline", CogVideoX(in_channels=32), AutoencoderKLCogVideoX(), "16 channels; this one sees 32"),
    ("CogVideoXImageToVideoPipeline", CogVideoX(in_channels=32), AutoencoderKLCogVideoX(), ""),
    ("CogVideoXImageToVideoPipeline", CogVideoX(), AutoencoderKLCogVideoX(), "32 channels; this one sees 16"),
    ("HunyuanVideoImageToVideoPipeline", BESIDE, AutoencoderKLHunyuanVideo(), ""),
    ("HunyuanVideoImageToVideoPipeline", REPLACING, AutoencoderKLHunyuanVideo(), ""),
    ("HunyuanVideoImageToVideoPipeline", HunyuanVideo(), AutoencoderKLHunyuanVideo(), "33 channels; this one sees 16"),
    ("HunyuanVideo15Pipeline", HunyuanVideo15(), AutoencoderKLHunyuanVideo15(), ""),
    ("HunyuanVideo15ImageToVideoPipeline", HunyuanVideo15(from_image=True), AutoencoderKLHunyuanVideo15(), ""),
    ("HunyuanVideo15ImageToVideoPipeline", HunyuanVideo15(), AutoencoderKLHunyuanVideo15(), "65 channels; this one s"),
    ("HunyuanVideo15Pipeline", HunyuanVideo15(from_image=True), AutoencoderKLHunyuanVideo15(), "32 channels; this one"),
    ("HunyuanVideoPipeline", REPLACING, AutoencoderKLHunyuanVideo(), "must have no image_condition_type"),
    ("HunyuanVideoPipeline", BESIDE, AutoencoderKLHunyuanVideo(), "16 channels; this one sees 33"),
])  # fmt: skip
def test_a_denoiser_of_clips_fits_its_autoencoder(name, denoiser, autoencoder, message, tmp_path):
    kind = pipelines.KINDS[name]
    check = functools.partial(denoiser_checks.check_denoiser, tmp_path, name, kind, denoiser, autoencoder)
    if not message:
        return check()
    with pytest.raises(Refusal, match=message):
        check()


def test_a_model_whose_first_frame_is_clean_sees_no_further_channels(tmp_path):
    """Where model_index.json says expand_timesteps, the picture stands among the latents, at the time 0."""
    name, autoencoder = "CogVideoXImageToVideoPipeline", AutoencoderKLCogVideoX()
    kind = pipelines.KINDS[name]
    kind = kind._replace(video=kind.video._replace(first=kind.video.first._replace(clean=True)))
    denoiser_checks.check_denoiser(tmp_path, name, kind, CogVideoX(), autoencoder)
    with pytest.raises(Refusal, match="16 channels; this one sees 32"):
        denoiser_checks.check_denoiser(tmp_path, name, kind, CogVideoX(in_channels=32), autoencoder)


@pytest.mark.extended
def test_a_clip_of_learned_positions_has_their_shape():
    model = loaded("cogvideox_from_image", text_to_image.described)
    picture = np.zeros((16, 16, 3), np.uint8)
    assert Job.prepare(model, Request.make("a cat", image=picture, frames=9)).course.latents(model) == (3, 4, 4, 4)
    with pytest.raises(ValueError, match=r"17 frames of 16 x 16 .* learned positions only for 9 frames of 16 x 16"):
        Job.prepare(model, Request.make("a cat", image=picture, frames=17))
    with pytest.raises(ValueError, match=r"9 frames of 32 x 16 \(.*for 9 frames of 16 x 16; scale"):
        Job.prepare(model, Request.make("a cat", image=np.zeros((32, 16, 3), np.uint8), frames=9))


@pytest.mark.extended
def test_a_model_with_times_of_frames_may_begin_with_a_picture_and_has_their_seconds():
    model = loaded("ltx_conditions", text_to_image.described)
    job = Job.prepare(model, Request.make("a cat", frames=17, image=np.zeros((32, 64, 3), np.uint8)))
    assert job.course.size == (32, 64)
    np.testing.assert_allclose(model.beside(2, 3.0, 32, 64, 17)["seconds"], [[0, 1 / 25, 9 / 25]] * 2)
    t = np.asarray(job.course.trajectory.plan.t)
    np.testing.assert_allclose(t[:26], np.linspace(1, 0.975, 26), atol=1e-6)  # then a parabola that ends at 0
    np.testing.assert_allclose(np.diff(t[25:], 2), np.diff(t[25:], 2)[0], rtol=1e-3)


@pytest.mark.extended
def test_a_blurred_first_frame_has_noise_that_grows_with_the_square_of_the_time():
    first, keys = jnp.full((2, 1, 40, 40, 8), 3.0), jax.random.split(jax.random.key(0), 2)
    seen = []

    def denoise(x, t):
        seen.append(x)
        return parameterizations.Prediction(x, x)

    blurred = video_models.completed(denoise, schedules.rectified_flow(), first, 3, 0.15, keys)
    noise = []
    for t in (1.0, 0.5, 0.5, 0.0):
        assert blurred(jnp.zeros((2, 2, 40, 40, 8)), t).x0.shape[1] == 2
        noise.append(np.asarray(seen[-1][:, 0] - 3))
        np.testing.assert_allclose(noise[-1].std((1, 2, 3)), 0.15 * t**2, rtol=0.03)
    np.testing.assert_array_equal(noise[1], noise[2])  # a time has its noise, each example its own
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(noise[0][0].ravel(), noise[0][1].ravel())[0, 1]) < 0.05


def test_a_flow_map_completes_a_blurred_first_frame_too():
    first, keys = jnp.full((2, 1, 20, 20, 8), 3.0), jax.random.split(jax.random.key(0), 2)
    seen = []
    flow_map = FlowMap(lambda x, t, s: (seen.append((x, t, s)), x)[1])
    blurred = video_models.completed(flow_map, schedules.rectified_flow(), first, 3, 0.15, keys)
    assert isinstance(blurred, FlowMap) and blurred(jnp.zeros((2, 2, 20, 20, 8)), 0.5, 0.25).shape[1] == 2
    ((x, t, s),) = seen
    np.testing.assert_allclose(np.asarray(x[:, 0] - 3).std((1, 2, 3)), 0.15 / 4, rtol=0.05)
    clean = timesteps.clean_time(schedules.rectified_flow())
    np.testing.assert_allclose([t[0], s[0]], [[clean, 0.5, 0.5], [clean, 0.25, 0.25]], rtol=1e-6)


def test_two_denoisers_are_chosen_by_the_boundary():
    weights = timed_weights.Experts(jnp.float32(2), jnp.float32(3), 0.875)
    at = lambda t: float(timed_weights.at(weights, jnp.full(2, t), lambda own: 10 * own))
    assert [at(t) for t in (1.0, 0.875, 0.874)] == [20, 20, 30]
    assert [float(weights.scale(t, (4.0, 3.0))) for t in (0.875, 0.874)] == [4, 3]
    assert float(weights.scale(0.5, 7.0)) == 7


@pytest.mark.extended
def test_a_lora_file_is_of_the_denoiser_that_its_interval_names(tmp_path):
    model = loaded("wan_of_two", text_to_image.described)
    model = dataclasses.replace(model, params=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), model.params))
    ones = {"A": np.ones((3, 32), np.float32), "B": np.ones((32, 3), np.float32)}
    save_file({f"blocks.0.attn1.to_q.lora_{end}.weight": a for end, a in ones.items()}, tmp_path / "a.safetensors")
    changed = lambda weight: [
        part
        for part, tree in text_to_image.with_loras(model, {tmp_path / "a.safetensors": weight}).params.items()
        if any(np.any(leaf) for leaf in jax.tree.leaves(tree))
    ]
    assert changed(1.0) == ["transformer"] and changed((1.0, (0.0, 0.875))) == ["transformer_2"]
    with pytest.raises(ValueError, match=r"Valid intervals: 0-0\.875, or above 0\.875"):
        changed((1.0, (0.2, 1.0)))


def test_the_guidance_of_a_second_denoiser_is_refused_where_there_is_one():
    with pytest.raises(ValueError, match="late_guidance = 3: this model has only one denoiser"):
        Job.prepare(loaded("wan", text_to_image.described), Request.make("a cat", frames=5, late_guidance=3.0))
    job = Job.prepare(model := loaded("wan_of_two", text_to_image.described), Request.make("a cat", late_guidance=3.0))
    np.testing.assert_array_equal(job.scale(model), [5, 3])


@pytest.mark.extended
def test_a_dynamic_guidance_has_the_scales_of_diffusers_at_each_step():
    """The numbers that CogVideoXPipeline used with use_dynamic_cfg, at the times that it listed."""
    times, scales = made_pipelines.fixture("cogvideox_dynamic")[1]["scales"].T
    model = loaded("cogvideox_dynamic", text_to_image.described)
    settings = {"frames": 9, "height": 16, "width": 16, "steps": 25, "guidance": 7.5, "sampler": "ddim"}
    job = Job.prepare(model, Request.make("a cat", dynamic_guidance=True, **settings))
    np.testing.assert_array_equal(np.rint(np.asarray(job.course.trajectory.plan.t) * 1000) - 1, times)
    ours = job.scale(model)
    assert isinstance(ours, guidance.Stepwise)
    np.testing.assert_allclose(ours.scales, scales, rtol=1e-6)
    assert 1 <= scales.min() < 1.5 and 8 < scales.max() <= 8.5  # they differ from step to step
    at = (times + 1) / 1000
    np.testing.assert_allclose(ours(jnp.asarray(at)), scales, rtol=1e-6)
    np.testing.assert_allclose(ours(at[3] + 0.01), scales[3], rtol=1e-6)  # of the step that is nearest
    assert Job.prepare(model, Request.make("a cat", **settings)).scale(model) == 7.5


@pytest.mark.slow
def test_a_clip_of_a_dynamic_guidance_has_its_scales():
    """The same clip as by a model of these scales; not that of the constant one."""
    model = loaded("cogvideox_dynamic")
    settings = {"frames": 9, "height": 16, "width": 16, "steps": 4, "guidance": 100.0, "seeds": 3}
    make = functools.partial(text_to_image.generate, model, "a cat", **settings)
    clip = make(dynamic_guidance=True)
    *_, last = text_to_image.watch(model, "a cat", dynamic_guidance=True, **settings)
    assert np.abs(last.pictures.astype(int) - clip).max() <= 1
    assert np.abs(clip.astype(int) - make()).max() > 1
    scales = lambda scale, times, steps: np.full(len(times), scale)
    constant = model.kind._replace(guidance=model.kind.guidance._replace(dynamic_scales=scales))
    fixed = dataclasses.replace(model, kind=constant, _programs={})
    by_steps = text_to_image.generate(fixed, "a cat", dynamic_guidance=True, **settings)
    assert np.abs(by_steps.astype(int) - make()).max() <= 1


@pytest.mark.extended
@pytest.mark.parametrize("name, settings, message", [
    ("wan", {"frames": 5}, "a WanPipeline has the same scale at all steps; leave dynamic_guidance out"),
    ("cogvideox_dynamic", {"frames": 9, "guidance": 1.0},
     r"dynamic_guidance changes the scale of the guidance, but guidance = 1 means none\. Valid: a guidance above 1"),
])  # fmt: skip
def test_a_dynamic_guidance_is_refused_where_nothing_would_change(name, settings, message):
    model = loaded(name, text_to_image.described)
    with pytest.raises(ValueError, match=message):
        Job.prepare(model, Request.make("a cat", height=16, width=16, dynamic_guidance=True, **settings))


def test_a_second_denoiser_without_a_boundary_is_refused(tmp_path):
    folder = made_pipelines.folder("wan_of_two", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "boundary_ratio": None}))
    with pytest.raises(Refusal, match="has a transformer_2 but no boundary_ratio"):
        text_to_image.described(folder)


@pytest.mark.extended
def test_both_of_two_denoisers_are_stored_in_8_bits():
    model = loaded("wan_of_two")
    quantised, about = text_to_image.with_quantised(model, "int8")
    numbers = [
        sum(map(is_quantised, jax.tree.leaves(quantised.params[part], is_leaf=is_quantised)))
        for part in (model.kind.denoiser.folder, model.kind.video.second)
    ]
    assert numbers[0] == numbers[1] > 5 and about.kernels == sum(numbers)


def small_clips(first=None, denoiser=None, **video):
    """A model of clips whose autoencoder has 4 frames and 2 x 2 pixels for a latent."""
    kind = types.SimpleNamespace(video=Video(9, (8, 12), 8.0, first=first or FirstImage(), **video))
    vae = types.SimpleNamespace(factor=2, time_factor=4)
    return types.SimpleNamespace(kind=kind, modules={"vae": vae}, denoiser=denoiser or types.SimpleNamespace())


@pytest.mark.parametrize("first, more, expected", [
    ({"begins": True, "masked": True}, {}, True),
    ({"begins": True, "masked": True}, {"denoiser": types.SimpleNamespace(picture_width=8, picture_tokens=2)}, True),
    ({"begins": True, "masked": True}, {"denoiser": types.SimpleNamespace(picture_width=8, picture_tokens=0)}, False),
    ({"begins": True, "masked": True, "clean": True}, {}, False),
    ({"begins": True, "masked": False}, {}, False),
    ({"begins": False, "masked": True}, {}, False),
    ({"begins": False, "masked": False}, {"fills": True}, True),
])  # fmt: skip
def test_a_clip_ends_with_an_image_where_a_mask_says_which_frames_are_known(first, more, expected):
    assert video_models.takes_last(small_clips(FirstImage(**first), **more)) is expected
    pictures = types.SimpleNamespace(kind=types.SimpleNamespace(video=None))
    assert video_models.takes_last(pictures) is False


PICTURE = np.zeros((8, 8, 3), np.uint8)
BOTH = (PICTURE, PICTURE)
OF_TWO = {"denoiser": types.SimpleNamespace(picture_width=8, picture_tokens=2)}
OF_ONE = {"denoiser": types.SimpleNamespace(picture_width=8, picture_tokens=0)}
NAME = "the clips of this model start from a picture; name the image"
BEGINS = {"begins": True}
ENTRY = '{"name": "first_block"}'


@pytest.mark.parametrize("first, more, settings, message", [
    (BEGINS, {}, {}, NAME),
    (BEGINS, {}, {"image": PICTURE}, ""),
    (BEGINS, {}, {"images": BOTH}, ""),
    (BEGINS, {}, {"images": BOTH[:1]}, "images: 1 of them. Valid"),
    (BEGINS, {}, {"images": BOTH + BOTH[:1]}, "images: 3 of them. Valid"),
    (BEGINS, {}, {"images": BOTH, "image": PICTURE}, "images: 2 of them beside an image. Valid"),
    (BEGINS, OF_TWO, {}, "start and end with pictures; name both by images"),
    (BEGINS, OF_TWO, {"image": PICTURE}, "start and end with pictures; name both by images"),
    (BEGINS, OF_TWO, {"images": BOTH}, ""),
    (BEGINS, OF_ONE, {"image": PICTURE}, ""),
    (BEGINS, OF_ONE, {"images": BOTH, "image": PICTURE}, "does not support images"),
    (BEGINS | {"clean": True}, {}, {}, ""),
    (BEGINS | {"clean": True}, {}, {"image": PICTURE}, ""),
    (BEGINS | {"clean": True, "sight": lambda *_: None}, {}, {}, NAME),
    ({}, {}, {}, ""),
    ({}, {}, {"image": PICTURE}, "this model (small) generates clips only from prompts; leave the image out"),
    ({}, {}, {"images": BOTH}, "does not support images"),
    ({"clean": True}, {}, {"image": PICTURE}, ""),
    ({}, {"fills": True}, {"image": PICTURE}, ""),
    ({}, {"fills": True}, {"images": BOTH}, ""),
    ({}, {"second": "transformer_2"}, {}, ""),
    ({}, {}, {"cache": ENTRY}, ""),
    ({}, {"second": "transformer_2"}, {"cache": ENTRY}, "}: this model has two denoisers, which no cache supports"),
    (BEGINS, {}, {"image": PICTURE, "mask": np.zeros((8, 8), bool)}, "does not support mask"),
])  # fmt: skip
def test_the_pictures_of_a_clip_are_those_that_its_model_sees(first, more, settings, message):
    model = small_clips(FirstImage(**first), **more)
    model.name = "small"
    request = dataclasses.replace(Request.make("a cat"), **settings)
    if message:
        with pytest.raises(ValueError, match=re.escape(message)):
            video_models.check(request, model)
    else:
        video_models.check(request, model)
    video_models.check(request, types.SimpleNamespace(kind=types.SimpleNamespace(video=None)))


def test_learned_positions_fit_clips_of_one_shape():
    """2 latent frames of 4 are 5 frames, 3 x 4 latents of 2 x 2 pixels are 6 x 8 pixels."""
    model = small_clips(denoiser=types.SimpleNamespace(learned=2, grid=(3, 4)))
    video_models.check_learned(model, (6, 8), 5)
    for size, number in (((6, 8), 9), ((8, 6), 5), ((6, 10), 5)):
        with pytest.raises(ValueError, match=r"only for 5 frames of 6 x 8; scale or crop the image"):
            video_models.check_learned(model, size, number)
    video_models.check_learned(model, (99, 99), 0)  # a picture has no frames
    video_models.check_learned(small_clips(), (99, 99), 99)


@pytest.mark.parametrize("wanted, low, high", [(2, 1, 5), (8, 5, 9), (12, 9, 13)])
def test_frames_that_fill_no_group_are_refused_with_their_neighbours(wanted, low, high):
    request = types.SimpleNamespace(frames=wanted)
    with pytest.raises(ValueError, match=rf"in groups of 4\. Valid: e\.g\. {low} or {high}$"):
        video_models.frames(request, small_clips())
    assert video_models.frames(types.SimpleNamespace(frames=high), small_clips()) == high
    assert video_models.frames(types.SimpleNamespace(frames=None), small_clips()) == 9
