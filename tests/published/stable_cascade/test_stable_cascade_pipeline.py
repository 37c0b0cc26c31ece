"""Stable Cascade as a whole: both stages and the autoencoder are diffusers', in one folder and in two."""

import functools
import json
import pathlib
import tempfile
import warnings
from fractions import Fraction
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, text_to_image
from diffusion.models.interchange import Refusal, schedulers
from diffusion.parameterizations import Prediction
from diffusion.recipe.parts import ConfigError, build_base
from diffusion.text_to_image import programs, second_stage
from tests.peers.made_weights import drawn
from tests.published.stable_cascade.facts import STAGED_TRAJECTORIES
from tests.text_to_image import made_pipelines

PROMPTS = ["a cat", "the red car on a hill"]
SIZE, STEPS, FINER_STEPS = (128, 256), 20, 12
CONFIG = {"_class_name": "DDPMWuerstchenScheduler", "scaler": 1.0, "s": 0.008}


@functools.cache
def loaded():
    with tempfile.TemporaryDirectory() as place:
        return text_to_image.load(made_pipelines.folder("stable_cascade", pathlib.Path(place)))


def with_noise(sampler, first, *shape):
    """The sampler, with the noise that theirs received, from the draw of that number on."""
    noise = jnp.stack([jnp.asarray(drawn(f"step {first + i}", 2, *shape)) for i in range(STEPS)])
    step = lambda state, denoise, schedule, plan, i, _: sampler.step(state, denoise, schedule, plan, i, noise[i][None])
    return sampler._replace(step=step)


@pytest.mark.slow
def test_a_picture_of_three_stages_is_diffusers():
    """Twenty guided steps of stage C, twelve of stage B, from the same noise, and the autoencoder's picture."""
    model, theirs = loaded(), made_pipelines.fixture("stable_cascade")[1]
    keys = jax.random.split(jax.random.key(0), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the second prompt is too long, there and here
        both = text_to_image.conditions(model, PROMPTS, "bad", 7.5, *SIZE)
    first, second = (schedulers.trajectory(model.process, "", steps) for steps in (STEPS, FINER_STEPS))
    clocked = programs.with_clock(model, first)

    @jax.jit
    def coarse_of(params, x, conditional, unconditional):
        denoise = text_to_image.denoise(clocked, params, conditional, unconditional, 7.5)
        sampler = with_noise(first.sampler, 0, 3, 6, 4)
        return samplers.sample(sampler, denoise, model.process.schedule, x, first.plan, keys)

    @jax.jit
    def finer_of(params, x, coarse, conditional):
        denoise = second_stage.denoiser(model, second, params, coarse, conditional)
        sampler = with_noise(second.sampler, STEPS, 32, 64, 4)
        return samplers.sample(sampler, denoise, model.second_process.schedule, x, second.plan, keys)

    coarse = coarse_of(model.params["prior"], drawn("latents", 2, 3, 6, 4), *both)
    within(coarse, theirs["coarse"], STAGED_TRAJECTORIES["stable_cascade"]["ddpm"])
    params = {"decoder": model.params["decoder"]}
    finer = finer_of(params, drawn("finer", 2, 32, 64, 4), theirs["coarse"], both[0])
    within(finer, theirs["latents/ddpm"], 8e-6)
    decode = jax.jit(functools.partial(programs.decode_latents, model))
    picture = decode(model.params["vae"], theirs["latents/ddpm"][:1])
    within(picture[:, ::4], theirs["picture"], 1e-3)  # which is kept in half precision


def within(ours, theirs, part):
    theirs = np.asarray(theirs, np.float32)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=part * np.abs(theirs).max())


