"""Stochastic interpolants, Schroedinger bridges and reflow, by the inputs of their networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, objectives, parameterizations, samplers, schedules, timesteps
from diffusion.objectives import interpolants
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import DATA

SCHEDULE = schedules.rectified_flow()
X0, X1 = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 6)
DENSITY = timesteps.uniform_density(SCHEDULE)

# I, dI/dt, gamma, gamma' at t, written out.
PATHS = {
    "brownian_bridge": (
        interpolants.brownian_bridge(0.5),
        lambda t: ((1 - t) * X0 + t * X1, X1 - X0, 0.5 * np.sqrt(t - t**2), 0.25 * (1 - 2 * t) / np.sqrt(t - t**2)),
    ),
    "smooth_bridge": (
        interpolants.smooth_bridge(),
        lambda t: ((1 - t) * X0 + t * X1, X1 - X0, np.sin(np.pi * t) ** 2, np.pi * np.sin(2 * np.pi * t)),
    ),
    "encoding_decoding": (
        interpolants.encoding_decoding(),
        lambda t: (
            np.cos(np.pi * t) ** 2 * np.where(t < 0.5, X0, X1),
            -np.pi * np.sin(2 * np.pi * t) * np.where(t < 0.5, X0, X1),
            np.sin(np.pi * t) ** 2,
            np.pi * np.sin(2 * np.pi * t),
        ),
    ),
}


@pytest.mark.parametrize("name", list(PATHS))
def test_interpolant_is_its_formula(name):
    interpolant, path = PATHS[name]
    seen, parts = [], ("denoiser", "velocity", "mean_velocity")
    network = lambda x, t, c: seen.append((x, t)) or jnp.concatenate([0.3 * x, -0.7 * x, 1.5 * x], axis=-1)
    objective = objectives.stochastic_interpolant(interpolant, DENSITY, parts)
    losses, metrics = objective({"model": network}, SCHEDULE, KEYS, {"x": X0, "noise": X1}, 0)
    t = np.asarray(metrics["t"])[:, None]
    np.testing.assert_array_equal(seen[0][1], metrics["t"])
    mean, mean_dot, gamma, gamma_dot = path(t)
    z = (np.asarray(seen[0][0]) - mean) / gamma
    expected = {"denoiser": z, "velocity": mean_dot + gamma_dot * z, "mean_velocity": mean_dot + 0 * z}
    for part, factor in zip(parts, (0.3, -0.7, 1.5), strict=True):
        error = factor * np.asarray(seen[0][0]) - expected[part]
        np.testing.assert_allclose(metrics[part], np.square(error).mean(1), rtol=2e-3)
    np.testing.assert_allclose(losses, sum(metrics[part] for part in parts), rtol=1e-6)


@pytest.mark.parametrize("parts", [("velocity",), ("mean_velocity", "denoiser")])
def test_a_compiled_step_of_sampling_is_that_of_euler(parts):
    """Samples are generated inside a compiled function, where the schedule's prior is checked too."""
    interpolant, path = PATHS["smooth_bridge"]
    factors = jnp.array((0.3, -0.7)[: len(parts)])
    network = lambda x, t, c: jnp.concatenate([factor * x for factor in factors], axis=-1)
    objective = objectives.stochastic_interpolant(interpolant, DENSITY, parts)
    t, s = jnp.full(len(X1), 0.6), jnp.full(len(X1), 0.5)
    step = jax.jit(lambda x: objective.reads.flow_map(network, SCHEDULE, condition=None)(x, t, s))
    gamma_dot = np.asarray(path(np.full((1, 1), 0.6))[3])
    rate = 0.3 if parts == ("velocity",) else 0.3 - 0.7 * gamma_dot
    np.testing.assert_allclose(step(X1), X1 - 0.1 * rate * X1, rtol=1e-5)


def test_interpolants_begin_and_end_at_their_data():
    for interpolant, _ in PATHS.values():
        for t, x in ((0.0, X0), (1.0, X1)):
            np.testing.assert_allclose(interpolant.mean(jnp.float32(t), X0, X1), x, atol=1e-6)
            np.testing.assert_allclose(interpolant.gamma(jnp.float32(t)), 0, atol=1e-6)


@pytest.mark.slow
def test_schroedinger_bridge_pairs_by_the_entropic_plan():
    """It is the default; the tests of the couplings prove the plan itself."""
    keys = jax.random.split(jax.random.key(2), 64)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 2)))
    network = lambda x, t, c: jnp.concatenate([x, x], axis=-1)

    def losses(*coupling):
        objective = objectives.schroedinger_bridge(0.3, DENSITY, *coupling)
        return objective({"model": network}, SCHEDULE, keys, {"x": x.astype(jnp.float32)}, 0)[0]

    np.testing.assert_array_equal(losses(), losses(couplings.schroedinger_bridge(0.3)))
    assert np.abs(losses() - losses(couplings.independent())).max() > 0.1


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: objectives.stochastic_interpolant(interpolants.smooth_bridge(), DENSITY, ("velocity", "score")),
            "score",
        ),
        (lambda: objectives.stochastic_interpolant(interpolants.smooth_bridge(), DENSITY, ()), "one or more"),
        (lambda: interpolants.brownian_bridge(0.0), "sigma = 0.0"),
        (
            lambda: objectives.schroedinger_bridge(1.0, DENSITY, couplings.independent())(
                {"model": lambda x, t, c: x}, SCHEDULE, KEYS, {"x": X0}, 0
            ),
            "2 times its channels",
        ),
    ],
)
def test_impossible_interpolants_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Reflow.


def _denoise(x, t):
    alpha = SCHEDULE.alpha(t)
    sigma = SCHEDULE.sigma(t)
    gaussian = DATA["gaussian"]
    return Prediction(oracles.mean_x0(gaussian, alpha, sigma, x), oracles.mean_eps(gaussian, alpha, sigma, x))


