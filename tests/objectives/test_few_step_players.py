"""What the distribution-matching and adversarial objectives guarantee."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from tests import oracles
from tests.objectives.few_step_cases import DATA, FLOW, PAIRS, V, as_v, exact_denoiser, gaussian_weights, keys_and_data
from tests.objectives.objective_cases import at


@pytest.mark.extended
def test_distribution_matching_gradient_is_that_of_the_kl_divergence(x64):
    """On Gaussians, G(z) = A z + b: E[gradient] = sigma^2 / (alpha^2 D) times that of KL(p_fake,t || p_teacher,t).

    The loss is a quadratic in (z, eps), so that weights which give the drawn examples the moments of N(0, I) make its
    mean an expectation.
    """
    t = 0.6
    B = 2 * PAIRS
    alpha = float(FLOW.alpha(t))
    sigma = float(FLOW.sigma(t))
    theta = {"A": jnp.array([[0.8, 0.2], [-0.1, 0.5]]), "b": jnp.array([0.3, -0.2])}
    generated = oracles.gaussian(theta["b"], theta["A"] @ theta["A"].T)
    seen = {}

    def teacher(x, t, condition):
        seen["x_t"] = x
        return exact_denoiser(FLOW)(x, t, condition)

    def generator(theta):  # at t_max = 1 its x0 is minus its v
        def network(z, t, condition):
            seen["z"] = z
            return -(z @ theta["A"].T + theta["b"])

        return network

    objective = objectives.distribution_matching(V, V, V, at(t), normalise=False)
    keys = jax.random.split(jax.random.key(0), B)
    batch = {"x": jnp.zeros((B, 2))}
    players = {"teacher": teacher, "fake": exact_denoiser(FLOW, generated)}
    run = lambda theta: objective({**players, "model": generator(theta)}, FLOW, keys, batch, 0)[0]
    seen = jax.jit(lambda: (run(theta), dict(seen))[1])()
    slope = jax.jit(jax.grad(lambda theta, weights: (weights * run(theta)).sum()))
    x = seen["z"] @ theta["A"].T + theta["b"]
    found = slope(theta, gaussian_weights(seen["z"], (seen["x_t"] - alpha * x) / sigma))

    @jax.jit
    @jax.grad
    def kl(theta):
        real_mean, real = oracles.marginal(DATA, alpha, sigma)
        fake = alpha**2 * theta["A"] @ theta["A"].T + sigma**2 * jnp.eye(2)
        apart = alpha * theta["b"] - real_mean
        precision = jnp.linalg.inv(real)
        return 0.5 * (jnp.trace(precision @ fake) + apart @ precision @ apart - jnp.linalg.slogdet(fake)[1])

    expected = jax.tree.map(lambda slope: sigma**2 / alpha**2 / 2 * slope, kl(theta))
    for leaf, of_kl in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, of_kl, rtol=1e-6)
        assert np.abs(leaf).max() > 0.01
    # A teacher that agrees with the fake score leaves the generator where it is.
    players["teacher"] = players["fake"]
    still = jax.jit(jax.grad(lambda theta: run(theta).sum()))(theta)
    np.testing.assert_allclose(jax.tree.leaves(still)[0], 0, atol=1e-12)


def test_distribution_matching_is_normalised_by_the_distance_to_the_teachers_estimate(x64):
    """d loss / dx = (x0_fake - x0_teacher) / (D mean |x - x0_teacher|), with estimates that are known."""
    constant = lambda value: as_v(FLOW, lambda t, x: jnp.full_like(x, value))
    players = {"teacher": constant(0.5), "fake": constant(2.0)}
    keys, batch = keys_and_data()
    objective = objectives.distribution_matching(V, V, V, at(0.5))
    x = batch["x"]
    run = lambda x: objective({**players, "model": lambda z, t, c: -x}, FLOW, keys, batch, 0)[0].sum()
    expected = 1.5 / np.abs(x - 0.5).mean(axis=1, keepdims=True) / 2
    np.testing.assert_allclose(jax.grad(run)(x), np.broadcast_to(expected, x.shape), rtol=1e-6)


@pytest.mark.parametrize("make", [objectives.distribution_matching, objectives.score_identity])
def test_samples_that_are_the_teachers_estimate_rest(make):
    """The distance by which the loss is divided is 0 there, and so is what it divides."""
    keys, batch = keys_and_data()
    batch = {"x": jnp.float32(batch["x"])}
    players = dict.fromkeys(("teacher", "fake"), as_v(FLOW, lambda t, x: jnp.zeros_like(x)))
    model = lambda b: lambda z, t, condition: 0 * z - b
    run = lambda b: make(V, V, V, at(0.5))({**players, "model": model(b)}, FLOW, keys, batch, 0)[0].sum()
    np.testing.assert_array_equal(jax.jit(jax.value_and_grad(run))(0.0), 0)


def test_fake_score_is_denoising_of_the_generators_samples(x64):
    """Its optimum is E[x | x_t] for x = b alone: the loss of a network that knows b vanishes."""
    keys, batch = keys_and_data()
    generator = lambda z, t, c: 0 * z - jnp.array([0.4, 0.1])
    objective = objectives.fake_score(V, V, weightings.constant(parameterizations.x0()), at(0.5))
    for shift in (0.0, 0.3):
        fake = as_v(FLOW, lambda t, x, shift=shift: jnp.zeros_like(x) + jnp.array([0.4, 0.1]) + shift)
        losses, _ = objective({"model": generator, "fake": fake}, FLOW, keys, batch, 0)
        np.testing.assert_allclose(losses, shift**2, rtol=1e-6, atol=1e-20)
    players = {"model": generator, "fake": lambda x, t, c: 0.3 * x}
    alone, beside = (objective(players, FLOW, keys, of, 0)[0] for of in (batch, {**batch, "noise": 9 + batch["x"]}))
    np.testing.assert_array_equal(alone, beside)  # the batch's noise belongs to its own x


def test_regression_is_the_distance_to_the_samples_of_the_batch():
    keys, batch = keys_and_data()
    batch["start"] = 2 * batch["x"]
    model = lambda z, t, c: -(0.25 * z + t[:, None])
    losses, _ = objectives.regression(V)({"model": model}, FLOW, keys, batch, 0)
    np.testing.assert_allclose(losses, np.square(1 - 0.5 * batch["x"]).mean(1), rtol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("objective", [objectives.regression(V), objectives.drifting(V, 0.5, 2)])
def test_a_generator_of_one_step_is_trained_where_its_schedule_ends(objective):
    keys, batch = keys_and_data(4)
    clocks = []
    model = lambda z, clock, condition: (clocks.append(clock), z)[1]
    schedule = schedules.ending_at(FLOW, 0.8)
    _, metrics = objective({"model": model}, schedule, keys, {**batch, "start": batch["x"]}, 0)
    np.testing.assert_allclose([*clocks, metrics["t"]], 0.8, rtol=1e-6)


DIRECTIONS = jnp.array([[0.6, -0.3], [1.0, 2.0]])


def two_heads(features, clock, condition):
    """D_k(x) = w_k . x + 0.2."""
    np.testing.assert_array_equal(clock, 0)
    return features @ DIRECTIONS.T + 0.2


def test_discriminator_is_hinge_and_r1(x64):
    """max(0, 1 - D(x_0)) + max(0, 1 + D(x)) + gamma |w|^2, over two linear heads; in features, |w|^2 of theirs."""
    keys, batch = keys_and_data()
    student = as_v(FLOW, lambda t, x: jnp.full_like(x, 0.3))
    objective = objectives.adversarial_discriminator(V, at(0.5), r1=0.7)
    for features in (None, lambda x, clock, condition: 3 * jnp.tanh(x)):
        players = {"model": student, "discriminator": two_heads} | ({} if features is None else {"features": features})
        losses, metrics = objective(players, FLOW, keys, batch, 0)
        see = features or (lambda x, *_: x)
        real = see(batch["x"], None, None) @ DIRECTIONS.T + 0.2
        fake = see(jnp.full((24, 2), 0.3), None, None) @ DIRECTIONS.T + 0.2
        hinge = np.maximum(0, 1 - real).mean(1) + np.maximum(0, 1 + fake).mean(1)
        np.testing.assert_allclose(losses, hinge + 0.7 * (0.36 + 0.09 + 1 + 4) / 2, rtol=1e-6)
        np.testing.assert_allclose(metrics["real"], real.mean(1), rtol=1e-6)


@pytest.mark.parametrize("weighting", [None, pytest.param(lambda schedule, t: 3 + t, marks=pytest.mark.extended)])
def test_student_is_pulled_by_the_discriminator_and_the_teacher(weighting, x64):
    """d loss / dx = -mean w_k + 2.5 w(t) 2 (x - x0_teacher) / D, w = alpha_t unless another is chosen: the teacher's
    estimate is a constant."""
    keys, batch = keys_and_data()
    teacher = as_v(FLOW, lambda t, x: 0.5 * x)  # depends on x, but no gradient flows through it
    objective = objectives.adversarial_generator(V, V, at(0.5), at(0.4), weighting=weighting)
    seen = []

    def spy(x, t, condition):
        seen.append(x)
        return teacher(x, t, condition)

    def run(x):
        model = as_v(FLOW, lambda t, _: x)
        return objective({"model": model, "teacher": spy, "discriminator": two_heads}, FLOW, keys, batch, 0)[0]

    x = batch["x"] + 0.1
    run(x)
    judged = 0.5 * seen[0]
    weight = 1 - 0.4 if weighting is None else 3.4
    losses = -(x @ DIRECTIONS.T + 0.2).mean(1) + 2.5 * weight * np.square(x - judged).mean(1)
    np.testing.assert_allclose(run(x), losses, rtol=1e-5)
    expected = -DIRECTIONS.mean(0) + 2.5 * weight * (x - judged)
    np.testing.assert_allclose(jax.grad(lambda x: run(x).sum())(x), expected, rtol=1e-5)


def judged_by_features(network, heads, student):
    """LADD's players at t = 0.4: a student of constant samples, and what the teacher was called with."""
    seen = []

    def teacher(x, clock, condition, features):
        jax.debug.callback(lambda *inputs: seen.append(tuple(map(np.asarray, inputs))), x, clock)
        return 0 * x, tuple(network(k, x) for k in features)

    judge = lambda features, r, condition: jnp.stack([h @ head for h, head in zip(features, heads, strict=True)], 1)
    return {"model": student, "teacher": teacher, "discriminator": judge}, seen


