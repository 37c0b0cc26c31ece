"""A run and a text-to-image model as watermarks see them: on which grid, by which noise, in batches of one size."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion import parameterizations, samplers, schedules, text_to_image
from diffusion.experiments.sampling import run_samples, watermarked
from diffusion.experiments.sampling.generate import Generator
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import sectioned

SHAPE = (2, 2, 1)


def pictures(number, value=100):
    return np.arange(number, dtype=np.uint8)[:, None, None, None] * 10 + np.full((number, *SHAPE), value, np.uint8)


@pytest.mark.extended
@pytest.mark.parametrize("number", [1, 4, 5, 8])
def test_each_picture_has_the_key_of_its_row_whatever_the_batch(number):
    draw = lambda some, keys: jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
    made = [watermarked.in_batches(draw, pictures(number), size) for size in (1, 4, 8)]
    for other in made[1:]:
        np.testing.assert_array_equal(made[0], other)
    assert len(np.unique(made[0])) == number
    shapes = []
    watermarked.in_batches(lambda some, keys: shapes.append(some.shape) or some, pictures(number), 4)
    assert set(shapes) == {(4, *SHAPE)} and len(shapes) == -(-number // 4)


def test_a_maker_inverts_and_regenerates_by_its_functions():
    calls = []
    maker = watermarked._maker(
        "name",
        "make",
        lambda some, keys: some * 2.0,
        lambda some, t, keys: some / 127.5 - 1 + t,
        lambda *numbers: calls.append(numbers),
        SHAPE,
        3,
    )
    x = pictures(4, 0)
    np.testing.assert_array_equal(maker.to_noise(x), x * 2.0)
    np.testing.assert_array_equal(maker.regenerate(x, 20 / 127.5), x + 20)
    assert calls == [(4, 0)] and (maker.name, maker.make, maker.shape, maker.batch) == ("name", "make", SHAPE, 3)


def test_no_two_pictures_have_the_same_key_and_a_picture_has_the_same_in_every_batch_size():
    keys = lambda size: watermarked.in_batches(lambda few, keys: jax.random.key_data(keys), pictures(5), size)
    assert len(np.unique(keys(2), axis=0)) == 5
    np.testing.assert_array_equal(keys(2), keys(5))
    folded = [jax.random.key_data(jax.random.fold_in(jax.random.key(0), row)) for row in range(5)]
    np.testing.assert_array_equal(keys(5), folded)  # the same in every version


# ==== A run ====

CLEAN = 0.25  # what the network predicts, whatever it sees


class Network:
    def __init__(self, null):
        self.null = null

    def apply(self, params, x, clock, condition):
        assert condition is None if self.null is None else len(condition) == 3
        return jnp.full_like(x, CLEAN) * params


def trained(null=None, **changes):
    schedule = schedules.rectified_flow()
    parts = {
        "makes_pictures": True, "makes_bytes": True, "on_latents": False, "null": null, "network": Network(null),
        "shape": SHAPE, "parameterization": parameterizations.x0(),
    }  # fmt: skip
    recipe = types.SimpleNamespace(**sectioned(parts | changes))
    sample = {"batch_size": 3, "sampler": {"name": "ddim"}, "steps": 4, "guidance": {"name": "none"}}
    config = ConfigDict({"sample": sample, "train": {"dtype": "float32"}})
    grid = np.linspace(1.0, 0.0, 5)
    return types.SimpleNamespace(
        recipe=recipe, config=config, params=1.0, schedule=schedule, sampler=samplers.ddim(), grid=grid
    )


@pytest.mark.parametrize("null", [None, 0])
def test_noise_of_a_network_that_is_constant_is_affine_in_the_picture(null):
    """Its flow is x_t = alpha c + sigma eps: three pictures on a line have noises on a line, steeper than they are."""
    maker = watermarked.build_run_maker(trained(null), "run", steps=4)
    low, middle, high = (maker.to_noise(np.full((2, *SHAPE), value, np.uint8)) for value in (100, 150, 200))
    np.testing.assert_allclose(middle, (low + high) / 2, atol=1e-4)
    assert np.all(high - low > 3 * (200 - 100) / 127.5)  # (x_t - alpha c) / sigma at t = 1 / 4
    assert maker.batch == 3 and maker.shape == SHAPE and maker.name == "run"


def test_the_inversion_has_its_own_number_of_steps(monkeypatch):
    seen = []

    def initial_noise(denoise, schedule, x, grid, keys, clip):
        seen.append((np.asarray(grid), clip))
        return x

    monkeypatch.setattr(watermarked, "initial_noise", initial_noise)
    for steps in (1, 7):
        watermarked.build_run_maker(trained(), "run", steps).to_noise(pictures(2))
    watermarked.build_run_maker(trained(), "run").to_noise(pictures(2))
    assert [len(grid) for grid, _ in seen] == [2, 8, 51]
    assert all(grid[0] == 1 and grid[-1] == 0 and np.all(np.diff(grid) < 0) for grid, _ in seen)
    np.testing.assert_allclose(np.diff(seen[1][0]), -1 / 7)


def test_pictures_are_made_anew_from_their_time_on():
    """Up to any t, the network's own picture comes back; of t = 0 the picture itself is left."""
    maker = watermarked.build_run_maker(trained(), "run", steps=4)
    again = maker.regenerate(pictures(4), 0.5)
    np.testing.assert_array_equal(again, np.full((4, *SHAPE), round(127.5 * (CLEAN + 1)), np.uint8))


