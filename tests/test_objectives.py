"""Conformance of every objective: a new one is one line in OBJECTIVES, with its optimum and its least value.

Expectations are exact, without Monte Carlo: on Gaussian data with a linear network a loss is a quadratic in (x_0, eps),
so a weighted mean over a few examples whose weighted first and second moments are the true ones is its expectation.
The noise that an objective draws for its keys is read off from what its network is given.
"""

import inspect
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from diffusion import couplings, objectives, parameterizations, schedules, timesteps, weightings
from diffusion.objectives.variational_bound import gaussian
from tests import oracles

SCHEDULES = {
    "linear_beta": schedules.linear_beta(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(),
    "edm": schedules.edm(),
}
DATA = oracles.tilted_gaussian()


def at(t):
    """The density of one time, as an objective takes any density."""
    return timesteps.Density(
        init=tuple,
        sample=lambda state, keys, index: (jnp.full(len(keys), t), jnp.ones(len(keys))),
        update=lambda state, t, losses: state,
    )


class Case(NamedTuple):
    """An objective on linear combinations of independent Gaussian draws, and its optimum by the paper.

    An objective's input is x_t = sum_i state_i u_i and its targets are sum_i target_i u_i, where the draws u are the
    data and the noises named in `draws`. The best outputs are then the linear regressions of the targets on x_t, and
    the least loss is weight times their mean variance given x_t, plus `offset` times the targets' own.

    Attributes:
      make: density -> objective.
      targets: (coefficients) -> one vector `[len(draws)]` for each C channels of the output.
      weight: (coefficients) -> weight on the squared error of each target.
      draws: "data" or "noise" for each of u.
      state: (coefficients, t) -> `[len(draws)]`; (alpha, sigma) if None.
      input_scale: (coefficients) -> what multiplies x_t before the network sees it.
      part: the metric that is a function of the network, where the losses have further terms; None for the losses.
      offset: (coefficients) -> see above.
      batch: what the batch of this objective needs beside "x", from the data.
      features: (x `[B, D]`) -> what the network returns beside its output; None for nothing.

    coefficients are (alpha, sigma, alpha', sigma', t).
    """

    make: Callable[[timesteps.Density], objectives.Objective]
    targets: Callable[..., list]
    weight: Callable[..., float]
    draws: tuple[str, ...] = ("data", "noise")
    state: Callable[..., list] | None = None
    input_scale: Callable[..., float] = lambda *_: 1.0
    part: str | None = None
    offset: Callable[..., float] = lambda *_: 0.0
    batch: Callable[[np.ndarray], dict] = lambda x: {}
    features: Callable | None = None


def _denoising(name, weighting, weight):
    p = getattr(parameterizations, name)()
    scale = {"edm": lambda a, s, *_: 1 / np.sqrt(0.25 * a**2 + s**2)}.get(name, lambda *_: 1.0)
    return Case(
        lambda density: objectives.denoising(p, weighting, density), _target(name), _of_output(name, weight),
        input_scale=scale,
    )


def _target(name):
    """The published target's coefficients of x_0 and eps."""
    return lambda a, s, a_dot, s_dot, t: [[oracles.TARGETS[name](a, s, a_dot, s_dot, *u) for u in ((1, 0), (0, 1))]]


def _of_output(name, weight):
    """The weight on the output's error, from that on the error of x_0: along x_t = 0, x_0 = 1 and eps = -a / s."""
    return lambda a, s, a_dot, s_dot, t: (
        weight(a, s, a_dot, s_dot) / oracles.TARGETS[name](a, s, a_dot, s_dot, 1, -a / s) ** 2
    )


def _bridge(t, sigma=0.7):
    """(1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) z, and the noise's derivative."""
    return [1 - t, t, sigma * np.sqrt(t * (1 - t))], sigma * (1 - 2 * t) / (2 * np.sqrt(t * (1 - t)))


_velocity = _target("velocity")
_given = lambda x: {"noise": jnp.asarray(np.random.default_rng(1).standard_normal(x.shape), x.dtype)}
_flow = Case(objectives.flow_matching, _velocity, lambda *_: 1.0)

OBJECTIVES = {
    "ddpm": _denoising("epsilon", weightings.constant(parameterizations.epsilon()), lambda a, s, *_: a**2 / s**2),
    "x0": _denoising("x0", weightings.constant(parameterizations.x0()), lambda a, s, *_: 1.0),
    "v, min-snr": _denoising("v", weightings.min_snr(5.0), lambda a, s, *_: min(a**2 / s**2, 5.0)),
    "score": _denoising("score", weightings.truncated_snr(), lambda a, s, *_: max(a**2 / s**2, 1.0)),
    "edm": _denoising("edm", weightings.edm(0.5), lambda a, s, *_: ((s / a) ** 2 + 0.25) / (0.5 * s / a) ** 2),
    "velocity": _denoising("velocity", weightings.edm(0.5), lambda a, s, *_: a**2 / s**2 + 4.0),
    "flow_matching": _flow,
    # -SNR' / 2 |x_0 - x0_hat|^2 in bits, on an interval of length 1 - 1e-3; the other terms know no network.
    "variational_bound": Case(
        lambda density: objectives.variational_bound(parameterizations.v(), density, 1e-3, gaussian()),
        _target("v"),
        _of_output("v", lambda a, s, a_dot, s_dot: -0.999 * a / s * (a_dot * s - a * s_dot) / s**2 / np.log(2)),
        part="diffusion",
    ),
    "reflow": _flow._replace(make=objectives.reflow, batch=_given),
    "stochastic_interpolant": Case(
        lambda density: objectives.stochastic_interpolant(
            objectives.interpolants.smooth_bridge(), density, ("mean_velocity", "velocity", "denoiser")
        ),
        lambda a, s, a_dot, s_dot, t: [[-1, 1, 0], [-1, 1, np.pi * np.sin(2 * np.pi * t)], [0, 0, 1]],
        lambda *_: 1.0,
        draws=("data", "noise", "noise"),
        state=lambda a, s, a_dot, s_dot, t: [1 - t, t, np.sin(np.pi * t) ** 2],
        batch=_given,
    ),
    "schroedinger_bridge": Case(
        lambda density: objectives.schroedinger_bridge(0.7, density, couplings.independent()),
        lambda a, s, a_dot, s_dot, t: [[-1, 1, _bridge(t)[1]], [0, 0, 1]],
        lambda *_: 1.0,
        draws=("data", "noise", "noise"),
        state=lambda a, s, a_dot, s_dot, t: _bridge(t)[0],
        batch=_given,
    ),
    # |u - p|^2 - 0.05 |u - n|^2 = 0.95 |u - (p - 0.05 n) / 0.95|^2 - 0.05 / 0.95 |p - n|^2, with p and n alike.
    "contrastive_flow_matching": Case(
        objectives.contrastive_flow_matching,
        lambda *c: [np.append(np.array(_velocity(*c)[0]) / 0.95, np.array(_velocity(*c)[0]) * -0.05 / 0.95)],
        lambda *_: 0.95,
        draws=("data", "noise", "data", "noise"),
        state=lambda a, s, *_: [a, s, 0, 0],
        # Var (p - n) = 2 Var p, of which Var of the target is (1 + 0.05^2) / 0.95^2.
        offset=lambda *_: -0.05 / 0.95 * 2 * 0.95**2 / (1 + 0.05**2),
    ),
    # Features that do not depend on the parameters, so that the terms are constants: 0 here, and metrics of their own.
    "alignment": _flow._replace(
        make=lambda density: objectives.added(objectives.flow_matching(density), objectives.alignment(), 0.5),
        features=lambda x: jnp.ones((len(x), 3, 4)) * jnp.array([1.0, -1, 1, -1]),
    ),
    "dispersive": _flow._replace(
        make=lambda density: objectives.added(objectives.flow_matching(density), objectives.dispersive(2), 0.5),
        features=lambda x: jnp.zeros((len(x), 5)),
    ),
}
every_objective = pytest.mark.parametrize("name", list(OBJECTIVES))

# Proven in files of their own: what has several players, or no linear network as its optimum.
ELSEWHERE = {
    "hybrid": "test_hybrid.py: the variance's term against the discrete process, the mean's gradient stopped",
    "with_uncertainty": "test_uncertainty.py",
    **dict.fromkeys(
        ["adversarial_discriminator", "adversarial_generator", "consistency_distillation", "consistency_training",
         "continuous_consistency", "ct", "distribution_matching", "ect", "fake_score", "ict", "improved_mean_flow",
         "latent_consistency_distillation", "mean_flow", "progressive_distillation", "regression", "shortcut"],
        "test_few_step_objectives.py: what their papers guarantee",
    ),
}  # fmt: skip


def test_every_objective_is_proven_here_or_elsewhere():
    """denoising, added and with_condition_dropout appear here under other names."""
    under_other_names = {"denoising", "added", "with_condition_dropout"}
    makes_one = lambda name: inspect.signature(getattr(objectives, name)).return_annotation == objectives.Objective
    functions = [name for name in objectives.__all__ if inspect.isfunction(getattr(objectives, name))]
    published = {name for name in functions if makes_one(name)}
    assert published - under_other_names <= set(OBJECTIVES) | set(ELSEWHERE)
    for name, where in ELSEWHERE.items():
        text = (pathlib.Path(__file__).parent / where.partition(":")[0]).read_text()
        assert f"{name}(" in text, f"{where} does not mention {name}"


def _run(objective, network, schedule, keys, x, **batch):
    batch = {"x": x, "condition": None, "index": jnp.arange(len(x)), **batch}
    networks = {"model": network, "features": lambda x, clock, condition: jnp.ones((len(x), 3, 4))}
    return objective(networks, schedule, keys, batch, 0)


def _network(case, output):
    """The network of a case from a function (x, clock, condition) -> output for C channels."""

    def network(x, clock, condition):
        y = jnp.concatenate([output(x, clock, condition)] * len(case.targets(0.6, 0.8, -1, 1, 0.4)), axis=-1)
        return y if case.features is None else (y, case.features(x))

    return network


def _spy(seen):
    def network(x, clock, condition):
        seen.append((x, clock, condition))
        return jnp.zeros_like(x)

    return network


def _coefficients(schedule, t, h=1e-6):
    """alpha, sigma, their numerical derivatives, and t, in float64."""
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    rates = [float(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
    return alpha, sigma, *rates, t


def _moments(kinds):
    """Mean and covariance of the draws, one after the other."""
    D = 2
    mean = np.concatenate([DATA.means[0] if kind == "data" else np.zeros(D) for kind in kinds])
    blocks = [oracles.covariance(DATA) if kind == "data" else np.eye(D) for kind in kinds]
    return mean, scipy.linalg.block_diag(*blocks)


def _moment_weights(draws, mean, covariance):
    """Weights of the examples that give (1, draws) exactly the first and second moments that they have."""
    z = np.concatenate([np.ones((len(draws), 1)), draws], axis=1)
    mean = np.append(1.0, mean)
    second = np.outer(mean, mean)
    second[1:, 1:] += covariance
    rows, columns = np.triu_indices(len(mean))
    weights = np.linalg.lstsq((z[:, rows] * z[:, columns]).T, second[rows, columns], rcond=None)[0]
    np.testing.assert_allclose((z[:, rows] * z[:, columns]).T @ weights, second[rows, columns], atol=1e-10)
    return weights


def _read_draws(case, state, x0, x_t, batch):
    """What the keys of each example have drawn, from what the network was given: `[B, draws D]`."""
    known = [x0, *([np.asarray(batch["noise"])] if "noise" in batch else [])][: len(case.draws) - 1]
    known = known + [(x_t - sum(c * u for c, u in zip(state, known))) / state[len(known)]]
    if len(case.draws) > len(known):  # the next example of each pair
        known += [u.reshape(-1, 2, u.shape[1])[:, ::-1].reshape(u.shape) for u in known]
    return np.concatenate(known, axis=1)


def _expectation(case, schedule, t):
    """(parameters) -> exact expected loss of the linear network y = A x + b at time t, the best parameters, and the
    least value."""
    B, D = 96, 2
    keys = jax.random.split(jax.random.key(1), B)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((B, D)))
    batch, objective, seen = case.batch(x0), case.make(at(t)), []
    coefficients = _coefficients(schedule, t)
    alpha, sigma = coefficients[:2]
    c_in = case.input_scale(*coefficients)
    state = np.array([alpha, sigma] if case.state is None else case.state(*coefficients))
    targets = np.array(case.targets(*coefficients))

    _run(objective, _network(case, _spy(seen)), schedule, keys, x0, **batch)
    draws = _read_draws(case, state, np.asarray(x0), np.asarray(seen[0][0]) / c_in, batch)
    mean, covariance = _moments(case.draws)
    weights = _moment_weights(draws, mean, covariance)

    def expected_loss(parameters):
        def network(x, clock, condition):
            y = x @ parameters["A"].T + parameters["b"]
            return y if case.features is None else (y, case.features(x))

        losses, metrics = _run(objective, network, schedule, keys, x0, **batch)
        assert losses.shape == (B,)
        return (weights * (losses if case.part is None else metrics[case.part])).sum()

    L, T = (np.kron(np.atleast_2d(a), np.eye(D)) for a in (state, targets))
    variance, cross = L @ covariance @ L.T, T @ covariance @ L.T
    A = cross @ np.linalg.inv(variance)
    optimum = {"A": jnp.asarray(A / c_in), "b": jnp.asarray(T @ mean - A @ L @ mean)}
    total = np.trace(T @ covariance @ T.T) / D
    least = case.weight(*coefficients) * (total - np.trace(A @ cross.T) / D) + case.offset(*coefficients) * total
    return expected_loss, optimum, least


def _check_optimum(name, schedule_name, t, rtol):
    expected_loss, optimum, least = _expectation(OBJECTIVES[name], SCHEDULES[schedule_name], t)
    value, gradient = jax.value_and_grad(expected_loss)(optimum)
    size = max(abs(least), 1)
    np.testing.assert_allclose(value, least, rtol=rtol, atol=rtol)  # the oracle's derivatives of alpha are numerical
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=rtol * size)
    return expected_loss, optimum, size


@every_objective
@pytest.mark.parametrize("schedule_name, t", [("cosine", 0.2), ("rectified_flow", 0.7)])
def test_exact_network_is_the_optimum_with_the_known_least_value(name, schedule_name, t, x64):
    """The expected gradient vanishes there, and nowhere near it."""
    expected_loss, optimum, size = _check_optimum(name, schedule_name, t, rtol=1e-6)
    elsewhere = jax.grad(expected_loss)(jax.tree.map(lambda a: a + 0.01, optimum))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(elsewhere)) > 1e-4 * size