def test_reflow_pairs_are_ends_of_the_flow_and_their_loss_vanishes_at_the_straight_network():
    """The Gaussian's flow is x_0 = m + S^(1/2) z: paths do not cross, and u = z - x_0 is a function of x_t."""
    gaussian = DATA["gaussian"]
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 64))
    batch = objectives.reflow_pairs(_denoise, SCHEDULE, plan, KEYS, (2,))
    np.testing.assert_allclose(batch["x"], oracles.flow(gaussian, (0.0, 1.0), (1.0, 0.0), batch["noise"]), atol=2e-3)
    root = jnp.asarray((gaussian.axes[0] * np.sqrt(gaussian.variances[0])) @ gaussian.axes[0].T)
    exact = {"x": gaussian.means[0] + batch["noise"] @ root, "noise": batch["noise"]}

    def straight(x, t, c):
        inverse = jnp.linalg.inv((1 - t)[:, None, None] * root + t[:, None, None] * jnp.eye(2))
        z = jnp.einsum("bij,bj->bi", inverse, x - (1 - t)[:, None] * gaussian.means[0])
        return z - (gaussian.means[0] + z @ root)

    losses, _ = objectives.reflow(DENSITY)({"model": straight}, SCHEDULE, KEYS, exact, 0)
    np.testing.assert_allclose(losses, 0, atol=1e-8)
    losses, _ = objectives.reflow(DENSITY)({"model": straight}, SCHEDULE, KEYS, {**exact, "noise": X0[:, :2]}, 0)
    assert losses.min() > 1e-3


def test_a_reflowed_network_takes_no_noise_in_sampling():
    """Of data N(0, 1/4), x_t = (1 - t) z / 2 + t z: the noise z is 2 x_t / (1 + t), and no multiple of the score."""
    t, x = np.array([0.25, 0.5, 0.75]), 1.0
    noise, score = 2 * x / (1 + t), -x / ((1 - t) ** 2 / 4 + t**2)
    assert (np.abs(noise + t * score) > 0.05).all()  # the variance of x_t with independent noise has no mixed term
    reflow = objectives.reflow(DENSITY)
    for sampler in (samplers.heun(), samplers.ddim(), samplers.dpmpp_2m()):
        reflow.check_sampler(sampler)
    for sampler in (samplers.ddpm(), samplers.ddim(0.5), samplers.interpolant_sde()):
        with pytest.raises(ValueError, match=r"needs the score, .* Valid: a deterministic sampler"):
            reflow.check_sampler(sampler)


def test_reflow_is_the_error_of_the_velocity_whatever_the_network_predicts():
    batch = {"x": X0[:, :2], "noise": X0[::-1, :2] + 1.0}
    u = lambda x, t, c: 0.5 * x - t[:, None]
    x0 = lambda x, t, c: x - t[:, None] * u(x, t, c)  # x_t = x_0 + t u on the straight path
    found = [
        objectives.reflow(DENSITY, parameterization)({"model": network}, SCHEDULE, KEYS, batch, 0)[0]
        for parameterization, network in ((None, u), (parameterizations.x0(), x0))
    ]
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("schedule", [schedules.rectified_flow(2.0), schedules.edm()], ids=["noise_scale", "edm"])
def test_the_paths_of_reflow_go_to_the_noise_from_which_sampling_starts(schedule):
    """x at t_max is z, also where the prior is no N(0, I); with noise_scale the path to it is straight."""
    z = 2 * X1[:, :2]
    seen = []

    def network(x, t, c):
        seen.append(np.asarray(x))
        return 0 * x

    for t in (1.0, 0.5):
        density = timesteps.from_quantile(lambda u, t=t: t + 0 * u)
        objectives.reflow(density)({"model": network}, schedule, KEYS, {"x": X0[:, :2], "noise": z}, 0)
    np.testing.assert_allclose(seen[0], z, atol=1e-5)
    # The middle of a straight path; with alpha = 1 all of x_0 and half of the noise z - x_0.
    np.testing.assert_allclose(seen[1], (X0[:, :2] + z) / 2, atol=1e-5)


def test_reflow_needs_pairs_and_pairs_need_a_deterministic_sampler():
    with pytest.raises(ValueError, match='needs the entry "noise", from which each "x" was sampled'):
        objectives.reflow(DENSITY)({"model": lambda x, t, c: x}, SCHEDULE, KEYS, {"x": X0}, 0)
    with pytest.raises(ValueError, match="deterministic"):
        plan = timesteps.plan(timesteps.uniform(SCHEDULE, 2))
        objectives.reflow_pairs(_denoise, SCHEDULE, plan, KEYS, (2,), samplers.ddpm())
    with pytest.raises(ValueError, match="reflow needs one key for each pair"):
        objectives.reflow_pairs(_denoise, SCHEDULE, plan, KEYS[:0], (2,))


def test_an_interpolant_is_sampled_under_a_schedule_that_trains():
    """Only the clock reads the schedule: x_s = x_t + (s - t) b. One that starts from other noise is refused."""
    objective = objectives.stochastic_interpolant(interpolants.smooth_bridge(), DENSITY, ("velocity",))
    network = lambda x, t, condition: 2 * x
    x, t = X0[:, :2], jnp.full(len(X0), 0.7)
    jump = lambda params: objective.reads.flow_map(network, schedules.learned(params), None)(x, t, t - 0.2)
    params = schedules.init_learned(jax.random.key(0), features=3)
    np.testing.assert_allclose(jax.jit(jump)(params), 0.6 * x, rtol=1e-5)
    with pytest.raises(ValueError, match="deviation 80"):
        objective.reads.flow_map(network, schedules.edm(), None)