def test_pictures_that_are_made_anew_and_are_not_finite_are_refused():
    """Black pictures have no watermark, so that each would seem to survive nothing."""
    run = trained()
    run.params = np.nan
    maker = watermarked.build_run_maker(run, "run", steps=4)
    with pytest.raises(ValueError, match=r"4 of 4 samples are not finite.*config\.sample\.sampler = .'name': 'ddim'"):
        maker.regenerate(pictures(4), 0.5)


def test_samples_for_a_watermark_of_which_none_is_finite_are_refused(monkeypatch):
    made = []
    images = lambda params, labels, seeds: made.append(seeds) or np.zeros((2, *SHAPE), np.uint8)
    work = lambda: np.array([0, 0, 2 * len(made)])
    monkeypatch.setattr(watermarked.generate, "generator", lambda *_, **how: Generator(images, None, 4, work))
    monkeypatch.setattr(watermarked.generate, "conditions_of", lambda recipe, number: np.zeros(number))
    monkeypatch.setattr(watermarked.generate, "seeds", lambda config, number: np.arange(number))
    with pytest.raises(ValueError, match=r"2 of 2 samples are not finite"):
        watermarked.build_run_maker(trained(), "run").make("", 2)


def test_marked_pictures_are_those_of_the_same_seeds(monkeypatch):
    calls = []
    images = lambda params, labels, seeds: (params, labels, seeds)
    generator = lambda recipe, watermark: calls.append(watermark) or Generator(images, None, 4)
    monkeypatch.setattr(watermarked.generate, "generator", generator)
    monkeypatch.setattr(watermarked.generate, "conditions_of", lambda recipe, number: f"{number} classes")
    monkeypatch.setattr(watermarked.generate, "seeds", lambda config, number: list(range(number)))
    monkeypatch.setattr(watermarked.watermarks, "load", lambda key: f"mark of {key}")
    maker = watermarked.build_run_maker(trained(), "run")
    assert maker.make("", 2) == maker.make("key", 2) == (1.0, "2 classes", [0, 1])
    assert calls == [None, "mark of key"]


@pytest.mark.parametrize("field, value", [("makes_pictures", False), ("makes_bytes", False), ("on_latents", True)])
def test_runs_on_other_data_are_refused(field, value):
    with pytest.raises(ConfigError, match="--workdir=run: watermarks can only be measured on runs on pictures"):
        watermarked.build_run_maker(trained(**{field: value}), "run")


# ==== What samples of a run can carry ====


class Mark(types.SimpleNamespace):
    identity = "a mark"

    def check_readable(self, draws, guided):
        if draws:
            raise ValueError("the sampler draws noise")

    def read(self, x):
        self.shapes = [x.shape]

    def embed(self, x, keys):
        return x


def run_of(pictures=True, latents=False, draws=0, renoise=None):
    plan = None if renoise is None else types.SimpleNamespace(renoise=np.array(renoise))
    parts = {
        "makes_pictures": pictures, "makes_bytes": pictures, "on_latents": latents, "shape": SHAPE, "plan": plan,
        "sampler": types.SimpleNamespace(draws=draws),
    }  # fmt: skip
    return types.SimpleNamespace(**sectioned(parts))


def test_a_mark_in_noise_needs_no_pictures_and_one_in_pictures_does():
    for carrier, fits in (("noise", True), ("pictures", False)):
        mark = Mark(carrier=carrier)
        if fits:
            run_samples._check_watermark(mark, run_of(pictures=False))
            assert mark.shapes == [(1, *SHAPE)]
            continue
        with pytest.raises(ConfigError, match="a mark is for pictures, but this run makes none"):
            run_samples._check_watermark(mark, run_of(pictures=False))
    run_samples._check_watermark(Mark(carrier="pictures"), run_of())


def test_noise_that_a_sampler_draws_hides_a_mark():
    for draws, renoise, hides in ((0, None, False), (1, None, True), (0, [0.0, 0.0], False), (0, [0.0, 0.5], True)):
        run = run_of(draws=draws, renoise=renoise)
        if not hides:
            run_samples._check_watermark(Mark(carrier="noise"), run)
            continue
        with pytest.raises(ConfigError, match="--watermark: the sampler draws noise"):
            run_samples._check_watermark(Mark(carrier="noise"), run)
    run_samples._check_watermark(
        Mark(carrier="pictures"), run_of(latents=True, draws=1)
    )  # the decoder's size is its own


