"""f-distill, and the discriminator in the fake network: gradients of divergences, by quadrature on Gaussians."""

import importlib
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, weightings
from diffusion.objectives import f_divergences
from diffusion.objectives.backward_simulation import generate
from tests import oracles
from tests.objectives.few_step_cases import FLOW, UNIFORM, V, as_v, exact_denoiser, keys_and_data
from tests.objectives.objective_cases import at

# f(r) with f''(1) = 1, in the order of the docstring's table.
F = {
    "reverse_kl": lambda r: -jnp.log(r),
    "softened_reverse_kl": lambda r: 2 * (r + 1) * jnp.log(0.5 + 0.5 / r),
    "jensen_shannon": lambda r: 2 * r * jnp.log(r) - 2 * (r + 1) * jnp.log((r + 1) / 2),
    "squared_hellinger": lambda r: 4 * (1 - jnp.sqrt(r)),
    "forward_kl": lambda r: r * jnp.log(r),
    "jeffreys": lambda r: (r - 1) * jnp.log(r) / 2,
}
T = 0.6
ALPHA, SIGMA = float(FLOW.alpha(T)), float(FLOW.sigma(T))
MEAN, STD = 0.7, 0.9  # of the data
THETA = {"a": 1.3, "b": -0.2}  # samples a z + b
EVERYWHERE = (1e-30, 1e30)
nodes, weights = np.polynomial.hermite_e.hermegauss(32)
z, eps = (axis.reshape(-1, 1) for axis in np.meshgrid(nodes, nodes))
WEIGHTS = np.outer(weights, weights).reshape(-1) / (2 * math.pi)


@pytest.mark.extended
@pytest.mark.parametrize("name", F)
def test_weight_is_the_second_derivative_of_f(name, x64):
    r = jnp.array([0.05, 0.4, 1.0, 3.0, 30.0])
    second = jax.vmap(jax.grad(jax.grad(F[name])))(r)
    np.testing.assert_allclose(getattr(f_divergences, name)(jnp.log(r)), second * r**2, rtol=1e-9)
    np.testing.assert_allclose(F[name](1.0), 0, atol=1e-12)


def test_weights_are_those_of_the_table():
    r = np.array([0.4, 1.0, 3.0])
    weights = [r**0, 2 / (1 + r), 2 * r / (1 + r), np.sqrt(r), r, (1 + r) / 2]
    for name, expected in zip(F, weights, strict=True):
        np.testing.assert_allclose(getattr(f_divergences, name)(np.log(r)), expected, rtol=1e-6)


def test_every_divergence_is_here():
    functions = inspect.getmembers(f_divergences, inspect.isfunction)
    assert set(F) == {name for name, function in functions if function.__module__ == f_divergences.__name__}


def normal_density(x, mean, std):
    return jnp.exp(-jnp.square((x - mean) / std) / 2) / (std * math.sqrt(2 * math.pi))


def data(x):
    return normal_density(x, ALPHA * MEAN, math.hypot(ALPHA * STD, SIGMA))


def samples(x, theta):
    return normal_density(x, ALPHA * theta["b"], jnp.sqrt(jnp.square(ALPHA * theta["a"]) + SIGMA**2))


def log_ratio(x):
    return jnp.log(data(x)) - jnp.log(samples(x, THETA))


def fake(x, t, condition, features=None, extra=lambda x: 0.0):
    """The exact score of the samples; its features in block 2 have the mean log p_t / q_t over their two channels."""
    x0 = exact_denoiser(FLOW, oracles.gaussian([THETA["b"]], [[THETA["a"] ** 2]]))(x, t, condition)
    logit = log_ratio(x) + extra(x)
    return x0 if features is None else (x0, tuple((k == 2) * (logit + jnp.array([3.0, -3.0])) for k in features))


def generator(theta):  # at t_max = 1 its x0 is minus its v
    return lambda z, t, condition: -(theta["a"] * z + theta["b"])


@pytest.fixture
def quadrature(monkeypatch, x64):
    """Samples that start at the nodes z, and eps for every noise: the draws are one grid of a quadrature."""
    drawn = lambda keys, x: jnp.asarray(eps)
    for name in ("distribution_matching", "score_identity", "inputs"):
        monkeypatch.setattr(importlib.import_module(f"diffusion.objectives.{name}"), "normal", drawn)
    draw = lambda network, schedule, read, keys, batch: generate(network, schedule, read, jnp.asarray(z))
    return objectives.Simulation(draw, ("nodes",), one_step=True)