@pytest.mark.slow
@every_objective
@pytest.mark.parametrize("schedule_name", list(SCHEDULES))
@pytest.mark.parametrize("t", [0.0104, 0.0504, 0.5004, 0.9504])
def test_exact_network_is_the_optimum_everywhere(name, schedule_name, t, x64):
    _check_optimum(name, schedule_name, t, rtol=1e-5)


@every_objective
@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
def test_losses_are_per_example_float32_for_any_rank(name, shape):
    case = OBJECTIVES[name]
    if not shape and len(case.targets(0.6, 0.8, -1, 1, 0.4)) > 1:
        shape = (1,)  # several outputs lie side by side in the channels, so there must be some
    keys, x = jax.random.split(jax.random.key(0), 6), jnp.ones((6, *shape))
    objective = case.make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    network = _network(case, lambda x, clock, condition: 0.5 * x)
    run = lambda keys, x: _run(objective, network, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    losses, metrics = jax.eval_shape(run, keys, x)
    assert losses.shape == (6,)
    assert losses.dtype == jnp.float32
    assert "t" in metrics
    assert all(value.shape == (6,) for value in metrics.values())


@every_objective
def test_half_precision_networks_give_float32_losses(name):
    """bfloat16 outputs cost digits once, not again in the loss."""
    case = OBJECTIVES[name]
    keys, x = jax.random.split(jax.random.key(0), 6), jnp.ones((6, 2))
    objective = case.make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    half = _network(case, lambda x, clock, condition: (0.5 * x).astype(jnp.bfloat16))
    rounded = lambda *inputs: jax.tree.map(lambda y: y.astype(jnp.float32), half(*inputs))
    losses, _ = _run(objective, half, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    assert losses.dtype == jnp.float32
    assert np.isfinite(losses).all()
    expected, _ = _run(objective, rounded, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    np.testing.assert_array_equal(losses, expected)


def test_flow_matching_is_its_formula():
    """mean |u - (eps - x_0)|^2 on x_t = (1 - t) x_0 + t eps (Liu et al. 2023, eq. 1), from what the network saw."""
    schedule, seen = schedules.rectified_flow(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = objectives.flow_matching(timesteps.logit_normal(schedule))
    losses, metrics = _run(objective, _spy(seen), schedule, keys, x0)
    t, x_t = np.asarray(metrics["t"])[:, None], np.asarray(seen[0][0])
    eps = (x_t - (1 - t) * np.asarray(x0)) / t
    np.testing.assert_allclose(losses, np.square(eps - np.asarray(x0)).mean(1), rtol=1e-4)
    np.testing.assert_array_equal(seen[0][1], metrics["t"])


def test_ddpm_loss_is_its_formula():
    """mean |eps - eps_theta|^2 (Ho et al. 2020, eq. 14): with a network that says 0 it is mean |eps|^2."""
    schedule, seen = schedules.linear_beta(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = OBJECTIVES["ddpm"].make(timesteps.discrete_density(schedule))
    losses, metrics = _run(objective, _spy(seen), schedule, keys, x0)
    alpha, sigma = (np.asarray(f(metrics["t"]))[:, None] for f in (schedule.alpha, schedule.sigma))
    eps = (np.asarray(seen[0][0]) - alpha * np.asarray(x0)) / sigma
    np.testing.assert_allclose(losses, np.square(eps).mean(1), rtol=1e-3)


def test_coupling_decides_the_pairs():
    schedule, seen = schedules.rectified_flow(), []
    keys, x0 = jax.random.split(jax.random.key(0), 6), jnp.zeros((6, 3))
    drawn = []

    def reversed_pairs(keys, x0, eps):
        drawn.append(eps)
        return eps[::-1]

    objective = objectives.flow_matching(at(1.0), coupling=reversed_pairs)
    _run(objective, _spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0][::-1])  # at t = 1 the network sees eps itself
    seen.clear()
    _run(objectives.flow_matching(at(1.0), coupling=couplings.independent()), _spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0])


def test_clock_and_condition_reach_the_network():
    schedule, seen = schedules.rectified_flow(), []
    keys, labels = jax.random.split(jax.random.key(0), 4), jnp.arange(4)
    objective = objectives.flow_matching(at(0.25), clock=parameterizations.steps())
    _run(objective, _spy(seen), schedule, keys, jnp.ones((4, 2)), condition=labels)
    np.testing.assert_allclose(seen[0][1], 249.0)
    np.testing.assert_array_equal(seen[0][2], labels)


@every_objective
def test_importance_multiplies_and_the_density_gets_its_state(name):
    """An adaptive density keeps its state in the batch, and its importance undoes its preference."""
    case, keys, x = OBJECTIVES[name], jax.random.split(jax.random.key(0), 6), jnp.ones((6, 2))

    def with_importance(state, keys, index):
        return jnp.full(6, 0.5), jnp.broadcast_to(state, 6)

    density = timesteps.Density(lambda: jnp.float32(1.0), with_importance, lambda state, t, losses: state)
    network = _network(case, lambda x, clock, condition: 0.5 * x)

    def value(**state):
        losses, metrics = _run(case.make(density), network, SCHEDULES["cosine"], keys, x, **case.batch(x), **state)
        return losses if case.part is None else metrics[case.part]

    np.testing.assert_allclose(value(density=jnp.float32(3.0)), 3 * value(), rtol=1e-6)


# Randomness: every decision has a key of its own, and an example's draws are its own.

MANY = 4096


# The noise of reflow is given; those that share their draws with another one are slow.
SHARING = ("ddpm", "v, min-snr", "score", "edm", "velocity", "alignment", "dispersive")
drawing = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SHARING else ()) for name in OBJECTIVES if name != "reflow"],
)


