"""Clips with a sound, of a family that a user could have made: a denoiser of two products, and a sound of one number.

The networks are stand-ins, so that numpy makes the same clips and waveforms.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.arrays import pytrees
from diffusion.data.transforms import to_model, to_uint8
from diffusion.io import limits
from diffusion.models.budget import peak_memory
from diffusion.models.interchange import schedulers
from diffusion.published.ltx2.guidance import guided
from diffusion.published.pipeline_kinds import DenoiserNetwork, FirstImage, Guidance, Kind, Prompts, Sound, Usual, Video
from diffusion.text_to_image import jobs, programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.text_to_image.stand_ins import made_model

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
GAIN, LAYERS = 0.7, 3
SCALES = {"guidance": 2.5, "sound_guidance": 4.0, "perturbed_guidance": 0.5, "modality_guidance": 1.5}
REQUEST = {"negative": "bad", "steps": 3, "frames": 5, "height": 4, "width": 4, **SCALES}


class Clips:
    """An autoencoder of single pixels, each second frame of which is a latent."""

    factor, time_factor, latent_channels, scale, shift = 1, 2, 3, 1.0, 0.0

    def apply(self, variables, z, method):
        return z if method == "encode" else jnp.repeat(z, 2, axis=1)[:, 1:]

    def in_parts(self, vae, params, method):
        return lambda z: self.apply({}, z, method)


class Two:
    """The velocities of a clip and a sound, which see each other unless they are apart, and the times of frames."""

    channels, sound_channels, depth = 3, 2, LAYERS

    def __init__(self):
        self.traced = []

    def apply(self, variables, x, clock, condition):
        self.traced.append({name: leaf.shape for name, leaf in x.items()})
        tilt = condition.get("identity", np.zeros((1, LAYERS), bool)) @ np.array([100.0, 0.0, 0.3])
        seen = 1 - condition["apart"] if "apart" in condition else 1.0
        clocks = clock if isinstance(clock, dict) else dict.fromkeys(x, clock)
        return {name: velocity(leaf, clocks[name], *shifts(condition, x, seen, tilt, name)) for name, leaf in x.items()}


def velocity(leaf, clock, shift, other):
    wide = lambda value: jnp.reshape(value, (*jnp.shape(value), *[1] * (leaf.ndim - jnp.ndim(value))))
    return 0.4 * leaf + wide(clock) / 2000 + wide(jnp.broadcast_to(shift + other, len(leaf)))


def shifts(condition, x, seen, tilt, name):
    """What a modality's velocity has of the text, the rate and the perturbed layers, and of the other modality."""
    other = x["sound" if name == "video" else "video"]
    text = {"video": 0.01, "sound": 0.02}[name] * condition["text"] + condition["rate"] / 100
    return text + tilt, 0.5 * seen * other.mean(tuple(range(1, other.ndim)))


@pytest.fixture
def model():
    encoded = []

    def condition(texts, connect, **how):
        encoded.append(list(texts))
        return {"text": connect(jnp.asarray([len(text) for text in texts], jnp.float32))}

    sound = Sound(
        ("voice",),
        lambda modules, frames, rate: (round(10 * frames / rate), modules["transformer"].sound_channels),
        lambda modules, params, z: jnp.tanh(params["voice"] * z[..., :1]),
        lambda modules: 4000,
        guided,
        guidance=7.0,
        modality_guidance=3.0,
    )
    kind = Kind(
        "Made", Prompts((), condition, ("twice",)), Usual(4, 3.0), DenoiserNetwork(multiple=lambda denoiser: 1),
        guidance=Guidance(perturbs=lambda denoiser: np.arange(LAYERS)[None] == 2, perturbed_scale=1.0),
        video=Video(9, (8, 8), 10.0, first=FirstImage(clean=True), rated=True), sound=sound,
    )  # fmt: skip

    class Twice:
        def apply(self, variables, x):
            return variables["params"] * x

    modules = {"transformer": Two(), "vae": Clips(), "voice": None, "twice": Twice()}
    params = {"transformer": {}, "vae": {}, "voice": jnp.float32(GAIN), "twice": jnp.float32(2.0)}
    process = schedulers.read(FLOW, even=True)
    made = text_to_image.TextToImage("made", kind, modules, params, {}, process, 8, False, kind.usual)
    made._programs["encoded"] = encoded
    return made


def wide(value, leaf):
    return np.reshape(value, (-1, *[1] * (leaf.ndim - 1)))