def expectation(objective, networks, x=z):
    keys = jax.random.split(jax.random.key(0), len(z))
    return (jnp.asarray(WEIGHTS) * objective(networks, FLOW, keys, {"x": jnp.asarray(x)}, 0)[0]).sum()


@pytest.mark.extended
@pytest.mark.parametrize("name", F)
def test_gradient_is_that_of_the_divergence_and_of_the_discriminator(name, quadrature):
    """sigma^2 / alpha^2 grad D_f(p_t || q_t), and for a fixed D that of adversarial E_q log(1 + exp(-D)); 1-D data."""
    matching = objectives.distribution_matching(
        V, V, V, at(T), False, quadrature, getattr(f_divergences, name), EVERYWHERE, block=2, adversarial=0.3
    )
    networks = {"teacher": exact_denoiser(FLOW, oracles.gaussian([MEAN], [[STD**2]])), "fake": fake}
    run = lambda theta: expectation(matching, {**networks, "model": generator(theta)})
    found = jax.jit(jax.grad(run))(THETA)

    line = jnp.linspace(-9.0, 9.0, 4001)

    @jax.jit
    @jax.grad
    def expected(theta):
        q = samples(line, theta)
        divergence = q * F[name](data(line) / q)
        judged = q * jnp.log1p(jnp.exp(-log_ratio(line)))
        return jnp.trapezoid(SIGMA**2 / ALPHA**2 * divergence + 0.3 * judged, line)

    for key, slope in expected(THETA).items():
        np.testing.assert_allclose(found[key], slope, rtol=2e-5)
        assert abs(slope) > 0.01


@pytest.mark.extended
def test_gradient_of_score_identity_is_the_discriminators_too(quadrature):
    """SiDA's loss less SiD's is adversarial E_q log(1 + exp(-D)), in value and gradient, for a fixed D."""
    networks = {"teacher": exact_denoiser(FLOW, oracles.gaussian([MEAN], [[STD**2]])), "fake": fake}
    sid = objectives.score_identity(V, V, V, at(T), normalise=False, samples=quadrature)
    sida = objectives.score_identity(V, V, V, at(T), 1.2, False, quadrature, block=2, adversarial=0.3)

    def run(theta):
        players = {**networks, "model": generator(theta)}
        return expectation(sida, players) - expectation(sid, players)

    line = jnp.linspace(-9.0, 9.0, 4001)
    judged = lambda theta: 0.3 * jnp.trapezoid(samples(line, theta) * jnp.log1p(jnp.exp(-log_ratio(line))), line)
    found, expected = (jax.jit(jax.value_and_grad(function))(THETA) for function in (run, judged))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
        assert abs(theirs) > 0.01


