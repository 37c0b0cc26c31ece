"""Steering by the names of a config, beside closed forms: posteriors of measured pictures, tilted laws, best noises."""

import functools
import inspect
import json
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, parameterizations, samplers, schedules, steering, timesteps, watermarks
from diffusion.data.sources import DataSpec
from diffusion.experiments import train
from diffusion.experiments.sampling import generate, run_denoiser, run_samples
from diffusion.guidance import measurements
from diffusion.recipe import ConfigError, checks, fits, names, recipes, steering_drivers
from tests.conformance import round_denoiser
from tests.recipe.test_guides_by_name import MEASURED, SHAPE, config_of

DIGITS = DataSpec("digits", "train", SHAPE, 10, 100)
SPIRALS = DataSpec("spirals", "train", (2,), 3, 100, dtype="float32")

MEAN, STD, NOISE, NUMBER = 0.1, 0.25, 0.1, 64
COSINE = schedules.cosine()
DENOISE = round_denoiser(COSINE)  # of N(0.4, 0.25 I)


class Narrow(nn.Module):
    """The exact velocity of data N(MEAN, STD^2), independent in every pixel."""

    num_classes: int = 0

    @nn.compact
    def __call__(self, x, t, condition=None):
        self.param("unused", nn.initializers.zeros, (1,))
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        residual = (x - (1 - t) * MEAN) / ((1 - t) ** 2 * STD**2 + t**2)
        return t * residual - (MEAN + (1 - t) * STD**2 * residual)


