"""Films by a run of videos: given frames come back as they are, and a film may be longer than the run's clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps, videos
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments import film
from diffusion.experiments.sampling import generate, trained_run
from diffusion.recipe import ConfigError, checks, recipes


@pytest.fixture(scope="module")
def run():
    """Clips of 8 frames of 8 x 8 pixels, and a network as it begins, of random last layers."""
    base = recipes.module("small_flow")
    objective = {
        "name": "flow_matching",
        "density": {"name": "given_frames", "density": {"name": "uniform_density"}, "patterns": ("1.......",)},
    }
    config = base.flow({"name": "moving_drawings", "frames": 8, "side": 8, "number": 3}, objective, 2, 2)
    config.model = {"name": "video_dit", "patch": 4, "width": 16, "depth": 1, "heads": 2, "num_classes": 4}
    base.sampled(config, "euler", steps=2, number=3, batch_size=2)
    recipe = checks.on_its_data(checks.validate(config))
    init = lambda: recipe.network.init(
        jax.random.key(0), jnp.zeros((1, *recipe.examples.shape)), jnp.zeros(1), jnp.zeros(1, int)
    )
    shapes = jax.eval_shape(init)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)
    return trained_run.from_config(config, params)


def test_the_frames_between_are_made_along_the_plan_of_the_config(run, monkeypatch):
    """As `diffusion sample` takes it: RePaint's, say, which goes back to noise."""

    def seen(sampler, denoise, schedule, x, plan, keys):
        plans.append(plan)
        return x

    plans = []
    monkeypatch.setattr(film.samplers, "sample", seen)
    config = run.config.copy_and_resolve_references()
    config.sample.plan = {"name": "repaint", "jump": 1, "resamplings": 2}
    repainted = trained_run.from_config(config, run.params)
    film.film(repainted, first=1, last=1)
    assert plans[0].renoise.any()
    np.testing.assert_array_equal(plans[0].t, repainted.recipe.sampling.plan.t)


def test_a_run_that_samples_chunk_after_chunk_takes_the_sampler_of_its_chunks(run, monkeypatch):
    """As the reports of the video demo do; the plan of its chunks has a time for each frame."""

    def seen(sampler, denoise, schedule, x, plan, keys):
        calls.append((sampler.frames, plan))
        return x

    calls = []
    monkeypatch.setattr(film.samplers, "sample", seen)
    of_chunks = {
        "sample.sampler": {"name": "per_frame", "sampler": {"name": "ddim"}},
        "sample.plan": {"name": "staggered", "frames": 8, "delay": 2, "chunk": 4},
    }
    film.film(run.changed(of_chunks), first=4)
    ((frames, plan),) = calls
    assert not frames
    np.testing.assert_allclose(plan.t, [1, 0.5], atol=1e-6)  # two steps, at one time for all frames
    assert run.continuing() is run  # another run keeps its own


def test_clips_that_are_not_finite_are_refused(run, monkeypatch):
    monkeypatch.setattr(film.samplers, "sample", lambda sampler, denoise, schedule, x, plan, keys: x * jnp.nan)
    with pytest.raises(ConfigError, match=r"3 of 3 samples are not finite.*sampler = .'name': 'euler'"):
        film.film(run, first=1, last=1)


@pytest.mark.slow
def test_given_frames_come_back_and_the_others_are_made(run):
    made = film.film(run, first=1, last=1)
    assert made["images"].shape == made["originals"].shape == (3, 8, 8, 8, 3)
    np.testing.assert_array_equal(made["given"], [True] + [False] * 6 + [True])
    change = np.abs(made["images"].astype(int) - made["originals"]).reshape(3, 8, -1).max(axis=(0, 2))
    np.testing.assert_array_equal(change > 0, ~made["given"])


@pytest.mark.slow
def test_a_film_goes_on_window_after_window(run):
    """18 frames behind 2, in windows of 8: each is sampled from its part of the noise and the two frames before it."""
    made = film.film(run, first=2, frames=20)
    assert made["images"].shape == (3, 20, 8, 8, 3) and made["given"].sum() == 2
    np.testing.assert_array_equal(made["images"][:, :2], made["originals"][:, :2])
    starts, keys = generate.keys(generate.seeds(run.config, 3))
    noise = samplers.prior(run.schedule, starts, (18, 8, 8, 3))

    @jax.jit
    def window(last, noise):
        clips = jnp.concatenate([last, jnp.zeros((3, 6, 8, 8, 3))], axis=1)
        others = videos.completing(run.denoise(made["labels"]), run.schedule, clips, np.arange(8) < 2)
        return samplers.sample(run.sampler, others, run.schedule, noise, timesteps.plan(run.grid), keys)

    last = to_model(jnp.asarray(made["originals"][:, :2]))
    for first in range(2, 20, 6):
        new = window(last, noise[:, first - 2 : first + 4])
        shown = np.asarray(to_uint8(new)).astype(int)
        assert np.abs(shown - made["images"][:, first : first + 6]).max() <= 1
        last = new[:, -2:]


@pytest.mark.slow
def test_a_few_step_student_is_rolled_out(run):
    """A flow map by its sampler: 8 frames behind the 4 that are given, in two windows."""
    config = run.config.copy_and_resolve_references()
    config.objective = {
        "name": "consistency_training",
        "density": {"name": "uniform_density"},
        "pairs": {"name": "shrinking", "stage": 100},
        "target": "model",
    }
    config.sample.sampler = {"name": "consistency"}
    made = film.film(trained_run.from_config(config, run.params, any_kind=True), first=4, frames=12)
    assert made["images"].shape == (3, 12, 8, 8, 3)
    np.testing.assert_array_equal(made["images"][:, :4], made["originals"][:, :4])
    assert np.abs(made["images"][:, 8:].astype(int) - made["images"][:, 4:8]).max() > 0
    with pytest.raises(ConfigError, match="trains a flow map"):
        trained_run.from_config(config, run.params)


def test_a_guidance_with_a_memory_is_refused_before_anything_is_compiled():
    """Also of a run whose conditions are no classes."""
    config = recipes.module("video/drawings").get_config("tiny")
    config.sample.guidance = {"name": "adaptive_projected", "scale": 2.0, "momentum": -0.5}
    with pytest.raises(ConfigError, match=r"'adaptive_projected', .*this needs a plain denoiser"):
        film.film(trained_run.from_config(config, {}), first=1)


@pytest.mark.extended
def test_frames_that_do_not_fit_are_refused(run):
    np.testing.assert_array_equal(film.given_of(6, every=3), [True, False, False, True, False, False])
    for how, message in (
        ({}, "gives 0 of the 8 frames of a clip. Valid: 1 to 7"),
        ({"every": 1}, "gives 8 of the 8"),
        ({"first": 1, "frames": 4}, r"--frames=4\. Valid: 8, or more if only --first is set"),
        ({"first": 1, "last": 1, "frames": 16}, "--frames=16. Valid: 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            film.film(run, **how)
