"""The parts of a request's programs with functions that a test can read in place of networks."""

import dataclasses
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import timesteps
from diffusion.models.autoencoders import tiles
from diffusion.published.pipeline_kinds import FirstImage, Guidance, Pictures, Prompts, Reader, SecondStage, Video
from diffusion.text_to_image import (
    jobs,
    memory_check,
    programs,
    prompt_conditions,
    request_checks,
    second_stage,
    video_models,
)
from diffusion.text_to_image.canvas import Canvas
from diffusion.text_to_image.guided_denoiser import Evaluation
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.regions import Region, Word
from diffusion.text_to_image.requests import Request
from tests.text_to_image.stand_ins import made_model

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


class Clips:
    """An autoencoder of 2 frames and 2 x 2 pixels for a latent, without a posterior."""

    factor, time_factor, latent_channels, scale, shift = 2, 2, 3, np.float32(0.5), np.float32(0.25)

    def apply(self, variables, x, method):
        return x[:, ::2, ::2, ::2] if method == "encode" else x.repeat(2, -2).repeat(2, -3)


# ==== The start of clips, and what is known of them ====


@pytest.fixture
def begun():
    """The start of three clips of two latent frames from an image [1, 4, 6, 3], by how their kind begins."""

    def begin(x, image, *images, fills=False, sound=None, **first):
        video = Video(3, (4, 6), 1.0, first=FirstImage(**first), fills=fills)
        model = types.SimpleNamespace(
            modules={"vae": Clips()}, kind=types.SimpleNamespace(video=video, sound=sound), channels=3
        )
        course = types.SimpleNamespace(size=(4, 6), frames=3, latents=lambda model: (2, 2, 3, 3))
        start = programs.Start(x, np.arange(3), beside={"other": 1})
        encode = lambda clip: clip[:, ::2, ::2, ::2]
        return programs._begin_clip(model, course, encode, start, image, images)

    return begin


