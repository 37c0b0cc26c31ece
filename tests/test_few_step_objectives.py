"""Conformance of the objectives of few-step networks: a new one is one line in MEMBERS, and its optimum a line below.

Optima are exact, without Monte Carlo. On Gaussian data x_0 and eps given x_t are Gaussian, so the two pairs
(x_0, eps) = E[(x_0, eps) | x_t] +- delta with alpha x_0 + sigma eps = x_t are equally likely for every delta. At an
objective whose optimum is a conditional mean the gradients of the two losses cancel, whatever the weights that depend
on the size of the error, and for every delta; hence so does the expectation.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import flow_maps, objectives, parameterizations, schedules, timesteps, weightings
from diffusion.models.dit import DiT
from diffusion.objectives.consistency import inverse_gap
from tests import oracles
from tests.conformance import slow_but
from tests.test_objectives import at

FLOW, EDM, COSINE = schedules.rectified_flow(), schedules.edm(), schedules.cosine()
DATA = oracles.tilted_gaussian()
V = parameterizations.v()


def near(gap):
    """Pairs of times with s = (1 - gap) t."""
    return lambda schedule, t, step: (t, (1 - gap) * t)


class Member(NamedTuple):
    """An objective, the network that it trains, and those through which it stops the gradient."""

    make: Callable[[], objectives.Objective]
    frozen: tuple[str, ...] = ()
    trained: str = "model"
    others: tuple[str, ...] = ()
    schedule: schedules.NoiseSchedule = FLOW


UNIFORM = timesteps.uniform_density(FLOW)
MEMBERS = {
    "consistency_training": Member(lambda: objectives.consistency_training(V, UNIFORM, near(0.2)), ("target",)),
    "ct": Member(lambda: objectives.ct(EDM, flow_maps.consistency_boundary(), 100), ("target",), schedule=EDM),
    "ict": Member(lambda: objectives.ict(EDM, flow_maps.consistency_boundary(), 100), schedule=EDM),
    "ect": Member(lambda: objectives.ect(EDM, parameterizations.edm(), 50), schedule=EDM),
    "consistency_distillation": Member(
        lambda: objectives.consistency_distillation(V, V, UNIFORM, near(0.2)), ("target", "teacher")
    ),
    "continuous_consistency": Member(
        lambda: objectives.continuous_consistency(UNIFORM, clock=parameterizations.time(), warmup=5)
    ),
    "continuous_consistency(teacher)": Member(
        lambda: objectives.continuous_consistency(UNIFORM, clock=parameterizations.time(), teacher=V), ("teacher",)
    ),
    "shortcut": Member(lambda: objectives.shortcut(16, share=0.5), ("target",)),
    "mean_flow": Member(lambda: objectives.mean_flow(UNIFORM, equal=0.5)),
    "mean_flow(guided)": Member(lambda: objectives.mean_flow(UNIFORM, guidance=objectives.Guidance(3, 1.5, 0.5))),
    "improved_mean_flow": Member(lambda: objectives.improved_mean_flow(UNIFORM)),
    "progressive_distillation": Member(lambda: objectives.progressive_distillation(V, V, 4), ("teacher",)),
    "distribution_matching": Member(
        lambda: objectives.distribution_matching(V, V, V, UNIFORM), ("teacher", "fake")
    ),
    "fake_score": Member(
        lambda: objectives.fake_score(V, V, weightings.constant(V), UNIFORM), ("model",), trained="fake"
    ),
    "regression": Member(lambda: objectives.regression(V)),
    "adversarial_generator": Member(
        lambda: objectives.adversarial_generator(V, V, UNIFORM, UNIFORM), ("teacher",), others=("discriminator",)
    ),
    "adversarial_discriminator": Member(
        lambda: objectives.adversarial_discriminator(V, UNIFORM, r1=0.1), ("model",), trained="discriminator"
    ),
    "latent_consistency_distillation": Member(
        lambda: objectives.latent_consistency_distillation(V, V, null=3), ("target", "teacher")
    ),
}
every_member = pytest.mark.parametrize("name", list(MEMBERS))


def network(parameters, x, clock, condition):
    """Any smooth network of one or two times."""
    told = sum(jax.tree.leaves(clock)) + (0 if condition is None else sum(map(jnp.float32, jax.tree.leaves(condition))))
    told = jnp.reshape(told, told.shape + (1,) * (x.ndim - 1))
    return jnp.tanh(parameters[0] * x + parameters[1] * jnp.sin(told) + parameters[2])


def networks(member, parameters, dtype=jnp.float32):
    """Every network of the objective, with parameters of its own: {name: (x, clock, condition) -> output}."""

    def of(name):
        if name == "discriminator":
            return lambda *inputs: network(parameters[name], *inputs).reshape(len(inputs[0]), -1).mean(1).astype(dtype)
        return lambda *inputs: network(parameters[name], *inputs).astype(dtype)

    return {name: of(name) for name in names(member)}


def names(member):
    return (member.trained, *member.frozen, *member.others)


def parameters_of(member):
    return {name: jnp.array([0.5, 0.3, 0.1]) * (1 + i) for i, name in enumerate(names(member))}


def batch_of(size, shape=(3,)):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, *shape)), jnp.float32)
    return {"x": x, "condition": jnp.arange(size) % 3, "start": x[::-1], "index": jnp.arange(size)}


OBJECTIVES = {name: member.make() for name, member in MEMBERS.items()}


def run(name, batch, parameters=None, step=3, dtype=jnp.float32, keys=None, players=None):
    member = MEMBERS[name]
    keys = jax.random.split(jax.random.key(0), len(batch["x"])) if keys is None else keys
    if players is None:
        players = networks(member, parameters or parameters_of(member), dtype)
    return OBJECTIVES[name](players, member.schedule, keys, batch, step)


@every_member
@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
def test_losses_are_per_example_float32_for_any_rank(name, shape):
    losses, metrics = jax.eval_shape(lambda batch: run(name, batch), batch_of(5, shape))
    assert (losses.shape, losses.dtype) == ((5,), jnp.float32)
    assert {value.shape for value in metrics.values()} == {(5,)}
    assert "t" in metrics


@pytest.mark.parametrize(
    "name",
    slow_but([("consistency_training",), ("distribution_matching",)], [(name,) for name in MEMBERS]),
)
def test_half_precision_networks_give_finite_float32_losses_and_gradients(name):
    member = MEMBERS[name]

    def loss(parameters):
        losses, _ = run(name, batch_of(6), parameters, dtype=jnp.bfloat16)
        assert losses.dtype == jnp.float32
        return losses.sum()

    with jax.disable_jit():
        value, gradient = jax.value_and_grad(loss)(parameters_of(member))
    assert np.isfinite(value)
    assert np.isfinite(gradient[member.trained]).all()


@every_member
def test_gradient_reaches_the_trained_network_alone(name):
    member = MEMBERS[name]
    with jax.disable_jit():
        gradient = jax.grad(lambda parameters: run(name, batch_of(6), parameters)[0].sum())(parameters_of(member))
    assert np.abs(gradient[member.trained]).max() > 1e-6
    for frozen in member.frozen:
        np.testing.assert_array_equal(gradient[frozen], 0)


@every_member
def test_a_missing_network_is_named(name):
    member = MEMBERS[name]
    players = networks(member, parameters_of(member))
    for missing in names(member):
        rest = {other: player for other, player in players.items() if other != missing}
        with pytest.raises(ValueError, match=f"needs a network named '{missing}'"):
            jax.eval_shape(lambda rest=rest: run(name, batch_of(6), players=rest))


@pytest.mark.parametrize(
    "name", slow_but([("consistency_training",), ("mean_flow",), ("shortcut",)], [(name,) for name in MEMBERS])
)
def test_loss_of_an_example_does_not_depend_on_the_others(name):
    """Neither does what is drawn for it."""
    keys, batch = jax.random.split(jax.random.key(2), 6), batch_of(6)
    changed = {**batch, "x": batch["x"].at[:2].set(9.0), "start": batch["start"].at[:2].set(-9.0)}
    with jax.disable_jit():
        losses, metrics = run(name, batch, keys=keys)
        other_losses, other_metrics = run(name, changed, keys=keys.at[:2].set(keys[2]))
    np.testing.assert_array_equal(other_losses[2:], losses[2:])
    np.testing.assert_array_equal(other_metrics["t"][2:], metrics["t"][2:])
    assert (other_losses[:2] != losses[:2]).all()


@pytest.mark.slow
@every_member
def test_compiles_with_a_traced_step(name):
    batch = batch_of(4)
    compiled = jax.jit(lambda step: run(name, batch, step=step)[0])
    with jax.disable_jit():
        eager = run(name, batch, step=60)[0]
    np.testing.assert_allclose(compiled(60), eager, rtol=2e-4, atol=1e-6)


# Optima on Gaussian data.


def coefficients(schedule, t):
    """alpha and sigma `[B, 1]`."""
    return schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]


def exact_end(schedule, t, x):
    """The end of the probability flow of DATA from x at times t `[B]`."""
    of_one = lambda alpha, sigma, x: oracles.flow(DATA, (alpha, sigma), (1.0, 0.0), x[None])[0]
    return jax.vmap(of_one)(schedule.alpha(t), schedule.sigma(t), x)


def as_v(schedule, x_0):
    """The network of parameterization v whose x0 is x_0(t, x): v = (alpha x - (alpha^2 + sigma^2) x0) / sigma."""

    def network(x, t, condition):
        alpha, sigma = coefficients(schedule, t)
        return (alpha * x - (alpha**2 + sigma**2) * x_0(t, x)) / sigma

    return network


def exact_denoiser(schedule, data=DATA):
    return as_v(schedule, lambda t, x: oracles.mean_x0(data, schedule.alpha(t), schedule.sigma(t), x))


def exact_trigflow(schedule, sigma_data):
    """-F of TrigFlow, f = cos(a) x - sin(a) sigma_data F, for a network that is told t."""

    def network(x, t, condition):
        a = jnp.arctan2(schedule.sigma(t), sigma_data * schedule.alpha(t))
        flow = lambda a, x: oracles.flow(DATA, (jnp.cos(a), sigma_data * jnp.sin(a)), (1.0, 0.0), x[None])[0]
        f = jax.vmap(flow)(a, sigma_data * x)
        return (f - jnp.cos(a)[:, None] * sigma_data * x) / (jnp.sin(a)[:, None] * sigma_data)

    return network


def exact_mean_velocity(x, clocks, condition):
    """(x_t - x_s) / (t - s) of the rectified flow, without dividing by t - s.

    Along an eigenvector with variance c(t) = (1 - t)^2 l + t^2 it is (sqrt c_t - sqrt c_s) / (t - s) y / sqrt c_t, and
    (c_t - c_s) / (t - s) = (t + s - 2) l + t + s; the mean moves with speed -mu.
    """
    t, s = clocks[0][:, None], (clocks[0] - clocks[1])[:, None]
    variances, axes, mean = (jnp.asarray(a[0]) for a in (DATA.variances, DATA.axes, DATA.means))
    c_t, c_s = ((1 - at) ** 2 * variances + at**2 for at in (t, s))
    slope = ((t + s - 2) * variances + t + s) / (jnp.sqrt(c_t) + jnp.sqrt(c_s)) / jnp.sqrt(c_t)
    return (((x - (1 - t) * mean) @ axes) * slope) @ axes.T - mean


PAIRS = 12


def twice(a):
    return np.repeat(np.asarray(a), 2, axis=0)


def symmetric(schedule, t, spread=0.7):
    """Pairs of examples that share x_t at times t `[2 PAIRS]`, and mirror each other about E[(x_0, eps) | x_t]."""
    alpha, sigma = (np.asarray(c) for c in coefficients(schedule, t))
    rng = np.random.default_rng(1)
    x_t = twice(rng.standard_normal((PAIRS, 2))) * np.hypot(alpha, sigma)
    delta = twice(spread * rng.standard_normal((PAIRS, 2))) * np.tile([[1.0], [-1.0]], (PAIRS, 1))
    eps = np.asarray(oracles.mean_eps(DATA, alpha[:, 0], sigma[:, 0], x_t)) + delta
    return {"x": jnp.asarray((x_t - sigma * eps) / alpha), "noise": jnp.asarray(eps)}


def expected_gradient(make, schedule, exact, others):
    """(offset, argument) -> the largest entry of the expected gradient of make(argument), in (A, b).

    The network is exact(x) + x A + b at A = b = offset; the mean is over symmetric pairs, whose two share a key.
    """
    keys = jax.random.split(jax.random.key(3), PAIRS)[np.repeat(np.arange(PAIRS), 2)]
    run = lambda model, batch, argument: make(argument)({"model": model, **others}, schedule, keys, batch, 10**6)
    labels = jnp.zeros(2 * PAIRS, int)
    t = jax.jit(lambda: run(exact, {"x": jnp.zeros((2 * PAIRS, 2)), "condition": labels}, 0.1)[1]["t"])()
    batch = {**symmetric(schedule, t), "condition": labels}

    def loss(parameters, argument):
        model = lambda x, *told: exact(x, *told) + x @ parameters["A"] + parameters["b"]
        return run(model, batch, argument)[0].mean()

    @jax.jit
    def largest(offset, argument):
        slopes = jax.grad(loss)({"A": jnp.full((2, 2), offset), "b": jnp.full(2, offset)}, argument)
        return jnp.max(jnp.array([jnp.abs(leaf).max() for leaf in jax.tree.leaves(slopes)]))

    return lambda offset, argument=0.1: float(largest(offset, argument))


CLOCK = parameterizations.time()
EXACT = {  # the objective, its schedule, the optimal network, the networks beside it
    "continuous_consistency": (
        lambda _: objectives.continuous_consistency(at(0.7), clock=CLOCK), COSINE, exact_trigflow(COSINE, 0.5), {},
    ),
    "continuous_consistency(edm)": (
        lambda _: objectives.continuous_consistency(at(0.02), 0.8, clock=CLOCK), EDM, exact_trigflow(EDM, 0.8), {},
    ),
    "continuous_consistency(teacher)": (
        lambda _: objectives.continuous_consistency(at(0.7), clock=CLOCK, teacher=V), COSINE,
        exact_trigflow(COSINE, 0.5), {"teacher": exact_denoiser(COSINE)},
    ),
    "mean_flow": (lambda _: objectives.mean_flow(between(0.7), equal=0.4), FLOW, exact_mean_velocity, {}),
    "mean_flow(p=0)": (lambda _: objectives.mean_flow(between(0.7), equal=0.0, p=0.0), FLOW, exact_mean_velocity, {}),
    "mean_flow(guided)": (  # omega v + kappa u + (1 - omega - kappa) u_null has its fixed point u here
        lambda _: objectives.mean_flow(at(0.7), equal=1.0, guidance=objectives.Guidance(9, 2.0, 0.5, 0.0)), FLOW,
        lambda x, clocks, label: jnp.where(
            label[:, None] == 9, 0.3 * x, (2 * exact_mean_velocity(x, clocks, None) - 1.5 * 0.3 * x) / 0.5
        ), {},
    ),
    "improved_mean_flow": (lambda _: objectives.improved_mean_flow(between(0.7)), FLOW, exact_mean_velocity, {}),
    "shortcut(share=0)": (  # where the smallest step stands for the velocity itself
        lambda _: objectives.shortcut(2**20, share=0.0), FLOW,
        lambda x, clocks, c: exact_mean_velocity(x, (clocks[0], 0 * clocks[1]), c), {"target": exact_mean_velocity},
    ),
}


def between(t):
    """Times of which the first of the two that mean flow draws is t, and the second half of it.

    The first draw comes with the examples' own index, the second with a random one.
    """
    draw = lambda state, keys, index: (jnp.where(index < 100, t, t / 2), jnp.ones(len(keys)))
    return timesteps.Density(tuple, draw, lambda state, t, losses: state)


@pytest.mark.parametrize(
    "name",
    slow_but([("continuous_consistency",), ("mean_flow",)], [(name,) for name in EXACT]),
)
def test_exact_map_is_the_optimum(name, x64):
    """The expected gradient vanishes there, and nowhere near it."""
    largest = expected_gradient(*EXACT[name])
    assert largest(0.0) < 2e-6
    assert largest(0.05) > 1e-4


@pytest.mark.parametrize("make", [objectives.mean_flow, objectives.improved_mean_flow])
def test_mean_flow_at_one_time_is_flow_matching(make, x64):
    """equal = 1, p = 0: the loss of flow matching example by example, summed over dimensions."""
    t = jnp.full(2 * PAIRS, 0.6)
    batch, keys = symmetric(FLOW, t), jax.random.split(jax.random.key(3), 2 * PAIRS)
    model = lambda x, clocks, c: 0.3 * x + clocks[0][:, None] + 5 * clocks[1][:, None]
    one_time = {"model": lambda x, t, c: model(x, (t, 0 * t), c)}

    @jax.jit
    def both(keys):
        expected, _ = objectives.flow_matching(at(0.6))(one_time, FLOW, keys, batch, 0)
        return expected, *make(at(0.6), equal=1.0, p=0.0)({"model": model}, FLOW, keys, batch, 0)

    expected, losses, metrics = both(keys)
    np.testing.assert_allclose(losses, 2 * expected, rtol=1e-6)
    np.testing.assert_array_equal(metrics["t"], metrics["s"])


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_guided_mean_flow_drops_the_guidance_with_the_condition(dropout):
    """Dropped: the null condition and v. Kept: omega v + kappa u(x, t, t) + (1 - omega - kappa) u(x, t, t, null)."""
    keys, batch = keys_and_data()
    batch = {"x": jnp.float32(batch["x"]), "noise": jnp.float32(batch["x"][::-1]), "condition": jnp.arange(24)}
    model = lambda x, clocks, label: 0.1 * label[:, None] + 0.5 * x
    objective = objectives.mean_flow(at(0.5), equal=1.0, p=0.0, guidance=objectives.Guidance(30, 3.0, 0.5, dropout))
    losses, _ = jax.jit(lambda batch: objective({"model": model}, FLOW, keys, batch, 0))(batch)
    v, x_t = batch["noise"] - batch["x"], (batch["noise"] + batch["x"]) / 2
    null, own = (model(x_t, None, label) for label in (jnp.full(24, 30), batch["condition"]))
    u, target = (null, v) if dropout else (own, 3 * v + 0.5 * own - 2.5 * null)
    np.testing.assert_allclose(losses, np.square(u - target).sum(1), rtol=1e-5)


# The discretised ones reach their optimum as the times close up, with a stated order in the gap t - s.

ORDERS = {  # objective with a gap between its times, the order of its expected gradient, networks beside the model
    "consistency_training": (
        lambda gap: objectives.consistency_training(V, at(0.6), near(gap), weighting=inverse_gap), 1, ("target",),
    ),
    "consistency_training(model)": (
        lambda gap: objectives.consistency_training(V, at(0.6), near(gap), target="model"), 2, (),
    ),
    "consistency_distillation": (
        lambda gap: objectives.consistency_distillation(V, V, at(0.6), near(gap), weighting=inverse_gap), 2,
        ("target", "teacher"),
    ),
    "consistency_distillation(ddim)": (
        lambda gap: objectives.consistency_distillation(
            V, V, at(0.6), near(gap), weighting=inverse_gap, solver=flow_maps.from_denoiser
        ), 1, ("target", "teacher"),
    ),
}


@pytest.mark.parametrize(
    "name", slow_but([("consistency_training",), ("consistency_distillation",)], [(name,) for name in ORDERS])
)
def test_discretisation_error_vanishes_with_the_stated_order(name, x64):
    make, order, others = ORDERS[name]
    end = as_v(COSINE, lambda t, x: exact_end(COSINE, t, x))
    players = {other: exact_denoiser(COSINE) if other == "teacher" else end for other in others}
    largest = expected_gradient(make, COSINE, end, players)
    gaps = np.array([0.08, 0.04, 0.02, 0.01])
    found = [largest(0.0, gap) for gap in gaps]
    measured = np.polyfit(np.log(gaps), np.log(found), 1)[0]
    assert abs(measured - order) < 0.2, f"order {measured:.2f} measured, {order} stated; {found}"
    assert largest(0.1, 0.01) > 10 * found[-1]


def keys_and_data(size=2 * PAIRS, seed=5):
    rng = np.random.default_rng(seed)
    return jax.random.split(jax.random.key(seed), size), {"x": jnp.asarray(rng.standard_normal((size, 2)))}


def test_shortcut_joins_two_exact_halves(x64):
    """The exact mean velocity is its own bootstrap at every step size: no loss, on no example."""
    objective = objectives.shortcut(64, share=1.0)
    players = dict.fromkeys(("model", "target"), exact_mean_velocity)
    losses, metrics = jax.jit(lambda keys, batch: objective(players, FLOW, keys, batch, 0))(*keys_and_data())
    np.testing.assert_allclose(losses, 0, atol=1e-20)
    assert set(np.asarray(metrics["duration"])) <= {2.0**-k for k in range(6)}
    assert len(set(np.asarray(metrics["duration"]))) > 3
    wrong = {"model": exact_mean_velocity, "target": lambda *inputs: exact_mean_velocity(*inputs) + 0.1}
    off, _ = jax.jit(lambda keys, batch: objective(wrong, FLOW, keys, batch, 0))(*keys_and_data())
    assert off.min() > 1e-4


def ddim(schedule, denoise, x, t, s):
    """Song et al. 2021, eq. 12, in x0 and eps of DATA's exact denoiser."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = coefficients(schedule, t), coefficients(schedule, s)
    x_0 = denoise(schedule, t, x)
    return alpha_s * x_0 + sigma_s * (x - alpha_t * x_0) / sigma_t