def narrow(folder, driver, number=NUMBER):
    """A run of it on 2 x 2 pooled pixels of one picture."""
    picture = np.random.default_rng(0).integers(90, 190, (1, *SHAPE), np.uint8)
    np.savez(folder / "seen.npz", images=picture)
    config = config_of(
        measurement={
            "operator": {"name": "pooled", "factor": 2},
            "pictures": str(folder / "seen.npz"),
            "noise_std": NOISE,
        },
        driver=driver,
        number=number,
        batch_size=number,
        steps=4,
    )
    config.model = {"name": "narrow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    recipe = checks.validate(config).at(SHAPE)
    made = generate.generator(recipe)
    assert made.nfe is None
    pictures = made.images(
        {"params": {"unused": jnp.zeros(1)}}, np.zeros(number, np.int32), generate.seeds(config, number)
    )
    return recipe, pictures / 127.5 - 1


@pytest.fixture
def registered():
    names.add(names.MODELS, Narrow, "narrow")
    yield
    del names.MODELS["narrow"]


@pytest.mark.parametrize("driver, functions", [
    (steering_drivers.ddrm, [steering.ddrm]), (steering_drivers.daps, [steering.daps, steering.gaussian_draw]),
    (steering_drivers.red_diff, [steering.red_diff]), (steering_drivers.mcgdiff, [steering.mcgdiff]),
])  # fmt: skip
def test_a_driver_has_the_defaults_of_its_functions(driver, functions):
    defaults = lambda function: {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    theirs = {name: value for function in functions for name, value in defaults(function).items()}
    shared = defaults(driver).keys() & theirs.keys()
    assert shared and {name: defaults(driver)[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.extended
def test_daps_by_name_has_the_posterior_of_measured_pictures(registered, tmp_path):
    """Each pooled pixel is the mean of four: y = mean x + noise z, so that the posterior of that mean is a product."""
    recipe, pictures = narrow(tmp_path, {"name": "daps", "data_std": STD})
    y = generate.measured_pictures(recipe)
    assert y is not None
    prior = STD**2 / 4
    expected = (MEAN * NOISE**2 + y[0] * prior) / (NOISE**2 + prior)
    deviation = np.sqrt(prior * NOISE**2 / (prior + NOISE**2))
    means = pictures.reshape(NUMBER, 4, 2, 4, 2, 1).mean((2, 4))
    assert np.abs(means.mean(0) - expected).max() < 4.5 * deviation / NUMBER**0.5 + 0.004  # and half a byte
    np.testing.assert_allclose(means.std(0).mean(), deviation, rtol=0.1)


@pytest.mark.extended
@pytest.mark.parametrize("driver", [{"name": "ddrm", "eta": 0.7}, {"name": "red_diff", "scale": 0.5}])
def test_a_driver_reads_the_measured_pictures_as_its_function_does(registered, tmp_path, driver):
    recipe, pictures = narrow(tmp_path, driver, 3)
    measured = generate.measured_pictures(recipe)
    assert measured is not None
    y = jnp.asarray(np.repeat(measured, 3, 0))
    pooled = measurements.pooled(2)
    first, keys = generate.keys(generate.seeds(recipe.config, 3))
    schedule, plan = recipe.schedule, recipe.sampling.plan
    denoise = run_denoiser.denoiser(recipe)({"params": {"unused": jnp.zeros(1)}}, jnp.zeros(3, int))
    x = samplers.prior(schedule, first, SHAPE)
    if driver["name"] == "ddrm":
        expected = samplers.sample(steering.ddrm(pooled, y, NOISE, 0.7), denoise, schedule, x, plan, keys)
    else:
        log = guidance.gaussian_likelihood(pooled.forward, y, NOISE)
        drive = steering_drivers.red_diff(log, scale=0.5)
        expected = drive(sampler=None, denoise=denoise, schedule=schedule, x=x, plan=plan, keys=keys)
    np.testing.assert_allclose(pictures, np.clip(expected, -1, 1), atol=0.006)


PULLED = [
    (steering_drivers.twisted, {"pull": 0.0}),
    (steering_drivers.twisted, {"pull": 1.0}),
    (steering_drivers.das, {}),
]


def test_particles_begin_at_noise_that_their_steps_do_not_draw_again():
    """Two samples with three particles each: six starts, six keys of steps, two keys of the draws; all differ."""
    keys = jax.random.split(jax.random.key(3), 2)
    x = jnp.zeros((2, 4))
    real = jnp.array([[True, True, True, False], [True, False, False, False]])
    sampler = samplers.padded(samplers.ddpm(), real)
    arguments, draws = steering_drivers._particle_arguments(sampler, DENOISE, COSINE, x, keys, 3)
    used = np.concatenate([jax.random.key_data(some) for some in (arguments["keys"], draws)])
    assert used.shape == (8, 2) and len(np.unique(used, axis=0)) == 8
    again = samplers.prior(COSINE, arguments["keys"], (4,))
    assert arguments["x"].shape == (6, 4)
    assert len(np.unique(np.concatenate([arguments["x"], again]), axis=0)) == 12
    np.testing.assert_array_equal(arguments["sampler"].real, [[1, 1, 1, 0]] * 3 + [[1, 0, 0, 0]] * 3)


def test_the_normaliser_of_rejection_is_the_bound_over_the_temperature_less_the_log_of_the_trials(monkeypatch):
    """The bound 3 at the temperature 2, and two trials of a sample on average: 1.5 - ln 2."""
    seen = []

    def rejected(draw, log_reward, keys, bound, trials):
        seen.append((bound, trials, log_reward(jnp.zeros((2, 1))).tolist()))
        ones = jnp.ones(2)
        return types.SimpleNamespace(
            x=jnp.zeros((2, 1)), trials=jnp.array([1, 3]), accepted=ones > 0, highest=1.5 * ones
        )

    monkeypatch.setattr(steering, "rejected", rejected)
    drive = steering_drivers.rejected(lambda x: jnp.full(len(x), 3.0), beta=2.0, bound=3.0, trials=7)
    _, numbers = drive(None, None, COSINE, jnp.zeros((2, 1)), None, jax.random.split(jax.random.key(0), 2))
    assert seen == [(1.5, 7, [1.5, 1.5])] and float(numbers.trials) == 2
    np.testing.assert_allclose(numbers.log_normaliser, 1.5 - np.log(2), rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("driver, more", PULLED, ids=["twisted", "pulled", "das"])
def test_each_sample_of_particles_is_tilted_by_its_own_reward(driver, more):
    """Two rewards in one batch, slopes 2 and -1 at beta = 0.5; ancestral steps that are exact for the data."""
    exact = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
    number, end = 600, 0.1
    slopes = jnp.tile(jnp.array([1.0, -0.5]), number // 2)[:, None]
    keys = jax.random.split(jax.random.key(0), number)
    drive = driver(lambda x: (slopes * x)[:, 0], 16, beta=0.5, **more)
    arguments = {"sampler": exact, "denoise": DENOISE, "schedule": COSINE, "x": jnp.zeros((number, 1))}
    plan = timesteps.plan(np.linspace(1, end, 5))
    x = np.asarray(jax.jit(lambda keys: drive(**arguments, plan=plan, keys=keys))(keys)[0])
    alpha, sigma = float(COSINE.alpha(end)), float(COSINE.sigma(end))
    variance = 0.25 * alpha**2 + sigma**2
    for part, slope in ((x[::2], 2.0), (x[1::2], -1.0)):
        mean = 0.4 * alpha + slope * variance
        assert abs(part.mean() - mean) < 4.5 * (variance / len(part)) ** 0.5
        assert abs(part.var() - variance) < 4.5 * variance * (2 / len(part)) ** 0.5


@pytest.mark.extended
def test_each_rejected_sample_is_tilted_by_its_own_reward():
    """-(x - c)^2 of two centres at beta = 0.5, whose products with the sampler's Gaussian are Gaussians."""
    exact = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
    number, end = 2000, 0.1
    centres = jnp.tile(jnp.array([1.0, -0.2]), number // 2)
    drive = steering_drivers.rejected(lambda x: -((x[:, 0] - centres) ** 2), beta=0.5)
    arguments = {"sampler": exact, "denoise": DENOISE, "schedule": COSINE, "x": jnp.zeros((number, 1))}
    plan = timesteps.plan(np.linspace(1, end, 4))
    x, tried = jax.jit(lambda keys: drive(**arguments, plan=plan, keys=keys))(
        jax.random.split(jax.random.key(0), number)
    )
    alpha, sigma = float(COSINE.alpha(end)), float(COSINE.sigma(end))
    prior, shares = 0.25 * alpha**2 + sigma**2, []
    for part, centre in ((x[::2], 1.0), (x[1::2], -0.2)):
        variance = prior * 0.25 / (prior + 0.25)  # exp(-2 (x - c)^2) is a Gaussian of variance 1/4
        mean = (0.25 * 0.4 * alpha + prior * centre) / (prior + 0.25)
        assert abs(part.mean() - mean) < 4.5 * (variance / len(part)) ** 0.5
        assert abs(part.var() - variance) < 4.5 * variance * (2 / len(part)) ** 0.5
        shares.append(np.sqrt(0.25 / (prior + 0.25)) * np.exp(-((centre - 0.4 * alpha) ** 2) / (2 * (prior + 0.25))))
    np.testing.assert_allclose(tried.trials, np.mean(1 / np.array(shares)), rtol=0.1)
    np.testing.assert_allclose(tried.log_normaliser, -np.log(tried.trials), rtol=1e-5)
    nothing = steering_drivers.rejected(lambda x: 0 * x[:, 0] - jnp.inf, trials=2)
    above = steering_drivers.rejected(lambda x: 0 * x[:, 0] + 1.0)
    for refused in (nothing, above):
        run = jax.jit(functools.partial(refused, **arguments, plan=plan))
        assert np.isnan(run(keys=jax.random.split(jax.random.key(1), 3))[1].log_normaliser)


@pytest.mark.extended
def test_a_mixture_has_the_shares_of_the_product_s_exponents():
    """A quarter of N(-1, 0.25) and three of N(0.6, 0.25); the sum of the scores has one peak."""
    exact = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
    number, end = 1600, 0.1
    shifted = lambda mean: lambda x, t: _moved(DENOISE(x + COSINE.alpha(t) * (0.4 - mean), t), mean - 0.4)
    _moved = lambda prediction, by: prediction._replace(x0=prediction.x0 + by)
    both = guidance.product(guidance.separately(shifted(-1.0), shifted(0.6)), COSINE, (0.25, 0.75))
    arguments = {"sampler": exact, "denoise": both, "schedule": COSINE, "x": jnp.zeros((number, 1))}
    plan = timesteps.plan(np.linspace(1, end, 7))
    x, weighed = jax.jit(lambda keys: steering_drivers.mixed(8)(**arguments, plan=plan, keys=keys))(
        jax.random.split(jax.random.key(0), number)
    )
    alpha, sigma = float(COSINE.alpha(end)), float(COSINE.sigma(end))
    spread, means = 0.25 * alpha**2 + sigma**2, alpha * np.array([-1.0, 0.6])
    mean = means @ [0.25, 0.75]
    variance = (means - mean) ** 2 @ [0.25, 0.75] + spread
    assert abs(x.mean() - mean) < 4.5 * (variance / number) ** 0.5 + 0.01
    np.testing.assert_allclose(x.var(), variance, rtol=0.12)  # that of the sum of the scores is `spread`, a half of it
    assert variance > 1.5 * spread and abs(weighed.log_normaliser) < 0.05


@pytest.mark.extended
def test_more_candidates_of_a_path_have_larger_rewards():
    reward = lambda x: -jnp.sum((x - 1.0) ** 2, -1)
    keys = jax.random.split(jax.random.key(0), 64)
    arguments = {"sampler": samplers.ddpm(), "denoise": DENOISE, "schedule": COSINE, "x": jnp.zeros((64, 2))}
    plan = timesteps.plan(timesteps.uniform(COSINE, 4))
    run = lambda number: jax.jit(
        lambda keys: steering_drivers.searched_paths(reward, number)(**arguments, plan=plan, keys=keys)
    )(keys)
    assert reward(run(8)).mean() > reward(run(1)).mean() + 0.2


@pytest.mark.extended
def test_the_noise_of_any_schedule_is_standard_and_its_best_sample_comes_back():
    """Of a variance-exploding process; the reward of what comes back is at least that of the plain sample."""
    schedule = schedules.variance_exploding()
    denoise, plan = round_denoiser(schedule), timesteps.plan(timesteps.uniform(schedule, 3))
    first, keys = jax.random.split(jax.random.key(0), (2, 64))
    x = samplers.prior(schedule, first, (2,))
    reward = lambda x: -jnp.sum((x - 1.0) ** 2, -1)
    arguments = {"sampler": samplers.ddim(), "denoise": denoise, "schedule": schedule, "x": x}
    arguments |= {"plan": plan, "keys": keys}
    plain = reward(samplers.sample(**arguments))
    four = reward(steering_drivers.searched_noise(reward)(**arguments))
    climbed = reward(steering_drivers.optimised_noise(reward, updates=5, learning_rate=0.2)(**arguments))
    assert (four >= plain - 1e-5).all() and (climbed >= plain - 1e-5).all()
    assert 0.6 < (four > plain + 1e-5).mean() < 0.9  # three of four are others
    generate, noise = steering_drivers._from_noise(**arguments)
    np.testing.assert_allclose(noise.std(), 1, rtol=0.2)
    slope = float(((generate(2 * noise) - generate(noise)) / noise).mean())  # the sampler is linear here
    np.testing.assert_allclose(climbed / plain, (1 - 2 * 0.2 * slope**2) ** (2 * 5), rtol=1e-3)


@pytest.mark.extended
def test_each_sample_of_corrected_particles_follows_its_own_product():
    """p^3 / q^2 with variances 0.25 and 0.5 and two means in one batch; the sum of the scores has another variance."""
    number = 1600
    mean = np.tile([0.4, -0.6], number // 2)[:, None].astype(np.float32)

    def gaussian(variance):
        def denoise(x, t):
            alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
            scaled = (x - alpha * mean) / (variance * alpha**2 + sigma**2)
            return parameterizations.Prediction(mean + variance * alpha * scaled, sigma * scaled)

        return denoise

    @jax.jit
    def run(keys):
        both = guidance.multiplied(
            guidance.product(guidance.separately(gaussian(0.25)), COSINE, (3.0,)), gaussian(0.5), COSINE, -2.0
        )
        plan = timesteps.plan(timesteps.uniform(COSINE, 32))
        arguments = {"sampler": samplers.euler_maruyama(), "denoise": both, "schedule": COSINE, "plan": plan}
        make = lambda particles: steering_drivers.corrected(particles)(x=jnp.zeros((number, 1)), keys=keys, **arguments)
        return make(32), make(1)

    (x, weighed), (naive, one) = run(jax.random.split(jax.random.key(0), number))
    variance = 1 / (3 / 0.25 - 2 / 0.5)
    for part, centre in ((x[::2], 0.4), (x[1::2], -0.6)):
        assert abs(part.mean() - centre) < 4.5 * (variance / len(part)) ** 0.5
    error = 4.5 * variance * (2 / number) ** 0.5
    assert abs((x - mean).var() - variance) < error < abs((naive - mean).var() - variance)
    np.testing.assert_allclose(weighed.log_normaliser, np.log(0.5 * variance**0.5 / 0.25**1.5), atol=0.05)
    assert 16 < weighed.effective_size < 32 and one.effective_size == 1


@pytest.mark.extended
def test_corrected_particles_start_from_the_power_of_the_prior():
    """A step so short that they stay there: N(0, sigma^2 / B)."""
    schedule = schedules.variance_preserving()
    x, _ = jax.jit(
        lambda keys: steering_drivers.corrected(2)(
            sampler=samplers.ddpm(),
            denoise=guidance.product(guidance.separately(round_denoiser(schedule)), schedule, (3.0,)),
            schedule=schedule,
            x=jnp.zeros((1000, 4)),
            plan=timesteps.plan(np.array([1.0, 1.0 - 1e-5])),
            keys=keys,
        )
    )(jax.random.split(jax.random.key(0), 1000))
    np.testing.assert_allclose(x.var(), 1 / 3, rtol=0.07)


@pytest.mark.extended
def test_each_sample_of_mcgdiff_follows_its_own_picture():
    """Two numbers that the second of two pixels was measured as; ancestral steps that are exact for the data."""
    exact = samplers.ddpm("analytic", lambda log_snr: 0.25 / (1 + 0.25 * jnp.exp(log_snr)))
    number, end, noise = 800, 0.1, 0.3
    seen = np.tile([[0.0, 1.5], [0.0, -0.6]], (number // 2, 1)).astype(np.float32)
    drive = steering_drivers.mcgdiff(measurements.masked(jnp.array([False, True])), jnp.asarray(seen), 16, noise)
    arguments = {"sampler": exact, "denoise": DENOISE, "schedule": COSINE, "x": jnp.zeros((number, 2))}
    plan = timesteps.plan(np.linspace(1, end, 5))
    keys = jax.random.split(jax.random.key(0), number)
    x, weighed = jax.jit(lambda keys: drive(**arguments, plan=plan, keys=keys))(keys)
    alpha, sigma = float(COSINE.alpha(end)), float(COSINE.sigma(end))
    prior, spread = 0.25 * alpha**2 + sigma**2, sigma**2 + (alpha * noise) ** 2
    for part, value in ((x[::2], 1.5), (x[1::2], -0.6)):
        mean = np.array([0.4 * alpha, (prior * alpha * value + spread * 0.4 * alpha) / (prior + spread)])
        variance = np.array([prior, prior * spread / (prior + spread)])
        np.testing.assert_array_less(np.abs(part.mean(0) - mean), 4.5 * (variance / len(part)) ** 0.5)
        np.testing.assert_array_less(np.abs(part.var(0) - variance), 4.5 * variance * (2 / len(part)) ** 0.5)
    assert 8 < weighed.effective_size <= 16


SQUARED = {"driver": {"name": "corrected", "number": 2}, "sampler": {"name": "ddpm"}}
PAIR = {"name": "product", "exponents": (0.5, 0.5), "labels": (3,)}
REFUSED = {
    "no product": (SQUARED, r"corrected needs a product of densities.*Valid: the guidance product"),
    "a product after which a guide comes": (
        SQUARED | {"guidance": PAIR, "guides": ({"name": "dynamic_threshold"},)},
        r"corrected needs a product of densities",
    ),
    "no density at alpha = 0": (
        SQUARED | {"guidance": {"name": "product", "exponents": (2.0,)}},
        r"exponents \(2\.0,\) sum to 2, and the plan starts at alpha = 0",
    ),
    "exponents": (
        SQUARED | {"guidance": PAIR | {"exponents": (1.0,)}},
        r"1 exponents for the sample's own class and the labels \(3,\)\. Valid: 2 exponents",
    ),
    "a class": (SQUARED | {"guidance": PAIR | {"labels": (11,)}}, r"labels has 11\. Valid: 0 \.\. 10, where 10"),
    "a sum of 0": (SQUARED | {"guidance": PAIR | {"exponents": (1.0, -1.0)}}, r"must have a positive sum, but it is 0"),
    "no particle of mcgdiff": (
        {"driver": {"name": "mcgdiff", "number": 0}, "measurement": MEASURED},
        r"mcgdiff: number = 0 must be at least 1",
    ),
    "no picture for mcgdiff": ({"driver": {"name": "mcgdiff", "number": 2}}, r"mcgdiff needs measured pictures"),
    "no particle": (
        {"driver": {"name": "corrected", "number": 0}, "guidance": PAIR, "sampler": {"name": "ddpm"}},
        r"corrected: number = 0 must be at least 1",
    ),
    "corrected by heun": ({"driver": {"name": "corrected", "number": 2}, "guidance": PAIR}, r"draws 0 noise arrays"),
    "nothing measured": ({"driver": {"name": "daps"}}, r"sample\.driver: daps needs measured pictures.*pooled"),
    "no reward": (
        {"driver": {"name": "twisted", "number": 2}},
        r"twisted needs measured pictures.*or a reward, config\.sample\.driver\.log_reward: near_value",
    ),
    "an unknown reward": (
        {"driver": {"name": "searched_noise", "log_reward": {"name": "near"}}},
        r"config\.sample\.driver\.log_reward\.name.*'near'.*near_value",
    ),
    "number": (
        {"driver": {"name": "twisted", "number": 0, "log_reward": {"name": "near_value", "value": 0.0}}},
        r"number = 0 must be at least 1",
    ),
    "no product for a mixture": (
        SQUARED | {"driver": {"name": "mixed", "number": 2}},
        r"mixed needs a product of densities",
    ),
    "shares": (
        SQUARED | {"driver": {"name": "mixed", "number": 2}, "guidance": PAIR | {"exponents": (1.5, -0.5)}},
        r"the shares \(1\.5, -0\.5\) must be positive and sum to 1",
    ),
    "no trial": (
        {"driver": {"name": "rejected", "trials": 0, "log_reward": {"name": "near_value", "value": 0.0}}},
        r"trials = 0 must be at least 1",
    ),
    "width": (
        {
            "driver": {
                "name": "searched_paths",
                "number": 3,
                "width": 2,
                "log_reward": {"name": "near_value", "value": 0.0},
            },
            "sampler": {"name": "ddpm"},
        },
        r"width = 2 must be at least 1 and divide number = 3",
    ),
    "gamma": (
        {
            "driver": {"name": "das", "number": 2, "gamma": 0.0, "log_reward": {"name": "near_value", "value": 0.0}},
            "sampler": {"name": "ddpm"},
        },
        r"gamma = 0\.0 must be positive",
    ),
    "a sampler without a Gaussian step": (
        {
            "driver": {"name": "twisted", "number": 2, "log_reward": {"name": "near_value", "value": 0.0}},
            "sampler": {"name": "heun"},
        },
        r"draws 0 noise arrays",
    ),
    "the size of a pooled square": (
        {"driver": {"name": "daps"}, "measurement": MEASURED | {"operator": {"name": "pooled", "factor": 3}}},
        r"sample\.measurement\.operator.*the operator cannot measure examples of \(8, 8, 1\)",
    ),
    "eta": ({"driver": {"name": "ddrm", "eta": 2.0}, "measurement": MEASURED}, r"eta = 2\.0"),
    "no layer": (
        {"guidance": {"name": "skip_layer", "scale": 2.0, "layers": ()}},
        r"config\.sample\.guidance: layers is empty, so that the guidance would have no effect",
    ),
    "CFG++ at the scale of no guidance": (
        {"guidance": {"name": "classifier_free_plus_plus", "scale": 1.0}, "sampler": {"name": "ddim"}},
        r"without guidance at scale 1, where this guidance would still act",
    ),
    "a rate of red_diff": (
        {"driver": {"name": "red_diff", "learning_rate": -0.1}, "measurement": MEASURED},
        r"red_diff: learning_rate = -0\.1 must be positive",
    ),
    "a rate of optimised_noise": (
        {
            "driver": {
                "name": "optimised_noise",
                "learning_rate": 0.0,
                "log_reward": {"name": "near_value", "value": 0.0},
            }
        },
        r"optimised_noise: learning_rate = 0\.0 must be positive",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    fields, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        checks.validate(config_of(**fields))


def test_a_driver_takes_a_sampler_that_reads_the_learned_variance():
    """The trial's stand-in for the network predicted none, so that the run was refused."""
    config = recipes.load("digits:tiny")
    config.schedule = {"name": "linear_beta"}
    config.parameterization = {"name": "learned_variance", "parameterization": {"name": "epsilon"}}
    config.objective = {"name": "hybrid", "density": {"name": "uniform_density"}}
    config.sample.sampler = {"name": "ddpm", "variance": "learned"}
    config.sample.guidance.scale = 1.0
    config.sample.driver = {"name": "rejected", "log_reward": {"name": "near_value", "value": 0.5}}
    checks.validate(config)


def test_an_operator_is_tried_on_the_shape_of_the_data():
    """On no other shape while theirs is unknown."""
    config = recipes.load("digits:tiny")
    config.sample.measurement = MEASURED | {"operator": {"name": "pooled", "factor": 3}}
    config.sample.driver = {"name": "daps"}
    recipe = checks.validate(config)
    assert recipe.examples.shape is None
    fits.check_examples(recipe.at((12, 12, 1)))
    for checked in (checks.on_its_data, lambda recipe: checks.with_data(recipe, DIGITS)):
        with pytest.raises(ConfigError, match=r"the operator cannot measure examples of \(8, 8, 1\)"):
            checked(recipe)


def test_records_that_are_no_pictures_are_not_measured():
    """A driver of points failed after the training, with KeyError: 'image'."""
    config = recipes.load("points:tiny")
    config.sample.measurement = {"operator": {"name": "pooled", "factor": 2}, "pictures": "test", "noise_std": 0.1}
    config.sample.driver = {"name": "ddrm"}
    recipe = checks.validate(config)
    words = r"measurement\.pictures = 'test', .*pictures are measured, but the data hold float32"
    for checked in (checks.on_its_data, lambda recipe: checks.with_data(recipe, SPIRALS)):
        with pytest.raises(ConfigError, match=words):
            checked(recipe)


def test_a_reward_has_one_number_for_each_sample(monkeypatch):
    monkeypatch.setitem(names.REWARDS, "mean_of_all", lambda: lambda x_0, condition: jnp.mean(x_0))
    driver = {"name": "twisted", "number": 2, "log_reward": {"name": "mean_of_all"}}
    with pytest.raises(
        ConfigError, match=r"the rewards, one number for each example, must have the shape \(1,\), but has"
    ):
        checks.validate(config_of(driver=driver, sampler={"name": "ddpm"}))


@pytest.mark.extended
def test_samples_whose_reward_is_not_finite_are_not_written(registered, monkeypatch, tmp_path):
    monkeypatch.setitem(names.REWARDS, "nothing", lambda: lambda x_0, condition: jnp.full(len(x_0), jnp.nan))
    driver = {"name": "twisted", "number": 2, "log_reward": {"name": "nothing"}}
    config = config_of(driver=driver, sampler={"name": "ddpm"}, number=2, steps=2)
    config.sample.guidance.scale = 1.0
    config.model = {"name": "narrow"}
    config.objective.wrappers = ()
    weights = run_samples.Weights({"params": {"unused": jnp.zeros(1)}}, "narrow", "no step", {}, {})
    with pytest.raises(ConfigError, match=r"'log_normaliser': nan.*Valid: a reward that is finite"):
        run_samples.sample_weights(checks.validate(config).at(SHAPE), weights, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_watermark_of_the_noise_is_refused():
    driver = {"name": "searched_noise", "log_reward": {"name": "near_value", "value": 0.0}}
    recipe = checks.validate(config_of(driver=driver)).at(SHAPE)
    with pytest.raises(ConfigError, match=r"'searched_noise' chooses its own noise, which cannot carry a watermark"):
        generate.build_generator(recipe, watermark=watermarks.gaussian_shading("0" * 64))


@pytest.mark.slow
def test_the_command_samples_so(tmp_path):
    config = config_of()
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    reward = {"log_reward": {"name": "near_value", "value": 0.5}}
    for fields in (
        {"driver": {"name": "daps"}, "measurement": MEASURED},
        {"driver": {"name": "twisted", "number": 2, "pull": 0.1} | reward, "sampler": {"name": "ddpm"}},
        {"driver": {"name": "optimised_noise", "updates": 2} | reward},
        SQUARED | {"guidance": PAIR},
        {"driver": {"name": "rejected", "beta": 1.0} | reward},
        {"driver": {"name": "das", "number": 2} | reward, "sampler": {"name": "ddpm"}},
        SQUARED | {"guidance": PAIR, "driver": {"name": "mixed", "number": 2}},
        {"driver": {"name": "mcgdiff", "number": 2}, "measurement": MEASURED, "sampler": {"name": "ddpm"}},
    ):
        changed = config_of(**fields)
        changed.train.steps = 2
        made = run_samples.sample(checks.on_its_data(checks.validate(changed)), tmp_path / "run")
        assert made.shape == (4, *SHAPE) and np.ptp(made) > 0
        record = json.loads((tmp_path / "run" / "samples.json").read_text())
        particles = fields["driver"]["name"] in ("twisted", "das", "corrected", "mixed", "mcgdiff")
        assert ("rejection" in record) == (fields["driver"]["name"] == "rejected")
        assert ("particles" in record) == particles
        assert not particles or 1 <= record["particles"]["effective_size"] <= 2