def predicted(x, t, name, lengths, rate, tilt=0.0, seen=1.0, begun=False):
    """x_0 of one modality, for prompts of these lengths; the clock of a known first frame is 0."""
    other = x["sound" if name == "video" else "video"]
    mean = other.reshape(len(other), -1).mean(1)
    shift = {"video": 0.01, "sound": 0.02}[name] * 2 * np.array(lengths) + rate / 100 + tilt
    clock = np.full(x[name].shape[:2], t / 2)
    clock[:, 0] *= not (begun and name == "video")
    clock = clock.reshape(*clock.shape, *[1] * (x[name].ndim - 2))
    return x[name] - t * (0.4 * x[name] + clock + wide(shift + 0.5 * seen * mean, x[name]))


def by_numpy(noise, texts, rate, first=None):
    """The latents at the end of three steps, with all guidances; the negative text is "bad"."""
    x = {name: np.asarray(leaf, np.float64) for name, leaf in noise.items()}
    how = {"begun": first is not None}
    if first is not None:
        x["video"][:, 0] = first
    lengths, times = [len(text) for text in texts], np.array([1.0, 2 / 3, 1 / 3, 0.0])
    for t, s in itertools.pairwise(times):
        after = {}
        for name, leaf in x.items():
            of_name = (x, t, name)
            plain = predicted(*of_name, lengths, rate, **how)
            text = SCALES["guidance" if name == "video" else "sound_guidance"]
            combined = plain + (text - 1) * (plain - predicted(*of_name, [3] * len(texts), rate, **how))
            combined += SCALES["perturbed_guidance"] * (plain - predicted(*of_name, lengths, rate, tilt=0.3, **how))
            combined += (SCALES["modality_guidance"] - 1) * (
                plain - predicted(*of_name, lengths, rate, seen=0.0, **how)
            )
            ratio = plain.reshape(len(leaf), -1).std(1) / combined.reshape(len(leaf), -1).std(1)
            combined *= wide(0.7 * ratio + 0.3, leaf)
            after[name] = leaf + (s - t) * (leaf - combined) / t
        x = after
        if first is not None:
            x["video"][:, 0] = first
    return x


@pytest.mark.parametrize("begins", [False, True])
def test_clips_and_waveforms_are_those_of_the_formulas(model, begins):
    """Of two prompts, each with its seed, by all guidances of both modalities; and from a first frame."""
    prompts = ["a cat", "the red car"]
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) if begins else None
    request = Request.make(prompts, seeds=[3, 4], batch_size=2, frame_rate=8.0, image=image, **REQUEST)
    results = text_to_image.results(model, request)
    job = Job.prepare(model, request)
    assert job.course.shape(model) == {"video": (3, 4, 4, 3), "sound": (6, 2)}
    x, _, first, _, beside = programs.begin(model, job.course, {}, job.keys(), *job.canvas.arrays())
    if begins:
        np.testing.assert_array_equal(beside["clean"], [[True, False, False]] * 2)
        np.testing.assert_allclose(first[:, 0], np.tile(to_model(image), (2, 1, 1, 1)))
        assert np.abs(results.pictures[:, 0].astype(int) - image).max() <= 1
    assert x.shape == (2, 3 * 4 * 4 * 3 + 6 * 2) and abs(float(x.std()) - 1) < 0.1
    expected = by_numpy(
        pytrees.unpack(x, job.course.shape(model)), prompts, 8.0, first if first is None else first[:, 0]
    )
    clips = to_uint8(np.repeat(expected["video"], 2, axis=1)[:, 1:])
    assert results.pictures.shape == (2, 5, 4, 4, 3) and np.abs(results.pictures.astype(int) - clips).max() <= 1
    np.testing.assert_allclose(results.sounds, np.tanh(GAIN * expected["sound"][..., :1]), atol=2e-5)
    assert (results.rate, results.sample_rate, results.skipped) == (8.0, 4000, None)
    waveform, rate = results.sound(1)
    np.testing.assert_array_equal(waveform, results.sounds[1])
    assert rate == 4000 and results.sounds.dtype == np.float32


