"""Guidance by the names of a config: of more branches, of a second run, of measured pictures; thresholds after it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import guidance, schedules
from diffusion.experiments import train
from diffusion.experiments.sampling import generate, run_denoiser, run_samples
from diffusion.guidance import measurements
from diffusion.parameterizations import Denoiser
from diffusion.recipe import ConfigError, checks, data, guides, names, versions
from diffusion.recipe.parts import Resolver
from diffusion.training.checkpointing import checkpoints
from tests.drawn_parameters import drawn

LINE = schedules.rectified_flow()
SHAPE = (8, 8, 1)
MEAN, STD = 0.2, 0.5


def config_of(**fields):
    config = digits.get_config("tiny")
    config.data.shape = SHAPE
    config.sample.guidance.scale = 1.0
    config.sample.number = config.sample.batch_size = 4
    for name, value in fields.items():
        config.sample[name] = value
    return config


@pytest.fixture(scope="module")
def params():
    """Of the tiny digits network; every parameter has a value that shows, since an untrained DiT answers 0."""
    network = Resolver(config_of()).model(SHAPE)
    return drawn(network.init, jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.zeros(1, jnp.int32), size=0.15)


X = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
LABELS = jnp.asarray([3, 8, 0, 1], jnp.int32)


def predicted(config, params, t=0.6):
    recipe = checks.validate(config).at(SHAPE)
    return jax.jit(lambda params: run_denoiser.denoiser(recipe)(params, LABELS)(X, t))(params)


@pytest.mark.parametrize("name", ["classifier_free", "zero_star", "rescaled"])
def test_an_entry_of_a_guidance_without_its_scale_is_refused(name):
    with pytest.raises(ConfigError, match=rf"config\.sample\.guidance: guidance '{name}' needs scale, e\.g\. --config"):
        checks.validate(config_of(guidance={"name": name}))


@pytest.mark.extended
def test_guidance_with_impaired_layers_is_its_formula(params):
    """At s = 0 (and w = 1) the plain network; else away from the network with its mask, by the network itself."""
    recipe = checks.validate(config_of()).at(SHAPE)
    plain = predicted_of(params, LABELS)
    apply = jax.jit(recipe.network.apply)
    for name, kind in (("perturbed_attention", "identity"), ("skip_layer", "skip")):
        entry = {"name": name, "scale": 2.0, "layers": (1,)}
        neutral = predicted(config_of(guidance=entry | {"scale": 0.0, "classifier_free": 1.0}), params)
        np.testing.assert_allclose(neutral.x0, plain.x0, atol=2e-6)
        mask = np.tile([False, True], (4, 1))
        x0 = lambda output: X - 0.6 * output  # of the velocity
        clock = recipe.parameterization.clock(LINE, jnp.full(4, 0.6))
        away = apply(params, X, clock, {"label": LABELS, kind: mask})
        null = apply(params, X, clock, jnp.full(4, 10, jnp.int32))
        expected = plain.x0 + 2.0 * (plain.x0 - x0(away)) + 0.5 * (plain.x0 - x0(null))
        made = predicted(config_of(guidance=entry | {"classifier_free": 1.5}), params)
        np.testing.assert_allclose(made.x0, expected, atol=1e-4)
        assert np.abs(made.x0 - plain.x0).max() > 1e-2


@pytest.mark.extended
def test_further_classes_are_composed(params):
    """The class alone with weight 1 is the plain network; with a further class, the sum of both differences."""
    plain, other, null = (
        predicted_of(params, labels) for labels in (LABELS, jnp.full_like(LABELS, 7), jnp.full_like(LABELS, 10))
    )
    alone = predicted(config_of(guidance={"name": "composed", "scales": (1.0,)}), params)
    np.testing.assert_allclose(alone.x0, plain.x0, atol=2e-5)
    both = predicted(config_of(guidance={"name": "composed", "scales": (2.0, -0.5), "labels": (7,)}), params)
    expected = null.x0 + 2 * (plain.x0 - null.x0) - 0.5 * (other.x0 - null.x0)
    np.testing.assert_allclose(both.x0, expected, atol=1e-4)


@pytest.mark.extended
def test_the_scores_of_the_classes_of_a_product_are_summed(params):
    """Class 10 stands for none, and the sample's own class may be alone; x0 follows from eps at alpha = 0.4."""
    own, other, null = (
        predicted_of(params, labels) for labels in (LABELS, jnp.full_like(LABELS, 7), jnp.full_like(LABELS, 10))
    )
    guided = predicted(config_of(guidance={"name": "product", "exponents": (3.0, -2.0), "labels": (10,)}), params)
    np.testing.assert_allclose(guided.x0, 3 * own.x0 - 2 * null.x0, atol=1e-4)
    for exponents, labels, eps in (((1.0, 0.5), (7,), own.eps + other.eps / 2), ((1.3,), (), 1.3 * own.eps)):
        made = predicted(config_of(guidance={"name": "product", "exponents": exponents, "labels": labels}), params)
        np.testing.assert_allclose(made.eps, eps, atol=1e-4)
        np.testing.assert_allclose(made.x0, (X - 0.6 * eps) / 0.4, atol=1e-3)