def _draws(case, index=None, keys=None, rate=0.25):
    """What an objective with condition dropout decides: t, x_t's noise in units of its standard deviation, and
    whether the condition was dropped, per example."""
    schedule, seen = schedules.rectified_flow(), []
    keys = jax.random.split(jax.random.key(5), MANY) if keys is None else keys
    index = jnp.arange(len(keys)) if index is None else index
    objective = case.make(timesteps.uniform_density(schedule))
    objective = objectives.with_condition_dropout(objective, null=-1, rate=rate)
    x, labels = jnp.zeros((len(keys), 2)), jnp.zeros(len(keys), int)
    _, metrics = _run(objective, _network(case, _spy(seen)), schedule, keys, x, condition=labels, index=index)
    t = np.asarray(metrics["t"], np.float64)
    (x_t, _, condition), *_ = seen
    state = (1 - t, t) if case.state is None else case.state(1 - t, t, -1, 1, t)
    # Noises that share a key add up to another variance than independent ones do.
    own = [c for c, kind in zip(state, case.draws) if kind == "noise"]
    c_in = case.input_scale(1 - t, t)
    c_in = c_in if np.ndim(c_in) == 0 else c_in[:, None]
    noise = np.asarray(x_t, np.float64) / c_in / np.sqrt(sum(np.square(c) for c in own))[:, None]
    return t, noise, np.asarray(condition) == -1