def exact_x0(schedule, t, x):
    return oracles.mean_x0(DATA, schedule.alpha(t), schedule.sigma(t), x)


@pytest.mark.parametrize("N", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_progressive_student_does_in_one_step_what_its_teacher_does_in_two(N, x64):
    """No loss for the student whose one DDIM step is the teacher's two; its x0 solves x_s = a x0 + b x_t."""
    objective = objectives.progressive_distillation(V, V, N)

    def student_x0(t, x):
        middle, s = t - 0.5 / N, jnp.maximum(t - 1 / N, 0)
        x_s = ddim(COSINE, exact_x0, ddim(COSINE, exact_x0, x, t, middle), middle, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = coefficients(COSINE, t), coefficients(COSINE, s)
        return (sigma_t * x_s - sigma_s * x) / (alpha_s * sigma_t - alpha_t * sigma_s)

    players = {"model": as_v(COSINE, student_x0), "teacher": exact_denoiser(COSINE)}
    losses, metrics = objective(players, COSINE, *keys_and_data(), 0)
    np.testing.assert_allclose(losses, 0, atol=1e-20)
    np.testing.assert_allclose(np.asarray(metrics["t"]) * N, np.round(np.asarray(metrics["t"]) * N))
    # Off by 0.1 in x0, the loss is 0.01 max(SNR, 1).
    players["model"] = as_v(COSINE, lambda t, x: student_x0(t, x) + 0.1)
    losses, _ = objective(players, COSINE, *keys_and_data(), 0)
    alpha, sigma = (np.asarray(c)[:, 0] for c in coefficients(COSINE, metrics["t"]))
    np.testing.assert_allclose(losses, 0.01 * np.maximum((alpha / sigma) ** 2, 1), rtol=1e-6)


def test_latent_consistency_follows_the_guided_flow(x64):
    """The target sees x_s of DDIM with (1 + w) cond - w uncond, and both see w; from what the networks were told."""
    seen = {}

    def spy(name, output):
        def network(x, t, condition):
            seen.setdefault(name, []).append((x, t, condition))
            return output(x, t, condition)

        return network

    teacher = lambda x, t, label: exact_denoiser(FLOW)(x, t, None) * (1 + label[:, None])
    players = {"model": spy("model", lambda x, t, c: 0.2 * x), "target": spy("target", lambda x, t, c: 0.1 * x)}
    keys, batch = keys_and_data()
    objective = objectives.latent_consistency_distillation(V, V, null=2, guidance=(3.0, 5.0), solver_steps=8, T=1000)
    batch["condition"] = jnp.arange(24) % 2
    losses, _ = objective({**players, "teacher": teacher}, FLOW, keys, batch, 0)
    (x_t, t, (label, w)), (x_s, s, (_, target_w)) = seen["model"][0], seen["target"][0]
    np.testing.assert_array_equal(w, target_w)
    np.testing.assert_allclose(s, np.maximum(np.asarray(t) - 1 / 8, 1e-3), rtol=1e-6)
    assert 3 <= w.min() < w.max() <= 5
    x0_of = lambda v: (1 - t[:, None]) * x_t - t[:, None] * v  # over alpha^2 + sigma^2
    norm = ((1 - t) ** 2 + t**2)[:, None]
    conditional, free = (x0_of(teacher(x_t, t, of)) / norm for of in (label, jnp.full(24, 2)))
    x_0 = (1 + w[:, None]) * conditional - w[:, None] * free
    expected = ddim(FLOW, lambda *_: x_0, x_t, t, s)
    np.testing.assert_allclose(x_s, expected, rtol=1e-5, atol=1e-8)
    f = [parameterizations.predict(network, FLOW, V, *told).x0
         for network, told in ((players["model"], (x_t, t)), (players["target"], (x_s, s)))]
    np.testing.assert_allclose(losses, (np.sqrt((f[0] - f[1]) ** 2 + 1e-6) - 1e-3).mean(1), rtol=1e-5)


@pytest.mark.slow
def test_latent_consistency_error_is_that_of_ddim(x64):
    """With a teacher that guidance leaves alone, the exact end of the flow is off by one DDIM step: order 2."""
    end = as_v(FLOW, lambda t, x: exact_end(FLOW, t, x))
    found, counts = [], np.array([16, 32, 64])
    players = {"model": end, "target": end, "teacher": exact_denoiser(FLOW)}
    keys, batch = keys_and_data(128)
    batch["condition"] = jnp.zeros(128, int)
    for steps in counts:
        objective = objectives.latent_consistency_distillation(V, V, null=0, solver_steps=steps, T=10**7, c=1e3)
        losses = jax.jit(lambda keys, objective=objective: objective(players, FLOW, keys, batch, 0)[0])(keys)
        found.append(np.sqrt(np.mean(losses)))  # where c is large, the distance is the square
    measured = -np.polyfit(np.log(counts), np.log(found), 1)[0]
    assert abs(measured - 2) < 0.3, (measured, found)


# Randomness: every decision has a key of its own.


UNIFORM_STRATA = timesteps.uniform_density(FLOW, strata=64)
# The objective, and what it decided, of (t, s, x_t, label) for data at 0 and labels 0 that are dropped to 1. The larger
# of two uniform times has a uniform square.
DECIDING = {
    "mean_flow": (
        objectives.with_condition_dropout(objectives.mean_flow(UNIFORM, equal=0.4), null=1, rate=0.3),
        lambda t, s, x_t, label: (np.where(s == t, t, t**2), s == t, x_t / t, label),
    ),
    "mean_flow(two times)": (
        objectives.mean_flow(UNIFORM_STRATA, equal=0.0), lambda t, s, x_t, label: (s / t, t, x_t / t),
    ),
    "mean_flow(guided)": (
        objectives.mean_flow(UNIFORM, equal=0.4, guidance=objectives.Guidance(1, dropout=0.3)),
        lambda t, s, x_t, label: (np.where(s == t, t, t**2), s == t, x_t / t, label),
    ),
    "shortcut": (
        objectives.with_condition_dropout(objectives.shortcut(64, share=0.5), null=1, rate=0.3),
        lambda t, s, x_t, label: (np.round(np.log2(t - s)), x_t / t, label),
    ),
}


def decisions(name, size=4096):
    """What an objective decides for each example, `[decisions, size]`: as its metrics and its network's calls show."""
    objective, decided = DECIDING[name]
    seen = []

    def spy(x, clocks, condition):
        jax.debug.callback(lambda x, label: seen.append((np.asarray(x)[:, 0], np.asarray(label))), x, condition)
        return 0.1 * x

    batch = {"x": jnp.zeros((size, 1)), "condition": jnp.zeros(size, int), "index": jnp.arange(size)}
    keys = jax.random.split(jax.random.key(11), size)
    run = jax.jit(lambda keys: objective({"model": spy, "target": lambda x, *_: x}, FLOW, keys, batch, 0)[1])
    metrics = run(keys)
    jax.effects_barrier()
    t = np.asarray(metrics["t"])
    s = np.asarray(metrics["s"]) if "s" in metrics else t - np.asarray(metrics["duration"])
    dropped = [label for _, label in seen if 0 < label.mean() < 1] or [0 * t]
    return np.stack([np.asarray(values, float) for values in decided(t, s, seen[0][0], dropped[0])])


@pytest.mark.parametrize("name", slow_but([("mean_flow",)], [("mean_flow",), ("shortcut",), ("mean_flow(guided)",)]))
def test_decisions_share_no_key(name):
    """No rank correlation between any two, nor between the sizes of deviations from the middle."""
    found = decisions(name)
    for i in range(len(found)):
        for j in range(i):
            for a, b in ((found[i], found[j]), (np.abs(found[i] - np.median(found[i])), found[j])):
                if a.std() > 0:
                    assert abs(scipy.stats.spearmanr(a, b).statistic) < 4.5 / np.sqrt(len(a)), (i, j)


def test_the_two_times_of_mean_flow_are_independent_draws_even_when_stratified():
    """s / t of the smaller and the larger of two independent uniform times is uniform, and says nothing of t."""
    ratio, t, _ = decisions("mean_flow(two times)")
    assert scipy.stats.kstest(ratio, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(t**2, "uniform").pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(ratio, t).statistic) < 4.5 / np.sqrt(len(t))


# Derivatives along the flow.


@pytest.mark.parametrize("name", ["continuous_consistency", "mean_flow", "improved_mean_flow"])
def test_a_network_without_forward_derivative_is_refused_in_words(name):
    @jax.custom_vjp
    def fused(x):
        return jnp.tanh(x)

    fused.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g,))
    keys, batch = keys_and_data()
    with pytest.raises(TypeError, match="attention='matmul'"):
        jax.eval_shape(lambda: OBJECTIVES[name]({"model": lambda x, clocks, c: fused(x)}, FLOW, keys, batch, 0))