@pytest.mark.extended
@pytest.mark.parametrize("steps", [1, 20, 400])
def test_the_levels_of_noise_are_diffusers_between_their_ends(steps):
    """As DDPMWuerstchenScheduler._alpha_cumprod in float64; the network receives the even times.

    Of 400 steps the first two are between two times with one level, and change nothing.
    """
    process = schedulers.read(CONFIG)
    trajectory = schedulers.trajectory(process, "", steps)
    even = np.linspace(1, 0, steps + 1)
    angles = (even + 0.008) / 1.008 * np.pi / 2
    levels = np.clip((np.cos(angles) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2, 1e-4, 0.9999)
    moving = np.append(np.diff(levels) != 0, True)
    assert moving.sum() == steps + 1 - 2 * (steps == 400)
    grid = np.append(trajectory.plan.t, trajectory.plan.s[-1])
    np.testing.assert_allclose(process.schedule.alpha(grid) ** 2, levels[moving], rtol=3e-5)
    received = trajectory.clocked(process.parameterization).clock(process.schedule, jnp.asarray(trajectory.plan.t))
    np.testing.assert_allclose(received, even[moving][:-1], atol=1e-6)


@pytest.mark.extended
def test_the_last_step_alone_draws_nothing():
    """Though noise is left at the end: of white data, whose predictions are 0, it remains as it is drawn."""
    process = schedulers.read(CONFIG)
    trajectory = schedulers.trajectory(process, "", 3)
    zero = lambda x, t: Prediction(jnp.zeros_like(x), jnp.zeros_like(x))
    sampler, plan = trajectory.sampler, trajectory.plan
    begun = sampler.init(jnp.zeros((1, 2)), process.schedule, plan)
    step = lambda i, noise: sampler.step(begun, zero, process.schedule, plan, i, jnp.full((1, 1, 2), noise)).x
    assert [bool((step(i, 1.0) == 0).all()) for i in range(3)] == [False, False, True]


@pytest.mark.parametrize("field", [{"scaler": 2.0}, {"s": 0.0}])
def test_another_cosine_is_refused(field):
    with pytest.raises(Refusal, match=f"{next(iter(field))} = "):
        schedulers.read(CONFIG | field)


def in_two_folders(place):
    """NAME and NAME-prior, with the classes that diffusers publishes them by, of the parts of the combined folder."""
    whole = made_pipelines.folder("stable_cascade", place / "whole")
    for name, kind in (("cascade", "Decoder"), ("cascade-prior", "Prior")):
        (place / name).mkdir()
        index = {"_class_name": f"StableCascade{kind}Pipeline", "text_encoder": ["transformers", "CLIP"]}
        (place / name / "model_index.json").write_text(json.dumps(index))
    for part in ("decoder", "scheduler", "vqgan", "text_encoder", "tokenizer"):
        (whole / part).rename(place / "cascade" / part)
    for part in ("prior", "scheduler", "text_encoder", "tokenizer"):
        (whole / f"prior_{part}").rename(place / "cascade-prior" / part)
    return place / "cascade"


@pytest.mark.extended
def test_either_of_two_folders_opens_both(tmp_path):
    combined = text_to_image.described(made_pipelines.folder("stable_cascade", tmp_path / "combined"))
    second = in_two_folders(tmp_path)
    first = second.with_name("cascade-prior")
    for folder in (first, second):
        model = text_to_image.load(folder)
        assert model.modules == combined.modules
        assert (model.usual, model.kind.second_stage.steps) == ((20, 4.0), 10)
        assert (model.sides, model.multiple, model.factor, model.channels) == ((1024, 1024), 128, Fraction(128, 3), 4)
        whole = loaded().params
        jax.tree.map(np.testing.assert_array_equal, model.params, whole)
    assert (combined.usual, combined.kind.second_stage.steps) == ((60, 4.0), 12)
    first.rename(tmp_path / "elsewhere")
    words = "cascade-prior does not exist. Stable Cascade is two folders, cascade and cascade-prior; put them"
    with pytest.raises(FileNotFoundError, match=words):
        text_to_image.load(second)


@pytest.mark.extended
@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"image": np.zeros((128, 128, 3), np.uint8)},
            "image: the first stage of a StableCascadeCombinedPipeline supports only whole prompts",
        ),
        ({"reference": np.zeros((128, 128, 3), np.uint8)}, "reference: the first stage of a StableCascade"),
        ({"height": 192}, r"height = 192 must be a multiple of 128 \(the autoencoder's 128/3 times the denoiser's 3\)"),
    ],
)
def test_what_the_first_stage_cannot_take_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        text_to_image.generate(loaded(), "a cat", **{"height": 128, "width": 128, "steps": 1, **settings})


@pytest.mark.extended
def test_stages_that_do_not_fit_each_other_are_refused(tmp_path):
    change = lambda part, **fields: {"files": {f"{part}/config.json": json.dumps(config(part) | fields)}}
    config = lambda part: json.loads(made_pipelines.fixture("stable_cascade")[0]["files"][f"{part}/config.json"])
    for part, fields, words in (
        (
            "decoder",
            {"effnet_in_channels": 16},
            "latents of 4 channels from latents of 4, but this one makes 4 from 16",
        ),
        ("prior_prior", {"clip_text_in_channels": None, "clip_image_in_channels": None}, "must have clip_text_in_ch"),
    ):
        folder = made_pipelines.folder("stable_cascade", tmp_path / part, change(part, **fields))
        with pytest.raises(Refusal, match=words):
            text_to_image.described(folder, weights=False)


@pytest.mark.extended
def test_no_run_tunes_it(tmp_path):
    folder = made_pipelines.folder("stable_cascade", tmp_path)
    parts = SimpleNamespace(given={}, config={"base": {"path": str(folder), "dtype": "float32"}})
    with pytest.raises(ConfigError, match="a StableCascadeCombinedPipeline cannot be tuned"):
        build_base(parts)


@pytest.mark.slow
def test_the_frames_of_a_trajectory_end_with_its_picture():
    """Each picture of it is finished by the second stage, with the same noise; a seed makes the same picture again."""
    settings = {"seeds": 3, "steps": 2, "height": 128, "width": 128}
    picture = text_to_image.generate(loaded(), "a cat", **settings)
    assert picture.shape == (1, 128, 128, 3) and picture.std() > 1
    *_, last = text_to_image.watch(loaded(), "a cat", **settings)
    assert np.abs(last.pictures.astype(int) - picture).max() <= 1
    other = text_to_image.generate(loaded(), "a cat", **settings | {"seeds": 4})
    assert (other != picture).mean() > 0.1