def test_clips_see_their_first_frame_as_their_kind_does(begun):
    """Latents of a frame are (every second pixel - shift) scale, 1/4 and 1/2."""
    x, image, last = normal(3, 2, 2, 3, 3), normal(1, 4, 6, 3), normal(1, 4, 6, 3)
    latent = lambda image: np.repeat((image[:, None, ::2, ::2] - 0.25) * 0.5, 3, axis=0)
    grey = np.full((3, 1, 2, 3, 3), -0.125)
    clean = begun(x, image, clean=True, hint=0.25)
    np.testing.assert_allclose(clean.known, latent(image), rtol=1e-5)
    np.testing.assert_allclose(clean.x, (0.75 * x + 0.25 * latent(image))[:, 1:], rtol=1e-5, atol=1e-6)
    assert clean.beside == {"other": 1}
    heard = begun(x, image, clean=True, sound="a sound")
    np.testing.assert_array_equal(heard.beside["clean"], [[True, False]] * 3)
    np.testing.assert_allclose(heard.known, latent(image), rtol=1e-5)
    assert heard.x is x
    masked = begun(x, image, masked=True)
    np.testing.assert_array_equal(masked.beside["beside"][0, :, 0, 0, :2], [[1, 1], [0, 0]])
    np.testing.assert_allclose(
        masked.beside["beside"][..., 2:], np.concatenate([latent(image), grey], 1), rtol=1e-5, atol=1e-6
    )
    assert masked.x is x and masked.known is None
    both = begun(x, image, last, masked=True).beside["beside"]
    np.testing.assert_array_equal(both[0, :, 0, 0, :2], [[1, 1], [0, 1]])
    np.testing.assert_allclose(both[:, 1:, ..., 2:], latent(last), rtol=1e-5, atol=1e-6)
    padded = begun(x, image, masked=False, one_mask=True, hint=0.25)
    np.testing.assert_allclose(padded.x, 0.75 * x + 0.25 * latent(image), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(padded.beside["beside"][0, :, 0, 0, 3], [1, 0])
    np.testing.assert_allclose(padded.beside["beside"][:, :1, ..., :3], latent(image), rtol=1e-5, atol=1e-6)
    filled = begun(x, image, fills=True).beside["control"]
    assert filled.shape == (3, 2, 2, 3, 3 + 3 + 4)
    np.testing.assert_allclose(filled[:, :1, ..., :3], latent(image), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(filled[0, :, 0, 0, 6:], [[0] * 4, [1] * 4])
    assert begun(x, None).x is x and begun(x, None).beside == {"other": 1}


def test_known_latents_are_kept_by_a_hook_and_a_first_frame_by_the_denoiser(monkeypatch):
    calls = []
    model = made_model()
    plan = timesteps.plan(np.array([0.9, 0.5, 0.0]))
    trajectory = types.SimpleNamespace(plan=plan, sampler=types.SimpleNamespace(takes=()))
    monkeypatch.setattr(programs, "with_clock", lambda model, trajectory: model)
    monkeypatch.setattr(programs, "denoise", lambda *arguments, **how: calls.append(arguments) or "denoiser")
    monkeypatch.setattr(programs.editing, "replacement", lambda *arguments: ("fresh", *arguments))
    monkeypatch.setattr(programs.editing, "replacement_along", lambda *arguments: ("one", *arguments))
    monkeypatch.setattr(video_models, "completed", lambda *arguments: ("completed", *arguments))
    monkeypatch.setattr(video_models, "begun", lambda *arguments: ("begun", *arguments))
    course = types.SimpleNamespace(
        trajectory=trajectory, evaluation=Evaluation(), frames=0, guided=True, shape=lambda model: "shape",
        latents=lambda model: (7, 2, 2, 3),
    )  # fmt: skip
    guided = lambda start, model=model: programs._guided(model, course, "params", start, {"a": 1}, {"a": 2}, 3.0)
    painted = np.array([[True, False]])
    start = programs.Start("x", "keys", None, painted, {"b": 3})
    assert guided(start) == ("denoiser", None) and guided(start._replace(known="z", painted=None))[1] is None
    assert calls[0] == (model, "params", {"a": 1, "b": 3}, {"a": 2, "b": 3}, 3.0, ())
    name, schedule, to_plan, known, kept = guided(start._replace(known="z"))[1]
    assert (name, schedule, to_plan, known) == ("fresh", model.process.schedule, plan, "z")
    np.testing.assert_array_equal(kept, [[False, True]])
    name, *_, known, kept, noise = guided(start._replace(known=programs.Kept("z", "noise")))[1]
    assert (name, known, noise) == ("one", "z", "noise") and not kept[0, 0]
    course.guided, course.frames = False, 5
    clips = dataclasses.replace(
        model, kind=model.kind._replace(video=Video(5, (2, 2), 1.0, first=FirstImage(blur=0.4)))
    )
    completed, hook = guided(start._replace(known="z"), clips)
    assert hook is None and calls[-1][3] is None
    assert completed == ("completed", "denoiser", model.process.schedule, "z", 7, 0.4, "keys")
    heard = dataclasses.replace(clips, kind=clips.kind._replace(sound="a sound"))
    assert guided(start._replace(known="z"), heard) == (("begun", "denoiser", "shape", "z"), None)


def test_an_image_is_noised_to_the_first_time():
    schedule = types.SimpleNamespace(alpha=lambda t: 1 - t, sigma=lambda t: t)
    plan = timesteps.plan(np.array([0.75, 0.25, 0.0]))
    np.testing.assert_allclose(programs.noised(schedule, plan, 8.0, 4.0), 0.25 * 8 + 0.75 * 4)


# ==== The autoencoder ====


def test_tiles_of_latents_overlap_by_a_quarter_and_begin_at_multiples_of_the_factor(monkeypatch):
    cut = []
    monkeypatch.setattr(tiles, "tiled", lambda function, *sizes, **how: cut.append((sizes, how)) or function)
    model = types.SimpleNamespace(modules={"vae": Clips()})
    programs._autoencoder(model, {}, 64)
    assert cut == [((32, 8), {}), ((64, 16), {"step": 2})]
    programs._autoencoder(model, {}, 0)
    assert len(cut) == 2


def test_a_picture_is_a_clip_of_one_frame_and_opaque_where_the_autoencoder_has_alpha():
    vae = Clips()
    vae.takes_frames = True
    encode, decode = programs._autoencoder(types.SimpleNamespace(modules={"vae": vae}), {}, 0)
    x = normal(2, 4, 6, 3)
    np.testing.assert_array_equal(encode(x), x[:, ::2, ::2])
    np.testing.assert_array_equal(decode(x), x.repeat(2, 1).repeat(2, 2))
    vae.picture_channels = 4
    encode, _ = programs._autoencoder(types.SimpleNamespace(modules={"vae": vae}), {}, 0)
    np.testing.assert_array_equal(encode(x)[..., 3], np.ones((2, 2, 3)))
    np.testing.assert_array_equal(encode(x)[..., :3], x[:, ::2, ::2])


def test_an_autoencoder_that_sees_the_kept_part_decodes_with_it():
    class Seeing(Clips):
        sees_kept = True

        def apply(self, variables, z, image, mask, method):
            assert method == "decode" and variables == {"params": "own"}
            return z, image, mask

    model = types.SimpleNamespace(modules={"vae": Seeing()})
    z, image, mask = programs.decode_latents(model, "own", np.float32(3), 0, False, "image", "mask")
    assert (float(z), image, mask) == (3 / 0.5 + 0.25, "image", "mask")


@pytest.mark.parametrize("known, left_out", [(False, 0), (True, 0), (False, 1)])
def test_frames_that_fill_a_patch_and_those_left_out_are_cut_off(known, left_out, monkeypatch):
    """5 frames are 3 latents, which the denoiser has filled up at the front to 4; the autoencoder makes 5 of 3."""
    monkeypatch.setattr(programs, "decode_latents", lambda model, params, x, *_: np.repeat(x, 2, axis=1)[:, 1:])
    kind = types.SimpleNamespace(video=Video(5, (2, 2), 1.0, first=FirstImage(left_out=left_out)))
    model = types.SimpleNamespace(modules={"vae": Clips()}, kind=kind)
    course = types.SimpleNamespace(layers=0, frames=5, tile=0, latents=lambda model: (3, 1, 1, 1))
    x = np.float32([0, 1, 2, 3])[None, :, None, None, None]
    first = np.full((1, 1, 1, 1, 1), 9, np.float32) if known else None
    frames = programs.decoded_values(model, course, {}, x, first)[0, :, 0, 0, 0]
    expected = [9, 2, 2, 3, 3] if known else [1, 2, 2, 3, 3]
    np.testing.assert_array_equal(frames, expected[2 * left_out :])


# ==== The scales and the places of a request ====


def scale(kind, course, request, **model):
    fields = {"sees_picture": False, "boundary": None, **model}
    model = types.SimpleNamespace(kind=types.SimpleNamespace(**{"sound": None, **kind}), **fields)
    course = types.SimpleNamespace(**{"evaluation": Evaluation(), **course})
    return Job(request, Canvas(None, None), course).scale(model)


def test_the_scale_has_a_number_for_each_guidance():
    request = Request(guidance=3.0, perturbed_guidance=2.0, image_guidance=1.5, late_guidance=4.0, steps=3)
    late = dataclasses.replace(request, late_guidance=None)
    assert scale({}, {}, request).tolist() == 3
    assert scale({}, {"evaluation": Evaluation(perturbed=True)}, request).tolist() == [3, 2]
    assert scale({}, {}, request, sees_picture=True).tolist() == [3, 1.5]
    assert scale({}, {}, request, boundary=0.5).tolist() == [3, 4]
    assert scale({}, {}, late, boundary=0.5).tolist() == [3, 3]
    sound = dataclasses.replace(request, sound_guidance=5.0, modality_guidance=6.0)
    others = {"perturbed": 2, "apart": 6}
    assert scale({"sound": "a sound"}, {}, sound) == {"video": {"text": 3, **others}, "sound": {"text": 5, **others}}


@pytest.mark.parametrize("guidance, late, scales", [(0.0, 4.0, [1, 4]), (5.0, 0.5, [5, 1]), (1.0, 3.0, [1, 3])])
def test_a_scale_of_1_or_less_is_no_guidance_beside_another_scale(guidance, late, scales):
    request = Request(guidance=guidance, late_guidance=late, steps=3)
    assert scale({}, {}, request, boundary=0.5).tolist() == scales
    sound = scale({"sound": "a sound"}, {}, dataclasses.replace(request, late_guidance=None, sound_guidance=late))
    assert sound["video"]["text"] == scales[0] and sound["sound"]["text"] == late


def test_a_dynamic_guidance_has_a_scale_for_each_step():
    """t = 1, 0.6 and 0.2 of ten steps of the training process are its timesteps 9, 5 and 1, counted from 0."""
    kind = {"guidance": Guidance(dynamic_scales=lambda scale, times, steps: scale + times * steps)}
    plan = timesteps.plan(np.array([1.0, 0.6, 0.2, 0.0]))
    course = {"trajectory": types.SimpleNamespace(plan=plan)}
    request = Request(guidance=3.0, steps=3, dynamic_guidance=True)
    stepwise = scale(kind, course, request, process=types.SimpleNamespace(T=10))
    assert [float(stepwise(jnp.float32(t))) for t in (1.0, 0.6, 0.2)] == [3 + 27, 3 + 15, 3 + 3]
    plain = dataclasses.replace(request, dynamic_guidance=False)
    assert scale(kind, course, plain, process=types.SimpleNamespace(T=10)).tolist() == 3


def test_places_are_shares_of_latents_and_one_region_that_covers_all_is_the_prompt():
    reader = types.SimpleNamespace(folder="text_encoder")
    tokenizer = types.SimpleNamespace(start=(1, 2))
    kind = types.SimpleNamespace(prompts=types.SimpleNamespace(readers=(reader, None)))
    model = types.SimpleNamespace(
        modules={"vae": types.SimpleNamespace(factor=2)}, kind=kind, tokenizers={"text_encoder": tokenizer}
    )
    plan = timesteps.plan(np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]))
    placed = lambda **settings: jobs._placed(model, Request(prompts=("a", "b"), **settings), (4, 4), plan)
    left = Region("left", (0.0, 0.0, 0.75, 1.0))
    request, places = placed(regions=(left,))
    assert request.regions == (left,) and request.prompts == ("a", "b")
    np.testing.assert_array_equal(places.masks[0], [[1, 0.5]] * 2)
    request, places = placed(regions=(Region("all", (0.0, 0.0, 1.0, 1.0)),))
    assert (request.prompts, request.regions, places.masks) == (("all", "all"), (), ())
    request, places = placed(regions=(Region("all", (0.0, 0.0, 1.0, 1.0)), left))
    assert len(request.regions) == len(places.masks) == 2 and request.prompts == ("a", "b")
    box = (0.0, 0.0, 0.5, 0.5)
    _, places = placed(words=(Word("a"), Word("b", box)), attention=3.0)
    assert (places.masks, places.boxes, places.attention, places.first) == ((), (None, box), 3.0, 2)
    np.testing.assert_allclose(places.ends, (0.6, 1.0))  # after three of five steps, and after the first