@pytest.mark.slow
def test_mean_flow_trains_a_dit_of_two_times():
    """With the attention that passes forward mode; the gradient reaches the embedding of the second time."""
    model = DiT(patch=2, width=8, depth=1, heads=1, num_classes=0, attention="matmul", times=2)
    keys, x = jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4, 4, 1))
    shapes = jax.eval_shape(model.init, keys[0], x, (jnp.ones(3), jnp.ones(3)))
    variables = jax.tree.map(lambda s: jnp.asarray(np.random.default_rng(0).normal(size=s.shape), jnp.float32), shapes)
    objective = objectives.mean_flow(timesteps.uniform_density(FLOW), equal=0.0)

    @jax.jit
    @jax.grad
    def slope(variables):
        return objective({"model": lambda *inputs: model.apply(variables, *inputs)}, FLOW, keys, {"x": x}, 0)[0].mean()

    found = slope(variables)["params"]["timestep_embedding_2"]
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


# What the distribution-matching and adversarial objectives guarantee.


def test_distribution_matching_gradient_is_that_of_the_kl_divergence(x64):
    """On Gaussians, G(z) = A z + b: E[gradient] = sigma^2 / (alpha^2 D) times that of KL(p_fake,t || p_teacher,t).

    The loss is a quadratic in (z, eps), so that weights which give the drawn examples the moments of N(0, I) make its
    mean an expectation.
    """
    t, B = 0.6, 2 * PAIRS
    alpha, sigma = float(FLOW.alpha(t)), float(FLOW.sigma(t))
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
    keys, batch = jax.random.split(jax.random.key(0), B), {"x": jnp.zeros((B, 2))}
    players = {"teacher": teacher, "fake": exact_denoiser(FLOW, generated)}
    run = lambda theta: objective({**players, "model": generator(theta)}, FLOW, keys, batch, 0)[0]
    seen = jax.jit(lambda: (run(theta), dict(seen))[1])()
    slope = jax.jit(jax.grad(lambda theta, weights: (weights * run(theta)).sum()))
    x = seen["z"] @ theta["A"].T + theta["b"]
    drawn = np.concatenate([np.ones((B, 1)), seen["z"], (seen["x_t"] - alpha * x) / sigma], axis=1)
    rows, columns = np.triu_indices(5)
    weights = np.linalg.lstsq((drawn[:, rows] * drawn[:, columns]).T, np.float64(rows == columns), rcond=None)[0]
    found = slope(theta, weights)

    @jax.jit
    @jax.grad
    def kl(theta):
        real_mean, real = oracles.marginal(DATA, alpha, sigma)
        fake = alpha**2 * theta["A"] @ theta["A"].T + sigma**2 * jnp.eye(2)
        apart, precision = alpha * theta["b"] - real_mean, jnp.linalg.inv(real)
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