@pytest.mark.extended
def test_reverse_kl_is_distribution_matching_to_the_bit():
    keys, batch = keys_and_data()
    known = {"teacher": exact_denoiser(FLOW), "model": lambda z, t, c: -0.7 * z}
    features = lambda x, t, c, features=(): (0.3 * x, tuple(5 * x for _ in features)) if features else 0.3 * x
    plain = objectives.distribution_matching(V, V, V, UNIFORM)
    weighted = objectives.distribution_matching(V, V, V, UNIFORM, f=f_divergences.reverse_kl, block=1)
    run = lambda objective: jax.value_and_grad(
        lambda x: objective({**known, "fake": features, "model": lambda z, t, c: x}, FLOW, keys, batch, 0)[0].sum()
    )(batch["x"])
    for ours, theirs in zip(run(weighted), run(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.extended
def test_logits_of_several_positions_count_by_their_means():
    """Of three positions the ratio is exp of the mean logit, but the losses are means of log(1 + exp(-D))."""
    keys, batch = keys_and_data()
    batch = {"x": jnp.float32(batch["x"])}
    generated, real = np.random.default_rng(0).normal(size=(2, 24, 3))
    soft = lambda logits: np.log1p(np.exp(-logits)).mean(1)
    logits = []

    def judge(x, t, c, features):
        return 0.3 * x, (jnp.asarray(logits.pop()[..., None] + np.array([0.5, -0.5]), jnp.float32),)

    networks = {"teacher": lambda x, t, c: 0.5 * x, "model": lambda z, t, c: -z, "fake": judge}
    run = lambda objective: objective(networks, FLOW, keys, batch, 0)
    forward = {"f": f_divergences.forward_kl, "ratios": (1e-3, 1e3)}
    for make, more in ((objectives.distribution_matching, forward), (objectives.score_identity, {})):
        logits[:] = [generated]
        _, metrics = run(make(V, V, V, UNIFORM, block=1, adversarial=0.1, **more))
        np.testing.assert_allclose(metrics["adversarial"], soft(generated), rtol=1e-5)
        if more:
            np.testing.assert_allclose(metrics["ratio_weight"], np.exp(generated.mean(1)), rtol=1e-5)
    score = lambda weight: objectives.fake_score(V, V, weightings.constant(V), UNIFORM, block=1, adversarial=weight)
    logits[:] = 2 * [real, generated]
    (most, metrics), (least, _) = run(score(0.5)), run(score(0.2))
    np.testing.assert_allclose(most - least, 0.3 * (soft(real) + soft(-generated)), rtol=1e-4)
    np.testing.assert_allclose(metrics["real"], real.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["generated"], generated.mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.extended
def test_ratios_are_limited():
    """r = e^4 and e^-4 count as the largest and the least ratio, 3 and 1/2."""
    keys, batch = keys_and_data()
    networks = {"teacher": exact_denoiser(FLOW), "model": lambda z, t, c: -z}
    for logit, h in ((4.0, 3.0), (-4.0, 0.5), (0.1, math.exp(0.1))):
        judge = lambda x, t, c, features, logit=logit: (x, (jnp.full_like(x, logit),))
        objective = objectives.distribution_matching(
            V, V, V, UNIFORM, f=f_divergences.forward_kl, ratios=(0.5, 3.0), block=1
        )
        _, metrics = objective({**networks, "fake": judge}, FLOW, keys, batch, 0)
        np.testing.assert_allclose(metrics["ratio_weight"], h, rtol=1e-6)


def test_the_exact_ratio_is_the_discriminators_optimum(quadrature):
    """Its loss is stationary at D = log p_t / q_t whatever is added to D, and least there."""
    score = objectives.fake_score(V, V, weightings.constant(V), at(T), quadrature, block=2, adversarial=0.5)
    x = MEAN + STD * z

    def run(c):
        changed = lambda *inputs, **more: fake(*inputs, extra=lambda x: c[0] + c[1] * x + c[2] * x**2, **more)
        return expectation(score, {"model": generator(THETA), "fake": changed}, x)

    value, slope = jax.jit(jax.value_and_grad(run))(jnp.zeros(3))
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    curvature = jax.jit(jax.hessian(run))(jnp.zeros(3))
    assert np.linalg.eigvalsh(curvature).min() > 1e-4
    # 2 log 2 - 2 JS(p, q), beside the variance of x given x_t, in the scale of v.
    line = jnp.linspace(-9.0, 9.0, 4001)
    p, q = data(line), samples(line, THETA)
    least = jnp.trapezoid(p * jnp.log((p + q) / p) + q * jnp.log((p + q) / q), line)
    variance = (THETA["a"] * SIGMA) ** 2 / ((ALPHA * THETA["a"]) ** 2 + SIGMA**2)
    of_v = (ALPHA**2 + SIGMA**2) / SIGMA  # dv / dx0 at fixed x_t
    np.testing.assert_allclose(value, of_v**2 * variance + 0.5 * least, rtol=1e-5)


@pytest.mark.parametrize("make, words", [
    (lambda: objectives.distribution_matching(V, V, V, UNIFORM, adversarial=0.1), "block = None, but"),
    (lambda: objectives.distribution_matching(V, V, V, UNIFORM, f=f_divergences.forward_kl), "block = None, but"),
    (lambda: objectives.distribution_matching(V, V, V, UNIFORM, block=2), "nothing reads its logits"),
    (lambda: objectives.distribution_matching(V, V, V, UNIFORM, block=0, adversarial=1.0), "Valid: at least 1"),
    (lambda: objectives.fake_score(V, V, weightings.constant(V), UNIFORM, block=2), "nothing reads its logits"),
    (lambda: objectives.score_identity(V, V, V, UNIFORM, block=2), "nothing reads its logits"),
    (lambda: objectives.score_identity(V, V, V, UNIFORM, adversarial=1.0), "block = None, but"),
    (lambda: objectives.fake_score(V, V, weightings.constant(V), UNIFORM, adversarial=-1.0), "must not be negative"),
    (lambda: objectives.distribution_matching(V, V, V, UNIFORM, ratios=(2.0, 3.0)), r"ratios = \(2.0, 3.0\)"),
])  # fmt: skip
def test_a_discriminator_without_a_use_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_network_without_features_is_named():
    keys, batch = keys_and_data()
    networks = {"teacher": exact_denoiser(FLOW), "model": lambda z, t, c: -z, "fake": lambda x, t, c, features: x}
    objective = objectives.distribution_matching(V, V, V, UNIFORM, block=1, adversarial=0.1)
    with pytest.raises(ValueError, match=r"returned .*, but a discriminator needs \(output, features\)"):
        objective(networks, FLOW, keys, batch, 0)


@pytest.mark.extended
def test_data_and_samples_are_noised_at_the_same_times_by_their_own_noise(x64):
    """y_t = alpha x_0 + sigma eps', x_t = alpha x + sigma eps, for x_0 = 2 and x = 5."""
    keys, batch = keys_and_data()
    seen = []

    def spy(x, t, condition, features):
        seen.append((x, t))
        return as_v(FLOW, lambda t, x: x)(x, t, condition), (x,)

    networks = {"model": lambda z, t, c: 0 * z - 5.0, "fake": spy}
    objective = objectives.fake_score(V, V, weightings.constant(V), UNIFORM, block=1, adversarial=0.1)
    objective(networks, FLOW, keys, {"x": jnp.full_like(batch["x"], 2.0)}, 0)
    (x_t, t), (y_t, s) = seen
    np.testing.assert_array_equal(s, t)
    noises = [(x - FLOW.alpha(t)[:, None] * level) / FLOW.sigma(t)[:, None] for x, level in ((x_t, 5), (y_t, 2))]
    for noise in noises:
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.4)
    assert abs(np.corrcoef(*(noise.ravel() for noise in noises))[0, 1]) < 0.5


@pytest.mark.parametrize("normalise", [False, True])
def test_the_weight_of_a_divergence_multiplies_the_difference_of_the_scores(normalise, monkeypatch):
    """By a stand-in for the discriminator: h at the clipped mean logit, times x0_fake - x0_teacher, and DMD2's loss."""
    module = importlib.import_module("diffusion.objectives.distribution_matching")
    rng = np.random.default_rng(0)
    x, real, fake = rng.normal(size=(3, 4, 2)).astype(np.float32)
    logits = np.float32([[0.3, -0.5], [4.0, 5.0], [-3.0, -4.0], [0.0, 0.0]])
    monkeypatch.setattr(module, "judged", lambda *arguments: (jnp.asarray(fake), jnp.asarray(logits)))
    samples = objectives.Simulation(lambda *arguments: jnp.asarray(x), ("known",))
    objective = objectives.distribution_matching(
        V, V, V, UNIFORM, normalise, samples, f_divergences.forward_kl, (0.1, 20.0), block=2, adversarial=0.25
    )
    teacher = as_v(FLOW, lambda t, x_t: jnp.asarray(real))
    players = {"model": teacher, "teacher": teacher, "fake": teacher}
    losses, metrics = objective(players, FLOW, jax.random.split(jax.random.key(0), 4), {"x": jnp.zeros((4, 2))}, 0)
    ratio = np.clip(np.exp(logits.mean(1)), 0.1, 20)
    weight = np.asarray(f_divergences.forward_kl(jnp.log(jnp.asarray(ratio))))
    assert len(np.unique(weight.round(4))) == 4
    scale = np.abs(x - real).mean(1, keepdims=True) if normalise else 1
    expected = np.mean((weight[:, None] * (fake - real) / scale) ** 2, 1) / 2
    fooled = np.log1p(np.exp(-logits)).mean(1)
    np.testing.assert_allclose(metrics["ratio_weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["adversarial"], fooled, rtol=1e-5)
    np.testing.assert_allclose(losses, expected + 0.25 * fooled, rtol=1e-3)