def test_discriminator_of_features_is_hinge_and_r1_on_noised_examples(x64):
    """Two linear heads on the features sin(x) and sin(2 x) of y_r and x_r, at one time and with noises of their own."""
    keys, batch = keys_and_data()
    heads = jnp.array([[0.6, -0.3], [1.0, 2.0]])
    student = as_v(FLOW, lambda t, x: jnp.full_like(x, 0.3))
    players, seen = judged_by_features(lambda k, x: jnp.sin(k * x), heads, student)
    density = timesteps.logit_normal(FLOW, 0.5, 1.0)
    objective = objectives.adversarial_discriminator(V, at(0.5), 0.7, V, density, blocks=(1, 2))
    losses, metrics = objective(players, FLOW, keys, batch, 0)
    jax.effects_barrier()
    (y, r), (x, s) = seen
    np.testing.assert_array_equal(s, r)
    assert np.std(r) > 0.1
    noises = [(noised - (1 - r)[:, None] * clean) / r[:, None] for noised, clean in ((y, batch["x"]), (x, 0.3))]
    for noise in noises:
        np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.4)
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.5
    real, fake = (np.stack([np.sin(k * noised) @ heads[k - 1] for k in (1, 2)], 1) for noised in (y, x))
    hinge = np.maximum(0, 1 - real).mean(1) + np.maximum(0, 1 + fake).mean(1)
    np.testing.assert_allclose(losses, hinge + 0.7 * (0.36 + 0.09 + 1 + 4) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics["real"], real.mean(1), rtol=1e-6)