def test_fake_score_is_denoising_of_the_generators_samples(x64):
    """Its optimum is E[x | x_t] for x = b alone: the loss of a network that knows b vanishes."""
    keys, batch = keys_and_data()
    generator = lambda z, t, c: 0 * z - jnp.array([0.4, 0.1])
    objective = objectives.fake_score(V, V, weightings.constant(parameterizations.x0()), at(0.5))
    for shift in (0.0, 0.3):
        fake = as_v(FLOW, lambda t, x, shift=shift: jnp.zeros_like(x) + jnp.array([0.4, 0.1]) + shift)
        losses, _ = objective({"model": generator, "fake": fake}, FLOW, keys, batch, 0)
        np.testing.assert_allclose(losses, shift**2, rtol=1e-6, atol=1e-20)


def test_regression_is_the_distance_to_the_given_samples():
    _, batch = keys_and_data()
    batch["start"] = 2 * batch["x"]
    model = lambda z, t, c: -(0.25 * z + t[:, None])
    losses, _ = objectives.regression(V)({"model": model}, FLOW, None, batch, 0)
    np.testing.assert_allclose(losses, np.square(1 - 0.5 * batch["x"]).mean(1), rtol=1e-5)


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


def test_student_is_pulled_by_the_discriminator_and_the_teacher(x64):
    """d loss / dx = -mean w_k + 2.5 alpha_t 2 (x - x0_teacher) / D: the teacher's estimate is a constant."""
    keys, batch = keys_and_data()
    teacher = as_v(FLOW, lambda t, x: 0.5 * x)  # depends on x, but no gradient flows through it
    objective = objectives.adversarial_generator(V, V, at(0.5), at(0.4))
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
    alpha = 1 - 0.4
    losses = -(x @ DIRECTIONS.T + 0.2).mean(1) + 2.5 * alpha * np.square(x - judged).mean(1)
    np.testing.assert_allclose(run(x), losses, rtol=1e-6)
    expected = -DIRECTIONS.mean(0) + 2.5 * alpha * (x - judged)
    np.testing.assert_allclose(jax.grad(lambda x: run(x).sum())(x), expected, rtol=1e-6)