# ==== A text-to-image model ====


class Vae:
    """An autoencoder that halves: z = x / 2 as the mean of moments, decoded by doubling."""

    scale, shift = 2.0, 0.5

    def apply(self, variables, x, method):
        assert variables == {"params": "vae's"}
        return Moments(x / 2, x) if method == "encode" else 2 * x


@pytest.fixture
def model(monkeypatch):
    process = types.SimpleNamespace(schedule=schedules.rectified_flow())
    made = types.SimpleNamespace(
        sees_mask=False, sees_picture=False, modules={"vae": Vae()}, params={"vae": "vae's"}, side=32, multiple=8,
        process=process, weights="weights",
    )  # fmt: skip
    asked = {}

    def trajectory(process, name, steps, tokens):
        asked["trajectory"] = (name, steps, tokens)
        plan = types.SimpleNamespace(grid=np.linspace(1, 0, steps + 1))
        return types.SimpleNamespace(sampler=samplers.ddim(), plan=plan)

    def conditions(model, prompts, negative, scale, height, width):
        asked["conditions"] = (prompts, negative, scale, height, width)
        return "empty", None

    def denoise(model, weights, condition, negative, scale):
        asked["denoise"] = (weights, condition, negative, scale)
        network = lambda x, clock, condition: jnp.full_like(x, CLEAN)
        return parameterizations.denoiser(network, process.schedule, parameterizations.x0(), None)

    monkeypatch.setattr(watermarked.schedulers, "trajectory", trajectory)
    monkeypatch.setattr(text_to_image, "conditions", conditions)
    monkeypatch.setattr(text_to_image, "denoise", denoise)
    monkeypatch.setattr(text_to_image, "generate", lambda model, texts, **settings: (texts, settings))
    return made, asked


def test_a_model_is_read_under_the_empty_prompt_in_its_latents(model):
    made, asked = model
    maker = watermarked.build_model_maker(made, "m", ("a", "b"), batch=2, steps=4)
    assert asked["trajectory"] == ("", 4, 16)  # tokens of a side of 32 / 8
    assert asked["conditions"] == (["", ""], None, 1.0, 32, 32)
    assert asked["denoise"] == ("weights", "empty", None, 1.0)
    assert (maker.name, maker.shape, maker.batch) == ("m", (32, 32, 3), 2)
    texts, settings = maker.make("key", 3)
    assert texts == ["a", "b", "a"] and settings == {"seeds": range(3), "batch_size": 2, "watermark": "key"}
    # z = (x / 2 - shift) scale is CLEAN where x = CLEAN + 2 shift = 1.25; anything made anew is decoded from CLEAN.
    x = np.full((3, 4, 4, 3), 128, np.uint8)
    again = maker.regenerate(x, 0.5)
    expected = 2 * (CLEAN / 2.0 + 0.5)
    np.testing.assert_array_equal(again, np.full(x.shape, min(255, round(127.5 * (expected + 1))), np.uint8))
    assert maker.to_noise(x).shape == x.shape


def test_pictures_of_a_model_that_are_not_finite_are_refused(model, monkeypatch):
    monkeypatch.setattr(Vae, "apply", lambda self, variables, x, method: x * jnp.nan)
    monkeypatch.setattr(watermarked.latent_space, "mean", lambda z: z)
    maker = watermarked.build_model_maker(model[0], "m", ("a",), batch=2, steps=4)
    with pytest.raises(
        ValueError, match=r"3 of 3 samples are not finite.*made with 4 steps of m\. Try a model .*float32"
    ):
        maker.regenerate(np.full((3, 4, 4, 3), 128, np.uint8), 0.5)


def test_noise_is_sought_by_the_sampler_s_own_clean_estimates(model, monkeypatch):
    made, _ = model
    clips = []
    sampler = types.SimpleNamespace(clip="its clip")
    plan = types.SimpleNamespace(grid=np.linspace(1, 0, 5))
    monkeypatch.setattr(
        watermarked.schedulers, "trajectory", lambda *_: types.SimpleNamespace(sampler=sampler, plan=plan)
    )
    monkeypatch.setattr(watermarked, "initial_noise", lambda *inputs, clip=None: clips.append(clip) or inputs[2])
    watermarked.build_model_maker(made, "m", ("a",), batch=2, steps=4).to_noise(np.zeros((2, 4, 4, 3), np.uint8))
    assert clips == ["its clip"]


@pytest.mark.parametrize("field, what", [("sees_mask", "paint what is masked"), ("sees_picture", "edit pictures")])
def test_models_of_more_than_a_prompt_are_refused(model, field, what):
    setattr(model[0], field, True)
    with pytest.raises(ConfigError, match=f"--model=m was trained to {what}"):
        watermarked.build_model_maker(model[0], "m", ("a",))