def test_student_is_pulled_through_the_teachers_features_of_its_noised_sample(x64):
    """d loss / dx = -alpha_r mean_k d (w_k . sin(k x_r)) / dx_r; with weight = 0 nothing else, and no other call."""
    keys, batch = keys_and_data()
    heads = jnp.array([[0.6, -0.3], [1.0, 2.0]])
    objective = objectives.adversarial_generator(
        V, V, at(0.5), at(0.4), weight=0.0, noise_density=at(0.7), blocks=(1, 2)
    )

    players, seen = judged_by_features(lambda k, x: jnp.sin(k * x), heads, None)
    run = lambda x: objective({**players, "model": as_v(FLOW, lambda t, _: x)}, FLOW, keys, batch, 0)[0].sum()
    slope = jax.grad(run)(batch["x"])
    jax.effects_barrier()
    ((x_r, r),) = seen
    np.testing.assert_allclose(r, 0.7)
    expected = -0.3 * (heads[0] * jnp.cos(x_r) + 2 * heads[1] * jnp.cos(2 * x_r)) / 2
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_features_of_blocks_need_the_parameterization_of_their_teacher():
    with pytest.raises(ValueError, match=r"blocks = \(1,\) are the teacher's, but there is no parameterization"):
        objectives.adversarial_discriminator(V, at(0.5), noise_density=at(0.5), blocks=(1,))


def test_features_need_a_noise_level_and_the_reverse():
    words = r"Valid: (both, for a discriminator of features|indices of at least 1)"
    for more in ({"blocks": (1,)}, {"noise_density": at(0.5)}, {"noise_density": at(0.5), "blocks": (0, 1)}):
        with pytest.raises(ValueError, match=words):
            objectives.adversarial_generator(V, V, at(0.5), at(0.4), **more)
        with pytest.raises(ValueError, match=words):
            objectives.adversarial_discriminator(V, at(0.5), **more)