# Parts with published values.


def test_curricula_are_the_published_ones():
    """Song et al. 2023, appendix C; Song and Dhariwal 2023, eq. 11: from 10 to 1280 in eight stages."""
    first = objectives.consistency_times.square_root_curriculum(800)
    second = objectives.consistency_times.doubling_curriculum(800)
    expected = lambda k: np.ceil(np.sqrt(k / 800 * (151**2 - 4) + 4) - 1) + 1
    steps = (0, 1, 400, 799, 800)
    np.testing.assert_array_equal([first(k) for k in (*steps, 900)], [*map(expected, steps), 151])
    np.testing.assert_array_equal(
        [second(k) for k in (0, 99, 100, 250, 700, 799, 5000)], [11, 11, 21, 41, 1281, 1281, 1281]
    )


@pytest.mark.parametrize("improved", [pytest.param(False, marks=pytest.mark.slow), True])
def test_pairs_of_times_have_the_published_probabilities(improved):
    """Neighbours on Karras's grid; n uniform (CT), or by the difference of normal distribution functions (iCT)."""
    N, size = 9, 20_000
    if improved:
        density = timesteps.log_normal(EDM, -1.1, 2.0)
    else:
        density = objectives.consistency_times.ramp_density(EDM)
    keys = jax.random.split(jax.random.key(0), size)
    pairs = objectives.consistency_times.discretised(lambda step: N)
    t, s = jax.jit(lambda keys: pairs(EDM, density.sample((), keys, jnp.arange(size))[0], 0))(keys)
    grid = 80 * np.sort(timesteps.karras(EDM, N)[:-1])
    i = np.searchsorted(grid, 80 * np.asarray(s) * (1 + 1e-4)) - 1
    np.testing.assert_allclose(80 * np.asarray(s), grid[i], rtol=2e-4)
    np.testing.assert_allclose(80 * np.asarray(t), grid[i + 1], rtol=2e-4)
    mass = np.ones(N - 1)
    if improved:
        mass = np.diff(scipy.stats.norm.cdf((np.log(grid) + 1.1) / 2.0))
    expected = size * mass / mass.sum()
    assert scipy.stats.chisquare(np.bincount(i, minlength=N - 1), expected).pvalue > 1e-3