def predicted_of(params, labels):
    """The plain network's, by one program for all."""
    return plain_network()(params, labels)


@functools.cache
def plain_network():
    recipe = checks.validate(config_of()).at(SHAPE)
    return jax.jit(lambda params, labels: run_denoiser.denoiser(recipe)(params, labels)(X, 0.6))


@pytest.mark.extended
def test_a_threshold_comes_after_the_guidance(params):
    guided = {"name": "classifier_free", "scale": 3.0, "interval": None}
    before = predicted(config_of(guidance=guided), params)
    after = predicted(config_of(guidance=guided, guides=({"name": "dynamic_threshold", "percentile": 0.9},)), params)
    expected = guidance.dynamic_threshold(lambda x, t: before, LINE, 0.9)(X, 0.6)
    np.testing.assert_allclose(after.x0, expected.x0, atol=1e-5)
    assert np.abs(before.x0).max() > 1 >= np.abs(after.x0).max()


# ==== Second runs ====


@pytest.fixture(scope="module")
def second(tmp_path_factory, params):
    """A run folder with a checkpoint of other weights at step 40, its last, and one of 20."""
    folder = tmp_path_factory.mktemp("second")
    worse = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    config = config_of()
    (folder / "config.json").write_text(versions.write(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "steps", lambda of: [20, 40])
        patch.setattr(checkpoints, "load_ema", lambda of, step=None: (worse, step))
        yield folder, worse


def test_each_second_run_is_read_at_its_own_step(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load_ema", lambda folder, step=None: (f"{folder.name} at {step}", step))
    runs = [guides.SecondRun(f"guides[{i}]", tmp_path / name, step, None, None)
            for i, (name, step) in enumerate([("worse", 20), ("judge", 40)])]  # fmt: skip
    made = tuple(guides.Guide(lambda *_: None, (run,), False, lambda denoise: denoise) for run in runs)
    assert guides.weights(made) == {"guides[0]": "worse at 20", "guides[1]": "judge at 40"}


@pytest.mark.extended
def test_autoguidance_is_away_from_the_second_run(second, params):
    folder, worse = second
    entry = {"name": "autoguidance", "worse": str(folder)}
    of = lambda config: run_denoiser.denoiser(checks.validate(config).at(SHAPE))(params, LABELS)(X, 0.6)
    plain = of(config_of())  # without jit, whose rounding depends on the whole program
    one = of(config_of(guides=(entry | {"scale": 1.0},)))
    np.testing.assert_array_equal(one.x0, plain.x0)
    np.testing.assert_array_equal(one.eps, plain.eps)
    away = predicted(config_of(guides=(entry | {"scale": 3.0},)), params)
    np.testing.assert_allclose(away.x0, plain.x0 + 2 * (plain.x0 - predicted_of(worse, LABELS).x0), atol=1e-4)


@pytest.mark.extended
def test_a_run_times_a_power_of_a_second_run(second, params):
    """The run's own product to the power 1/2, and the other to the power 1/2: the geometric average of both."""
    folder, worse = second
    other = {"name": "multiplied", "other": str(folder), "exponent": 0.5}
    both = config_of(guidance={"name": "product", "exponents": (0.5,)}, guides=(other,))
    eps = (predicted_of(params, LABELS).eps + predicted_of(worse, LABELS).eps) / 2
    np.testing.assert_allclose(predicted(both, params).eps, eps, atol=1e-4)


@pytest.mark.extended
def test_an_own_guide_reads_a_second_run_too(second, params):
    def mean_of_both(denoise, other: Denoiser):
        def mean(x, t):
            a, b = denoise(x, t), other(x, t)
            return a._replace(x0=(a.x0 + b.x0) / 2, eps=(a.eps + b.eps) / 2)

        return mean

    folder, worse = second
    names.add(names.GUIDES, mean_of_both)
    try:
        made = predicted(config_of(guides=({"name": "mean_of_both", "other": str(folder)},)), params)
    finally:
        del names.GUIDES["mean_of_both"]
    expected = (predicted_of(params, LABELS).x0 + predicted_of(worse, LABELS).x0) / 2
    np.testing.assert_allclose(made.x0, expected, atol=1e-5)


class Mixture(nn.Module):
    """Of classes N(mu_k, STD^2), mu = -1, 1: the velocity of both together, or the logits of their posterior."""

    num_classes: int = 0
    out_channels: int = 1

    @nn.compact
    def __call__(self, x, t, condition=None):
        self.param("unused", nn.initializers.zeros, (1,))
        t = t.reshape(-1, 1, 1, 1)
        spread = (1 - t) ** 2 * STD**2 + t**2
        residuals = jnp.concatenate([x - (1 - t) * mean for mean in (-1.0, 1.0)], axis=-1)  # [B, H, W, 2]
        logits = -(residuals**2) / (2 * spread) * (x.shape[1] * x.shape[2])
        if self.out_channels == 2:
            return logits
        weights = jax.nn.softmax(logits.mean((1, 2), keepdims=True))
        x0 = jnp.asarray([-1.0, 1.0]) + (1 - t) * STD**2 / spread * residuals
        eps = t / spread * residuals
        return jnp.sum(weights * (eps - x0), axis=-1, keepdims=True)


@pytest.mark.extended
def test_a_classifier_guides_a_mixture_to_its_class(tmp_path, monkeypatch):
    """With the exact p(y | x_t) and w = 1 the unconditional denoiser becomes that of the class."""
    names.add(names.MODELS, Mixture, "mixture")
    try:
        judge = config_of()
        judge.model = {"name": "mixture", "num_classes": 2}
        judge.parameterization = {"name": "velocity", "clock": {"name": "time"}}
        judge.objective = {"name": "noisy_classification", "density": {"name": "uniform_density"}}
        (tmp_path / "config.json").write_text(versions.write(judge))
        monkeypatch.setattr(checkpoints, "steps", lambda of: [40])
        weights = {"params": {"unused": jnp.zeros(1)}}
        monkeypatch.setattr(checkpoints, "load_ema", lambda of, step=None: (weights, step))
        config = config_of(guides=({"name": "classifier", "log_probability": str(tmp_path)},))
        config.model = {"name": "mixture", "num_classes": 2}
        config.parameterization = judge.parameterization
        config.objective.wrappers = ()
        recipe = checks.validate(config).at(SHAPE)
        labels = jnp.asarray([0, 1, 1, 0])
        t = 0.9
        x = 0.3 * X
        guided = jax.jit(lambda weights, labels: run_denoiser.denoiser(recipe)(weights, labels)(x, t))(weights, labels)
        mean = np.where(labels == 1, 1.0, -1.0).reshape(4, 1, 1, 1)
        spread = (1 - t) ** 2 * STD**2 + t**2
        expected = mean + (1 - t) * STD**2 / spread * (x - (1 - t) * mean)
        np.testing.assert_allclose(guided.x0, expected, atol=2e-4)
        objective = checks.validate(judge).objective
        network = lambda *inputs: checks.validate(judge).at(SHAPE).network.apply(weights, *inputs)
        data = jnp.asarray(mean + 0.1 * X, jnp.float32)
        keys = jax.random.split(jax.random.key(0), 4)
        losses, metrics = objective({"model": network}, LINE, keys, {"x": data, "condition": labels}, 0)
        assert losses.shape == (4,) and (losses >= 0).all() and metrics["accuracy"].mean() >= 0.75
        no_judge = config_of(guides=({"name": "autoguidance", "worse": str(tmp_path), "scale": 2.0},))
        with pytest.raises(ConfigError, match=r"'noisy_classification' does.*class-conditional denoiser"):
            checks.validate(no_judge)
        (tmp_path / "config.json").write_text(versions.write(config_of()))
        with pytest.raises(ConfigError, match="'flow_matching' does not train a classifier"):
            checks.validate(config)
    finally:
        del names.MODELS["mixture"]


AUTO = {"name": "autoguidance", "scale": 2.0}
SECOND_RUNS = {  # changes of its config, its step, words
    "resolution": ({"data.shape": (16, 16, 1)}, None, r"0\]\.worse =.*on examples of.*\(16, 16, 1\).*\(8, 8, 1"),
    "unfinished": ({"train.steps": 400}, None, r"has not reached its step 400.*'step': 40"),
    "no such step": ({}, 30, r"no checkpoint of step 30"),
    "objective": (
        {"objective": {"name": "mean_flow", "density": {"name": "uniform_density"}}, "sample.sampler.name": "flow_map"},
        None,
        "'mean_flow' does not train a class-conditional denoiser",
    ),
    "process": ({"schedule": {"name": "cosine"}}, None, r"config\.schedule = .*cosine.*rectified_flow"),
    "classes": ({"model.num_classes": 3}, None, r"has 3 classes.*10"),
}


@pytest.mark.parametrize("case", SECOND_RUNS)
def test_a_second_run_that_does_not_fit_is_refused_at_once(case, tmp_path, monkeypatch):
    changes, step, words = SECOND_RUNS[case]
    theirs = config_of()
    theirs.update_from_flattened_dict({k: v for k, v in changes.items() if k not in ("objective", "schedule")})
    for whole in {"objective", "schedule"} & changes.keys():
        theirs[whole] = changes[whole]
    (tmp_path / "config.json").write_text(versions.write(theirs))
    monkeypatch.setattr(checkpoints, "steps", lambda of: [20, 40])
    run = str(tmp_path) if step is None else {"run": str(tmp_path), "step": step}
    with pytest.raises(ConfigError, match=words):
        checks.validate(config_of(guides=(AUTO | {"worse": run},)))


# ==== Measured pictures ====


class Gaussian(nn.Module):
    """The exact velocity of data N(MEAN, STD^2), independent in every pixel."""

    num_classes: int = 0

    @nn.compact
    def __call__(self, x, t, condition=None):
        self.param("unused", nn.initializers.zeros, (1,))
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        spread = (1 - t) ** 2 * STD**2 + t**2
        residual = (x - (1 - t) * MEAN) / spread
        return t * residual - (MEAN + (1 - t) * STD**2 * residual)


@pytest.fixture
def gaussian():
    names.add(names.MODELS, Gaussian, "gaussian")
    yield {"params": {"unused": jnp.zeros(1)}}
    del names.MODELS["gaussian"]


@pytest.mark.extended
def test_samples_agree_with_measured_pictures_as_the_posterior_does(gaussian, tmp_path):
    """Of white Gaussian data and pooled pixels the posterior is known, and PiGDM's flow has its mean and deviation."""
    number, noise = 256, 0.1
    picture = (np.random.default_rng(0).random((1, *SHAPE)) * 255).astype(np.uint8)
    np.savez(tmp_path / "seen.npz", images=picture)
    config = config_of(
        measurement={
            "operator": {"name": "pooled", "factor": 2},
            "pictures": str(tmp_path / "seen.npz"),
            "noise_std": noise,
        },
        guides=({"name": "pseudoinverse", "data_std": STD},),
    )
    config.model = {"name": "gaussian"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    config.sample.sampler = {"name": "heun"}
    config.sample.steps = 24
    config.sample.number = config.sample.batch_size = number
    recipe = checks.validate(config).at(SHAPE)
    x, _ = generate.generator(recipe).trajectory(gaussian, np.zeros(number, np.int32), generate.seeds(config, number))
    samples = np.asarray(x[-1])
    y = generate.measured_pictures(recipe)
    assert y.shape == (1, 4, 4, 1)
    # One pooled pixel is the mean of four: y = mean x + noise z, so that the posterior of that mean is a product.
    prior = STD**2 / 4
    expected = (MEAN * noise**2 + y[0] * prior) / (noise**2 + prior)
    deviation = np.sqrt(prior * noise**2 / (prior + noise**2))
    means = samples.reshape(number, 4, 2, 4, 2, 1).mean((2, 4))
    error = deviation / np.sqrt(number)
    assert np.abs(means.mean(0) - expected).max() < 5 * error + 0.01
    np.testing.assert_allclose(means.std(0).mean(), deviation, rtol=0.1)


def test_a_measured_picture_of_the_data_keeps_its_class(tmp_path):
    operator = {"name": "pooled", "factor": 2}
    measurement = {"operator": operator, "pictures": "test", "noise_std": 0.1}
    config = config_of(measurement=measurement, guides=({"name": "proximal"},), number=12)
    records = data.source(config, "test")
    recipe = checks.validate(config).at(SHAPE)
    np.testing.assert_array_equal(generate.conditions_of(recipe, 12), [records[i]["label"] for i in range(12)])
    np.save(tmp_path / "seen.npy", np.zeros((1, *SHAPE), np.uint8))
    config.sample.measurement.pictures = "tset"
    with pytest.raises(ConfigError, match=r"^config\.sample\.measurement\.pictures = 'tset': .* no split 'tset'"):
        generate.conditions_of(checks.validate(config).at(SHAPE), 5)
    config.sample.measurement.pictures = str(tmp_path / "seen.npy")  # nothing is known of their classes
    recipe = checks.validate(config).at(SHAPE)
    np.testing.assert_array_equal(generate.conditions_of(recipe, 12), [*range(10), 0, 1])


@pytest.mark.extended
def test_the_gradient_of_the_likelihood_is_that_of_the_measured_pictures(gaussian, tmp_path):
    """DPS of white Gaussian data, whose x0(x_t) is linear: the score moves by its slope A^T (y - A x0) / noise^2."""
    noise = 0.5
    picture = np.full((1, *SHAPE), 200, np.uint8)
    np.save(tmp_path / "seen.npy", picture)
    operator = {"name": "masked", "mask": {"name": "box", "corner": (0, 0), "size": (4, 8)}}
    config = config_of(
        measurement={"operator": operator, "pictures": str(tmp_path / "seen.npy"), "noise_std": noise},
        guides=({"name": "posterior_sampling", "scale": 0.5},),
    )
    config.model = {"name": "gaussian"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    recipe = checks.validate(config).at(SHAPE)
    y = generate.measured_pictures(recipe)
    t = 0.6
    guided = run_denoiser.denoiser(recipe)(gaussian, LABELS, run_denoiser.GuidesRead({}, np.repeat(y, 4, 0)))(X, t)
    spread = (1 - t) ** 2 * STD**2 + t**2
    slope = (1 - t) * STD**2 / spread
    x0 = MEAN + slope * (X - (1 - t) * MEAN)
    known = measurements.box(SHAPE, (0, 0), (4, 8))
    assert not known[:4].any() and known[4:].all()
    gradient = slope * known * (y - x0) / noise**2
    np.testing.assert_allclose(guided.x0, x0 + 0.5 * t**2 / (1 - t) * gradient, atol=1e-5)
    with pytest.raises(ConfigError, match="only diffusion sample measures"):
        run_denoiser.denoiser(recipe)(gaussian, LABELS)


@pytest.mark.parametrize("name", ["proximal", "manifold_preserving"])
def test_guides_without_a_derivative_read_the_measured_pictures(gaussian, tmp_path, name):
    """The known half moves by a share of y - x0: 1 / (1 + ratio) of the proximal estimate, w / noise^2 of a step."""
    noise, t = 0.5, 0.6
    np.save(tmp_path / "seen.npy", np.full((1, *SHAPE), 200, np.uint8))
    operator = {"name": "masked", "mask": {"name": "box", "corner": (0, 0), "size": (4, 8)}}
    config = config_of(
        measurement={"operator": operator, "pictures": str(tmp_path / "seen.npy"), "noise_std": noise},
        guides=({"name": name, "scale": 0.2},),
    )
    config.model = {"name": "gaussian"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    recipe = checks.validate(config).at(SHAPE)
    y = generate.measured_pictures(recipe)
    guided = run_denoiser.denoiser(recipe)(gaussian, LABELS, run_denoiser.GuidesRead({}, np.repeat(y, 4, 0)))(X, t)
    x0 = MEAN + (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2) * (X - (1 - t) * MEAN)
    share = 1 / (1 + 0.2 * ((1 - t) * noise / t) ** 2) if name == "proximal" else 0.2 / noise**2
    known = measurements.box(SHAPE, (0, 0), (4, 8))
    np.testing.assert_allclose(guided.x0, x0 + share * known * (y - x0), atol=1e-5)


def test_the_noise_of_a_measurement_depends_on_the_seed_and_the_number_of_the_picture():
    kept = guides.Measured(lambda shape: measurements.masked(jnp.ones(shape, bool)), "seen.npy", 0.5)
    pictures = np.zeros((4, *SHAPE), np.float32)
    noise = guides.measure(kept, pictures, seed=7)
    np.testing.assert_array_equal(guides.measure(kept, pictures[:2], seed=7), noise[:2])
    rows = np.concatenate([noise, guides.measure(kept, pictures, seed=8)]).reshape(8, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(8)).max() < 0.5  # of 64 pixels; equal noise would have 1
    assert noise.std() == pytest.approx(0.5, rel=0.15)


def test_each_sample_agrees_with_the_picture_of_its_seed(gaussian, tmp_path):
    """Three pictures in turn: a later batch has those of its seeds, and not the first two."""
    pictures = np.full((3, *SHAPE), np.array([20, 120, 240], np.uint8).reshape(3, 1, 1, 1))
    np.save(tmp_path / "seen.npy", pictures)
    operator = {"name": "masked", "mask": {"name": "box", "corner": (0, 0), "size": (4, 8)}}
    config = config_of(
        measurement={"operator": operator, "pictures": str(tmp_path / "seen.npy"), "noise_std": 0.01},
        guides=({"name": "proximal", "scale": 0.2},),
        sampler={"name": "ddim"},
        steps=1,
        seed=7,
        number=6,
        batch_size=2,
    )
    config.model = {"name": "gaussian"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    make = generate.generator(checks.validate(config).at(SHAPE))
    seeds = generate.seeds(config, 6)
    for rows in ([0, 1], [5, 4]):
        samples = make.images(gaussian, np.zeros(2, np.int32), seeds[rows])
        known = samples[:, 4:].mean((1, 2, 3))  # the box hides the upper half
        np.testing.assert_allclose(known, pictures[:, 0, 0, 0][np.array(rows) % 3], atol=4)


def test_measured_pictures_have_the_noise_of_the_run_and_go_to_their_seeds(gaussian, tmp_path, monkeypatch):
    """Of samples and of trajectories; three greys in turn, without noise and with that of two runs."""

    class Begun(Exception):
        pass

    def sampled(recipe, network, watermark, drive, params, weights, labels, y, seeds):
        raise Begun(np.asarray(y)[:, 0, 0, 0].tolist())

    greys = np.array([0, 255, 51], np.uint8)  # -1, 1 and -0.6 on the network's scale
    np.save(tmp_path / "seen.npy", np.full((3, *SHAPE), greys.reshape(3, 1, 1, 1)))

    def recipe(seed=0, noise=0.0):
        operator = {"name": "pooled", "factor": 2}
        seen = {"operator": operator, "pictures": str(tmp_path / "seen.npy"), "noise_std": noise}
        config = config_of(measurement=seen, guides=({"name": "proximal"},), seed=7)
        config.seed = seed
        return checks.validate(config).at(SHAPE)

    first, again, other = (generate.measured_pictures(recipe(seed, 0.5)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.2
    monkeypatch.setattr(generate, "_sampled", sampled)
    made = recipe()
    make, seeds = generate.generator(made), generate.seeds(made.config, 6)[[5, 4]]
    for call in (make.images, make.trajectory):
        with jax.disable_jit(), pytest.raises(Begun) as begun:
            call(gaussian, np.zeros(2, np.int32), seeds)
        np.testing.assert_allclose(begun.value.args[0][:2], [-0.6, 1], atol=1e-6)  # a batch is filled up


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_blur_is_solved_in_fouriers_basis(ratio):
    """A is symmetric and keeps the mean; solve is (A A^T + ratio I)^-1."""
    blur = measurements.blurred(0.6)
    basis = jnp.eye(16).reshape(16, 4, 4, 1)
    A = np.asarray(blur.forward(basis)).reshape(16, 16)
    np.testing.assert_allclose(A, A.T, atol=1e-6)
    np.testing.assert_allclose(A.sum(0), 1, atol=1e-5)
    inverse = np.asarray(blur.solve(basis, jnp.asarray(ratio))).reshape(16, 16)
    np.testing.assert_allclose(inverse @ (A @ A.T + ratio * np.eye(16)), np.eye(16), atol=1e-3)


MEASURED = {"operator": {"name": "pooled", "factor": 2}, "pictures": "test", "noise_std": 0.0}
REFUSED = {
    "unknown guide": ({"guides": ({"name": "autoguidence"},)}, r"guides\[0\]\.name.*'autoguidance'"),
    "no run": ({"guides": (AUTO | {"worse": "/no/such"},)}, r"guides\[0\]\.worse = '/no/such' holds no run"),
    "a run that is none": ({"guides": (AUTO | {"worse": 3},)}, r"worse = 3. Valid: the folder of a run"),
    "percentile": ({"guides": ({"name": "dynamic_threshold", "percentile": 2.0},)}, r"guides\[0\].*percentile = 2.0"),
    "nothing measured": ({"guides": ({"name": "pseudoinverse"},)}, r"needs measured pictures.*pooled"),
    "measured for nothing": (
        {"guides": ({"name": "dynamic_threshold"},), "measurement": MEASURED},
        r"measurement\.operator.*no guide and no driver reads the measurement\. Valid: e\.g\. the guide proximal",
    ),
    "no pictures": (
        {"guides": ({"name": "pseudoinverse"},), "measurement": MEASURED | {"pictures": ""}},
        r"measurement\.pictures = ''",
    ),
    "factor": (
        {
            "guides": ({"name": "pseudoinverse"},),
            "measurement": MEASURED | {"operator": {"name": "pooled", "factor": 3}},
        },
        r"the operator cannot measure examples of \(8, 8, 1\)",
    ),
    "box": (
        {
            "guides": ({"name": "pseudoinverse"},),
            "measurement": MEASURED
            | {"operator": {"name": "masked", "mask": {"name": "box", "corner": (6, 6), "size": (4, 4)}}},
        },
        r"box: corner = \(6, 6\) and size = \(4, 4\) do not lie within",
    ),
    "layer": (
        {"guidance": {"name": "skip_layer", "scale": 1.0, "layers": (2,)}},
        r"config\.sample\.guidance: layer 2 does not exist",
    ),
    "no layers": ({"guidance": {"name": "skip_layer", "scale": 1.0}}, r"needs layers"),
    "scales": ({"guidance": {"name": "composed", "scales": ()}}, r"scales is empty"),
    "a memory": (
        {"guidance": {"name": "adaptive_projected", "scale": 2.0}, "guides": ({"name": "dynamic_threshold"},)},
        r"config\.sample\.guides.*plain denoiser",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    fields, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        checks.validate(config_of(**fields))


def test_a_network_without_masks_is_refused(gaussian):
    config = config_of(guidance={"name": "skip_layer", "scale": 1.0, "layers": (0,)})
    config.model = {"name": "gaussian", "num_classes": 10}
    with pytest.raises(ConfigError, match=r"config\.model\.name = 'gaussian' has no layers.*dit"):
        checks.validate(config)


@pytest.mark.slow
def test_commands_sample_so(tmp_path):
    config = config_of()
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    for fields in (
        {"guides": (AUTO | {"worse": str(tmp_path / "run")}, {"name": "dynamic_threshold"})},
        {"guides": ({"name": "pseudoinverse"},), "measurement": MEASURED},
        {"guides": ({"name": "posterior_sampling"},), "measurement": MEASURED},
        {"guidance": {"name": "perturbed_attention", "scale": 1.0, "layers": (1,)}},
        {"guidance": {"name": "composed", "scales": (1.0, 1.0), "labels": (7,)}},
    ):
        changed = config_of(**fields)
        changed.train.steps = 2
        made = run_samples.sample(checks.on_its_data(checks.validate(changed)), tmp_path / "run")
        assert made.shape == (4, *SHAPE) and np.ptp(made) > 0


@pytest.mark.slow
def test_a_classifier_is_trained_and_guides_a_run(tmp_path):
    config = config_of()
    config.train.steps = config.checkpoint.every = 2
    assert train.run(config, tmp_path / "run") == 0
    judge = config.copy_and_resolve_references()
    judge.objective = {"name": "noisy_classification", "density": {"name": "uniform_density"}}
    judge.model = {"name": "unet", "widths": (8, 8), "blocks": 1, "groups": 4, "num_classes": 10}
    assert train.run(judge, tmp_path / "judge") == 0
    config.sample.guides = ({"name": "classifier", "log_probability": str(tmp_path / "judge"), "scale": 1.0},)
    made = run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path / "run")
    assert made.shape == (4, *SHAPE) and np.ptp(made) > 0