@pytest.mark.parametrize("takes, instructed, cache, message", [
    ((), False, None, "by moving x_t, which the sampler heun does not support. Valid: ddim, ddpm"),
    ((jobs.Unpaired,), True, None, "words are located only in the prompt, but in a Made the prompt follows"),
    ((jobs.Unpaired,), False, "a cache", "words are guided by gradients through the network, which no cache"),
])  # fmt: skip
def test_words_are_refused_where_they_cannot_be_guided(takes, instructed, cache, message):
    model = types.SimpleNamespace(
        name="Made", kind=types.SimpleNamespace(prompts=types.SimpleNamespace(instructed=instructed))
    )
    sampler = types.SimpleNamespace(takes=takes)
    check = lambda *words: jobs._check_words(model, Request(words=words, sampler="heun"), sampler, cache)
    with pytest.raises(ValueError, match=message):
        check(Word("cat"))
    check()


# ==== What a denoiser receives beside x ====


def beside(x, images=(), frames=0, **how):
    defaults = {"channels": 3, "seen_channels": 0, "sees_mask": False, "sees_picture": False}
    pictures = Pictures(appends=how.pop("appends", False))
    denoiser = types.SimpleNamespace(control_channels=how.pop("controls", 0))
    model = types.SimpleNamespace(
        **{**defaults, **how}, kind=types.SimpleNamespace(pictures=pictures), denoiser=denoiser,
        modules={"vae": types.SimpleNamespace(factor=2)},
    )  # fmt: skip
    entries = memory_check._beside(model, types.SimpleNamespace(frames=frames), x, images)
    return {name: jax.tree.map(lambda leaf: leaf.shape, entry) for name, entry in entries.items()}