def test_easy_consistency_tuning_closes_the_gap_by_q_a_stage():
    """r = t (1 - (1 + 8 sigmoid(-t)) / q^a) of Geng et al. 2024; none below 0, where the target is the data."""
    pairs = objectives.consistency_times.shrinking(100, q=4.0)
    sigma = np.array([0.01, 0.5, 3.0, 40.0])
    for step, a in ((0, 1), (99, 1), (100, 2), (350, 4)):
        t, s = pairs(EDM, jnp.float32(sigma / 80), step)
        expected = np.maximum(sigma * (1 - (1 + 8 / (1 + np.exp(sigma))) / 4.0**a), 0)
        np.testing.assert_allclose(80 * np.asarray(s), expected, rtol=1e-4)
        np.testing.assert_allclose(80 * np.asarray(t), sigma, rtol=1e-6)


def test_easy_consistency_tuning_starts_as_denoising():
    """Where s = 0 the target is x_0 itself: (SNR + 4) |f(x_t, t) - x_0|."""
    keys, batch = keys_and_data(64)
    batch["noise"] = eps = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    model = lambda x, clock, c: jnp.zeros_like(x)
    objective = objectives.ect(EDM, parameterizations.edm(), 100)
    losses, metrics = jax.jit(lambda keys: objective({"model": model}, EDM, keys, batch, 0))(keys)
    start = np.asarray(metrics["s"]) == 0
    assert 0 < start.sum() < 64
    sigma = 80 * np.asarray(metrics["t"])[start]
    x_0 = np.asarray(batch["x"])[start]
    f = 0.25 / (sigma**2 + 0.25)
    error = f[:, None] * (x_0 + sigma[:, None] * eps[start]) - x_0
    np.testing.assert_allclose(losses[start], (sigma**-2 + 4) * np.linalg.norm(error, axis=1), rtol=1e-3)


def test_pseudo_huber_is_between_the_distances():
    a, b = jnp.array([[3.0, 4.0], [1.0, 1.0]]), jnp.array([[0.0, 0.0], [1.0, 1.0]])
    huber = objectives.few_step.pseudo_huber
    np.testing.assert_allclose(huber(0.0)(a, b), [5, 0])
    np.testing.assert_allclose(huber(12.0)(a, b), [1, 0], atol=1e-6)
    offset = 0.00054 * np.sqrt(2)
    np.testing.assert_allclose(huber()(a, b), [np.hypot(5, offset) - offset, 0], rtol=1e-6, atol=1e-9)
    assert np.isfinite(jax.grad(lambda a: huber(0.0)(a, b).sum())(a)).all()