@pytest.mark.extended
def test_what_a_request_does_not_name_is_as_published_and_an_absent_guidance_is_no_branch(model):
    request = Request.make("a cat").resolved(model)
    scales = (request.guidance, request.sound_guidance, request.perturbed_guidance, request.modality_guidance)
    assert scales == (3.0, 7.0, 1.0, 3.0)
    job = Job.prepare(model, Request.make("a cat"))
    assert (job.course.frames, job.course.rate, job.course.size) == (9, 10.0, (8, 8))
    assert job.course.shape(model)["sound"] == (9, 2)
    none = {"guidance": 1, "sound_guidance": 1, "perturbed_guidance": 0, "modality_guidance": 1}
    rows = lambda: model.denoiser.traced[-1]["sound"][0]
    for name, more in {"guidance": 2, "sound_guidance": 2, "perturbed_guidance": 1, "modality_guidance": 2}.items():
        text_to_image.generate(model, "a cat", steps=1, frames=3, **none | {name: more})
        assert rows() == 2, name
    text_to_image.generate(model, "a cat", steps=1, frames=3, **none)
    assert rows() == 1


@pytest.mark.extended
def test_scales_and_seeds_build_no_program_again(model):
    make = lambda **more: text_to_image.results(model, Request.make("a cat", **REQUEST | more))
    first = make()
    calls = len(model.denoiser.traced)
    for more in ({}, {"seeds": 7}, {name: 2 * value for name, value in SCALES.items()}, {"negative": "worse"}):
        other = make(**more)
        assert len(model.denoiser.traced) == calls, more
        assert np.array_equal(other.sounds, first.sounds) == (not more)


@pytest.mark.extended
def test_the_last_frame_has_the_sound_and_the_earlier_ones_have_none(model):
    how = REQUEST | {"image": np.full((4, 4, 3), 90, np.uint8)}
    *earlier, last = text_to_image.watch(model, "a cat", seeds=[1, 2], **how)
    whole = text_to_image.results(model, Request.make("a cat", seeds=[1, 2], **how))
    assert [frame.sounds for frame in earlier] == [None, None] and last.sample_rate == 4000
    np.testing.assert_allclose(last.sounds, whole.sounds, atol=1e-5)
    assert np.abs(last.pictures.astype(int) - whole.pictures).max() <= 1


@pytest.mark.extended
def test_a_sound_that_does_not_fit_is_refused(model, monkeypatch):
    """The clip fits, and its waveform has ten million samples for each number."""
    long = model.kind.sound._replace(waveforms=lambda modules, params, z: jnp.zeros((len(z), 10**7, 1)) + z.mean())
    loud = text_to_image.TextToImage(
        "made", model.kind._replace(sound=long), model.modules, model.params, {}, model.process, 8, False
    )
    monkeypatch.setattr(peak_memory, "check", lambda what, peak, instead: _refuse(what, peak))
    with pytest.raises(limits.Refused, match="clip of 5 frames"):
        text_to_image.generate(loud, "a cat", **REQUEST)
    text_to_image.generate(model, "a cat", **REQUEST)


def _refuse(what, peak):
    if peak > 10**7:
        raise limits.Refused(what)


def test_settings_of_sounds_and_rates_are_refused_elsewhere(model):
    pictures = made_model()
    for name in ("sound_guidance", "modality_guidance"):
        with pytest.raises(ValueError, match=f"{name} = 2: a made generates no sound; leave {name} out"):
            text_to_image.generate(pictures, "a cat", sampler="ddim", **{name: 2})
    with pytest.raises(ValueError, match=r"frame_rate = 12: this model makes single pictures; leave frame_rate out"):
        text_to_image.generate(pictures, "a cat", sampler="ddim", frame_rate=12)
    fixed = model.kind._replace(video=model.kind.video._replace(rated=False))
    with pytest.raises(ValueError, match=r"frame_rate = 12: this model makes clips of 10 frames a second; leave"):
        jobs.make(
            text_to_image.TextToImage("made", fixed, model.modules, model.params, {}, model.process, 8, False),
            Request.make("a cat", frame_rate=12.0),
        )
    with pytest.raises(ValueError, match="does not support reference"):
        text_to_image.generate(model, "a cat", reference=np.zeros((8, 8, 3), np.uint8))


@pytest.mark.extended
def test_a_model_of_pictures_has_no_sound():
    model = made_model()
    results = text_to_image.results(model, Request.make("a cat", steps=1, sampler="ddim"))
    assert results.sound(0) is None and (results.rate, results.sample_rate) == (0.0, 0)
    assert jax.tree.leaves(programs.Decoded(results.pictures, None))[0] is results.pictures