def test_the_memory_of_pictures_beside_x_is_counted_by_their_shapes():
    x = jax.ShapeDtypeStruct((5, 4, 6, 3), jnp.float32)
    assert beside(x) == beside(x, seen_channels=4) == {}
    assert beside(x, appends=True, sees_picture=True) == {"picture": (5, 4, 6, 3)}
    assert beside(x, sees_mask=True, seen_channels=4) == {"beside": (5, 4, 6, 4)}
    assert beside(x, sees_picture=True, seen_channels=3) == {"beside": (5, 4, 6, 3)}
    assert beside(x, controls=10) == {"control": (5, 4, 6, 10)}
    assert beside(x, images=((8, 12), (4, 2))) == {"pictures": ((5, 4, 6, 3), (5, 2, 1, 3))}
    clips = jax.ShapeDtypeStruct((5, 2, 4, 6, 3), jnp.float32)
    assert beside(clips, frames=3, seen_channels=7) == {"beside": (5, 2, 4, 6, 7)}


@pytest.mark.parametrize("field", ["added_width", "sized"])
def test_sizes_strengths_and_times_stand_beside_the_text(field):
    video = Video(9, (8, 12), 25.0, timed=True, rated=True)
    model = made_model()
    model.modules["vae"].time_factor = 4
    assert model.beside(2, 3.5, 64, 96, 9, 12.0) == {}
    setattr(model.denoiser, field, 1)
    clips = dataclasses.replace(model, kind=model.kind._replace(video=video))
    entries = clips.beside(2, 3.5, 64, 96, 9, 12.0)
    assert entries.keys() == {"size", "seconds", "rate"}
    np.testing.assert_array_equal(entries["size"], [[64, 96, 0, 0, 64, 96]] * 2)
    np.testing.assert_allclose(entries["seconds"], [[0, 1 / 25, 5 / 25]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(entries["rate"], [12, 12])
    assert clips.beside(2, 3.5, 64, 96).keys() == {"size"}


def test_a_first_stage_refuses_what_its_pictures_do_not_have():
    stage = SecondStage("decoder", "scheduler", 3, Fraction(32), 8)
    kind = types.SimpleNamespace(pictures=Pictures(), second_stage=stage, video=None)
    model = types.SimpleNamespace(kind=kind, name="Cascade", sees_picture=False)
    request_checks._check_pictures(Request(), model)
    with pytest.raises(ValueError, match="reference: the first stage of a Cascade supports only whole prompts"):
        request_checks._check_pictures(Request(reference=np.zeros((2, 2, 3), np.uint8)), model)


# ==== The conditions of prompts, and frames of a trajectory ====


def encoded(monkeypatch, prompts, negative, pictures=(), **model):
    """(the calls of the encoder, both conditions) of prompts whose text is their number of letters."""
    calls = []

    def condition(texts, *encoders, **how):
        calls.append((list(texts), encoders, how))
        return {"text": np.array([[len(text)] for text in texts])}

    monkeypatch.setattr(prompt_conditions, "check_words", lambda model, texts: None)
    prompts_of_kind = types.SimpleNamespace(condition=condition, instructed=False)
    defaults = {
        "encoders": ("encoder",), "sight": None, "zeros": False, "beside": lambda *how: {"beside": how},
        "kind": types.SimpleNamespace(prompts=prompts_of_kind, video=model.pop("video", None)),
    }  # fmt: skip
    made = types.SimpleNamespace(**(defaults | model))
    both = prompt_conditions.conditions(made, prompts, negative, 3.0, 8, 12, pictures=pictures, emphasis="none")
    return calls, both


def test_prompts_and_the_negative_one_are_encoded_once_each(monkeypatch):
    calls, (conditional, unconditional) = encoded(monkeypatch, ["a", "bcd", "a"], "no")
    assert calls == [(["a", "bcd", "no"], ("encoder",), {"emphasis": "none"})]
    assert conditional["text"].tolist() == [[1], [3], [1]] and unconditional["text"].tolist() == [[2]] * 3
    assert conditional["beside"] == unconditional["beside"] == (3, 3.0, 8, 12, 0, 0.0)


def test_without_a_negative_prompt_the_other_branch_is_empty_or_zero(monkeypatch):
    for zeros, negative, expected in ((False, None, 0), (True, None, 0), (True, "", 0), (True, "no", 2)):
        calls, (_, unconditional) = encoded(monkeypatch, ["a"], negative, zeros=zeros)
        assert unconditional["text"].tolist() == [[expected]] and calls[0][0] == ["a", negative or ""]
    monkeypatch.setattr(prompt_conditions.jnp, "zeros_like", lambda leaf: leaf - 100)
    assert encoded(monkeypatch, ["a"], None, zeros=True)[1][1]["text"].tolist() == [[-100]]
    assert encoded(monkeypatch, ["a"], "", zeros=True)[1][1]["text"].tolist() == [[0]]


def test_a_text_encoder_that_sees_pictures_sees_black_ones_with_the_negative_prompt_of_a_clip(monkeypatch):
    monkeypatch.setattr(prompt_conditions, "_equally_long", lambda *both: both)
    pictures = (np.zeros((1, 2, 2, 3), np.float32),)
    calls, both = encoded(monkeypatch, ["a"], "no", pictures, sight="sight", video="a video")
    (texts, _, how), (negative, _, other) = calls
    assert (texts, negative, how["pictures"]) == (["a"], ["no"], pictures)
    np.testing.assert_array_equal(other["pictures"][0], np.full((1, 2, 2, 3), -1))
    assert [one["text"].tolist() for one in both] == [[[1]], [[2]]]
    calls, _ = encoded(monkeypatch, ["a"], "no", pictures, sight="sight")  # of pictures: all in one call
    assert [(texts, how["pictures"]) for texts, _, how in calls] == [(["a", "no"], pictures)]
    assert "pictures" not in encoded(monkeypatch, ["a"], "no", pictures)[0][0][2]


def test_the_conditions_of_a_job_have_patches_regions_and_the_places_of_words(monkeypatch):
    monkeypatch.setattr(
        jobs, "conditions", lambda model, prompts, *_, **how: ({"text": list(prompts)}, {"text": "null"})
    )
    monkeypatch.setattr(jobs, "token_places", lambda words, prompts, tokenizer: [[[len(words), len(prompts)]]])
    monkeypatch.setattr(jobs, "_tokenizer", lambda model: None)
    monkeypatch.setattr(jobs, "program", lambda *_: None)
    request = Request(prompts=("a", "b"), guidance=2.0, regions=(Region("left", (0, 0, 0.5, 1)),), words=(Word("a"),))
    course = types.SimpleNamespace(frames=0, rate=0.0, size=(8, 8))
    model = types.SimpleNamespace(patches=lambda frames, number: {"patches": (len(frames), number)})
    image = np.zeros((8, 8, 3), np.uint8)
    conditional, unconditional = jobs.Job(request, Canvas(image, None), course).conditions(model, 2)
    assert unconditional == {"text": "null", "patches": (1, 2)}
    assert (conditional["text"], conditional["patches"]) == (["a", "b"], (1, 2))
    assert conditional["regions"] == ({"text": ["left", "left"]},) and conditional["words"].tolist() == [[[1, 2]]]


@pytest.mark.parametrize("stage, sound", [(None, None), ("a stage", None), (None, "a sound")])
def test_frames_are_predictions_and_the_last_is_the_sample(monkeypatch, stage, sound):
    """The second of four steps adds noise again, and has no frame."""
    finite = []
    functions = {
        programs.begin: lambda *_: types.SimpleNamespace(x="x", known="known", keys="keys"),
        programs.decoded_pictures: lambda vae, x, *_: (x, np.array([True, False])),
        programs.sounds: lambda params, x: np.array([x]),
        second_stage.finer: lambda params, x, conditional, keys: 10 * x,
    }
    states = [types.SimpleNamespace(x0=i, x=i + 100) for i in range(4)]
    run = lambda x, number, *_: states if (x, number) == ("x", 4) else None
    monkeypatch.setattr(jobs, "compiled", lambda model, course, function: functions[function])
    monkeypatch.setattr(jobs, "program", lambda *_: run)
    monkeypatch.setattr(jobs, "check_finite", lambda request, number, infinite: finite.append((number, infinite)))
    plan = types.SimpleNamespace(s=np.array([0.5, 0.75, 0.25, 0.0]), renoise=[False, True, False, False])
    course = types.SimpleNamespace(trajectory=types.SimpleNamespace(plan=plan), pictured=lambda model, x: x)
    job = types.SimpleNamespace(
        course=course, canvas=Canvas(None, None), keys=lambda: None, reference=None, images=(), scale=lambda model: 2.0,
        finished=lambda pictures: int(pictures), request=types.SimpleNamespace(number=2),
    )  # fmt: skip
    kind = types.SimpleNamespace(second_stage=stage, sound=sound)
    model = types.SimpleNamespace(kind=kind, drawing=None, weights=None, params={"vae": None}, sample_rate=9)
    frames = list(jobs._frames(model, job, {}, {}, ()))
    times = 10 if stage else 1
    assert [(frame.step, frame.steps, frame.t, frame.pictures) for frame in frames] == [
        (1, 4, 0.5, 0), (3, 4, 0.25, 2 * times), (4, 4, 0.0, 103 * times),
    ]  # fmt: skip
    assert finite == [(2, 1)] and [frame.sounds is None for frame in frames] == [True, True, sound is None]
    if sound:
        assert frames[-1].sounds.tolist() == [103] and frames[-1].sample_rate == 9


@pytest.mark.parametrize("there", [("text_encoder", "text_encoder_3"), ("text_encoder",)], ids=["both", "without T5"])
def test_a_condition_has_the_width_of_the_text_where_an_encoder_is_left_out(there):
    """Stable Diffusion 3 has zeros of this width in T5's place."""
    calls = []
    condition = lambda *arguments, **how: calls.append((arguments, how))
    made = made_model()
    kind = made.kind._replace(prompts=Prompts((Reader(), Reader("_3", optional=True)), condition))
    modules = {"unet": types.SimpleNamespace(text_width=24), "vae": made.modules["vae"], **dict.fromkeys(there)}
    dataclasses.replace(made, kind=kind, modules=modules)._conditions(
        ("a cat",), lambda name: f"of {name}", "connector"
    )
    ((arguments, how),) = calls
    third = "of text_encoder_3" if len(there) == 2 else None
    assert arguments == (["a cat"], "of text_encoder", third, "connector")
    assert how == ({} if third else {"width": 24})