@drawing
def test_decisions_share_no_key(name):
    """Given that the condition was dropped, t is still uniform and eps still normal; t says nothing of eps."""
    t, eps, dropped = _draws(OBJECTIVES[name])
    assert scipy.stats.binomtest(int(dropped.sum()), MANY, 0.25).pvalue > 1e-3
    for chosen in (dropped, ~dropped):
        assert scipy.stats.kstest(t[chosen], "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(eps[chosen].ravel(), "norm").pvalue > 1e-3
    for column in eps.T:
        assert abs(scipy.stats.spearmanr(t, column).statistic) < 4 / np.sqrt(MANY)
        assert abs(scipy.stats.spearmanr(t, np.abs(column)).statistic) < 4 / np.sqrt(MANY)
    assert abs(scipy.stats.spearmanr(eps[:, 0], eps[:, 1]).statistic) < 4 / np.sqrt(MANY)


@pytest.mark.parametrize(
    "name", ["x0", "flow_matching", pytest.param("stochastic_interpolant", marks=pytest.mark.slow)]
)
def test_draws_of_an_example_do_not_depend_on_the_batch(name):
    keys = jax.random.split(jax.random.key(5), 12)
    t, eps, dropped = _draws(OBJECTIVES[name], keys=keys)
    part_t, part_eps, part_dropped = _draws(OBJECTIVES[name], keys=keys[4:6], index=jnp.arange(4, 6))
    np.testing.assert_array_equal(part_t, t[4:6])
    np.testing.assert_array_equal(part_eps, eps[4:6])
    np.testing.assert_array_equal(part_dropped, dropped[4:6])


@every_objective
def test_loss_of_an_example_does_not_depend_on_the_others(name):
    """Of those in its own block, where an objective compares examples."""
    case, schedule = OBJECTIVES[name], SCHEDULES["cosine"]
    keys, x = jax.random.split(jax.random.key(2), 6), jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    objective = case.make(timesteps.uniform_density(schedule))
    network = _network(case, lambda x, clock, condition: jnp.tanh(x))
    whole, _ = _run(objective, network, schedule, keys, x, **case.batch(x))
    changed, _ = _run(objective, network, schedule, keys.at[0].set(keys[5]), x.at[0].set(9.0), **case.batch(x))
    alone = 2 if len(case.draws) == 4 else 1
    np.testing.assert_allclose(changed[alone:], whole[alone:], rtol=1e-6)
    assert changed[0] != whole[0]


@pytest.mark.parametrize("rate, share", [(0.0, 0.0), (0.999, 0.999)])
def test_dropout_rate_is_a_share(rate, share):
    _, _, dropped = _draws(OBJECTIVES["flow_matching"], rate=rate)
    np.testing.assert_allclose(dropped.mean(), share, atol=3e-3)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_bad_dropout_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        objectives.with_condition_dropout(objectives.flow_matching(at(0.5)), null=0, rate=rate)


def test_dropout_replaces_every_leaf_of_a_pytree():
    """A condition of several parts is dropped as a whole."""
    keys = jax.random.split(jax.random.key(0), 200)
    condition = {"label": jnp.arange(200), "text": jnp.ones((200, 3, 2))}
    null = {"label": jnp.asarray(1000), "text": jnp.zeros((3, 2))}
    dropped = objectives.drop_condition(keys, condition, null, 0.5)
    gone = np.asarray(dropped["label"]) == 1000
    assert 60 < gone.sum() < 140
    np.testing.assert_array_equal(np.asarray(dropped["text"]) == 0, np.broadcast_to(gone[:, None, None], (200, 3, 2)))
    np.testing.assert_array_equal(np.asarray(dropped["label"])[~gone], np.arange(200)[~gone])


def test_hybrid_is_finite_with_gradients_at_every_time():
    """Improved DDPM's objective, whose values have tests of their own, from the first step to the last."""
    schedule, keys = schedules.linear_beta(), jax.random.split(jax.random.key(0), 4)
    x0 = jnp.asarray(np.array([[-1.0, 1.0, 0.0039]] * 4, np.float32))

    @jax.jit
    @jax.value_and_grad
    def loss(parameters, t):
        network = lambda x, clock, condition: jnp.concatenate([parameters[0] * x, parameters[1] + 0 * x], axis=-1)
        return _run(objectives.hybrid(parameterizations.epsilon(), at(t)), network, schedule, keys, x0)[0].sum()

    for t in (0.001, 0.002, 0.5, 1.0):
        for parameters in ([0.1, 0.1], [3.0, -1.0], [-2.0, 1.0]):
            value, gradient = loss(jnp.array(parameters), t)
            assert np.isfinite(value), (t, parameters)
            assert np.isfinite(gradient).all(), (t, parameters)
