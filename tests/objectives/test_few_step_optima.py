"""The optimum of every objective of few-step networks: a new one is a line in EXACT or in ORDERS.

Optima are exact, without Monte Carlo. On Gaussian data x_0 and eps given x_t are Gaussian, so the two pairs
(x_0, eps) = E[(x_0, eps) | x_t] +- delta with alpha x_0 + sigma eps = x_t are equally likely for every delta. At an
objective whose optimum is a conditional mean the gradients of the two losses cancel, whatever the weights that depend
on the size of the error, and for every delta; hence so does the expectation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, objectives, parameterizations, timesteps
from diffusion.objectives.consistency import inverse_gap
from tests import oracles
from tests.conformance import slow_but
from tests.objectives.few_step_cases import (
    COSINE,
    DATA,
    EDM,
    FLOW,
    PAIRS,
    V,
    as_v,
    coefficients,
    exact_denoiser,
    exact_end,
    exact_guided_velocity,
    exact_mean_velocity,
    exact_trigflow,
    exact_x0,
    keys_and_data,
    near,
    twice,
)
from tests.objectives.objective_cases import at


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
        model = lambda x, *inputs: exact(x, *inputs) + x @ parameters["A"] + parameters["b"]
        return run(model, batch, argument)[0].mean()

    @jax.jit
    def largest(offset, argument):
        slopes = jax.grad(loss)({"A": jnp.full((2, 2), offset), "b": jnp.full(2, offset)}, argument)
        return jnp.max(jnp.array([jnp.abs(leaf).max() for leaf in jax.tree.leaves(slopes)]))

    return lambda offset, argument=0.1: float(largest(offset, argument))


CLOCK = parameterizations.time()
EXACT = {  # the objective, its schedule, the optimal network, the networks beside it
    "continuous_consistency": (
        lambda _: objectives.continuous_consistency(at(0.7), clock=CLOCK),
        COSINE,
        exact_trigflow(COSINE, 0.5),
        {},
    ),
    "continuous_consistency(edm)": (
        lambda _: objectives.continuous_consistency(at(0.02), 0.8, clock=CLOCK),
        EDM,
        exact_trigflow(EDM, 0.8),
        {},
    ),
    "continuous_consistency(teacher)": (
        lambda _: objectives.continuous_consistency(at(0.7), clock=CLOCK, teacher=V),
        COSINE,
        exact_trigflow(COSINE, 0.5),
        {"teacher": exact_denoiser(COSINE)},
    ),
    "continuous_consistency(student)": (
        lambda _: objectives.continuous_consistency(at(0.7), 0.8, teacher=V, student=V),
        COSINE,
        as_v(COSINE, lambda t, x: exact_end(COSINE, t, x)),
        {"teacher": exact_denoiser(COSINE)},
    ),
    "score_regularised_consistency": (  # a fake score that agrees with the teacher's, as it does at the optimum
        lambda _: objectives.score_regularised_consistency(V, V, at(0.7), at(0.4), clock=CLOCK),
        COSINE,
        exact_trigflow(COSINE, 0.5),
        {"teacher": exact_denoiser(COSINE), "fake": exact_denoiser(COSINE)},
    ),
    "mean_flow": (lambda _: objectives.mean_flow(between(0.7), equal=0.4), FLOW, exact_mean_velocity, {}),
    "mean_flow(p=0)": (lambda _: objectives.mean_flow(between(0.7), equal=0.0, p=0.0), FLOW, exact_mean_velocity, {}),
    "mean_flow(guided)": (  # omega v + kappa u + (1 - omega - kappa) u_null has its fixed point u here
        lambda _: objectives.mean_flow(at(0.7), equal=1.0, guidance=objectives.Guidance(9, 2.0, 0.5, 0.0)),
        FLOW,
        lambda x, clocks, label: jnp.where(
            label[:, None] == 9, 0.3 * x, (2 * exact_mean_velocity(x, clocks, None) - 1.5 * 0.3 * x) / 0.5
        ),
        {},
    ),
    "improved_mean_flow": (lambda _: objectives.improved_mean_flow(between(0.7)), FLOW, exact_mean_velocity, {}),
    "improved_mean_flow(guided)": (  # at every scale and in every interval
        lambda _: objectives.improved_mean_flow(between(0.7), guidance=objectives.GuidanceInputs(9, 5.0, dropout=0.0)),
        FLOW,
        lambda x, clocks, condition: jnp.where(
            condition[0][:, None] == 9, exact_null_velocity(x, clocks), exact_guided_velocity(x, clocks, condition)
        ),
        {},
    ),
    "improved_mean_flow(dropped)": (  # the null condition is guided at no scale
        lambda _: objectives.improved_mean_flow(between(0.7), guidance=objectives.GuidanceInputs(9, 5.0, dropout=1.0)),
        FLOW,
        lambda x, clocks, condition: jnp.where(condition[0][:, None] == 9, exact_mean_velocity(x, clocks, None), x),
        {},
    ),
    "shortcut(share=0)": (  # where the smallest step stands for the velocity itself
        lambda _: objectives.shortcut(2**20, share=0.0),
        FLOW,
        lambda x, clocks, c: exact_mean_velocity(x, (clocks[0], 0 * clocks[1]), c),
        {"target": exact_mean_velocity},
    ),
}


def exact_null_velocity(x, clocks):
    """The velocity at t of N(mu, 4 I), beside which `exact_guided_velocity` is guided."""
    t, mean = clocks[0][:, None], jnp.asarray(DATA.means[0])
    return (5 * t - 4) / (4 * (1 - t) ** 2 + t**2) * (x - (1 - t) * mean) - mean


def between(t):
    """Times of which the first of the two that mean flow draws is t, and the second half of it.

    The first draw comes with the examples' own index, the second with a random one.
    """
    draw = lambda state, keys, index: (jnp.where(index < 100, t, t / 2), jnp.ones(len(keys)))
    return timesteps.Density(tuple, draw, lambda state, t, losses: state)


FAST = ("continuous_consistency", "mean_flow", "improved_mean_flow(guided)")


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([(name,) for name in FAST], [(name,) for name in EXACT]))
def test_exact_map_is_the_optimum(name, x64):
    """The expected gradient vanishes there, and nowhere near it."""
    largest = expected_gradient(*EXACT[name])
    assert largest(0.0) < 2e-6
    assert largest(0.05) > 1e-4


@pytest.mark.parametrize("make", [objectives.mean_flow, objectives.improved_mean_flow])
def test_mean_flow_at_one_time_is_flow_matching(make, x64):
    """equal = 1, p = 0: the loss of flow matching example by example, summed over dimensions."""
    t = jnp.full(2 * PAIRS, 0.6)
    batch = symmetric(FLOW, t)
    keys = jax.random.split(jax.random.key(3), 2 * PAIRS)
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
    v = batch["noise"] - batch["x"]
    x_t = (batch["noise"] + batch["x"]) / 2
    null, own = (model(x_t, None, label) for label in (jnp.full(24, 30), batch["condition"]))
    u, target = (null, v) if dropout else (own, 3 * v + 0.5 * own - 2.5 * null)
    np.testing.assert_allclose(losses, np.square(u - target).sum(1), rtol=1e-5)


# The discretised ones reach their optimum as the times close up, with a stated order in the gap t - s.

ORDERS = {  # objective with a gap between its times, the order of its expected gradient, networks beside the model
    "consistency_training": (
        lambda gap: objectives.consistency_training(V, at(0.6), near(gap), pair_weighting=inverse_gap),
        1,
        ("target",),
    ),
    "consistency_training(model)": (
        lambda gap: objectives.consistency_training(V, at(0.6), near(gap), target="model"),
        2,
        (),
    ),
    "consistency_distillation": (
        lambda gap: objectives.consistency_distillation(V, V, at(0.6), near(gap), pair_weighting=inverse_gap),
        2,
        ("target", "teacher"),
    ),
    "consistency_distillation(ddim)": (
        lambda gap: objectives.consistency_distillation(
            V, V, at(0.6), near(gap), pair_weighting=inverse_gap, solver=flow_maps.from_denoiser
        ),
        1,
        ("target", "teacher"),
    ),
}


@pytest.mark.extended
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


@pytest.mark.extended
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


@pytest.mark.parametrize("N", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_progressive_student_does_in_one_step_what_its_teacher_does_in_two(N, x64):
    """No loss for the student whose one DDIM step is the teacher's two; its x0 solves x_s = a x0 + b x_t."""
    objective = objectives.progressive_distillation(V, V, N)

    def student_x0(t, x):
        middle = t - 0.5 / N
        s = jnp.maximum(t - 1 / N, 0)
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


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_latent_consistency_follows_the_guided_flow(x64, shift):
    """The target receives x_s of DDIM with (1 + w) cond - w uncond, and both networks receive w."""
    seen = {}

    def spy(name, output):
        def network(x, t, condition):
            seen.setdefault(name, []).append((x, t, condition))
            return output(x, t, condition)

        return network

    teacher = lambda x, t, label: exact_denoiser(FLOW)(x, t, None) * (1 + label[:, None])
    players = {"model": spy("model", lambda x, t, c: 0.2 * x), "target": spy("target", lambda x, t, c: 0.1 * x)}
    keys, batch = keys_and_data()
    objective = objectives.latent_consistency_distillation(
        V, V, null=2, guidance=(3.0, 5.0), solver_steps=8, T=1000, shift=shift
    )
    batch["condition"] = jnp.arange(24) % 2
    losses, _ = objective({**players, "teacher": teacher}, FLOW, keys, batch, 0)
    (x_t, t, (label, w)), (x_s, s, (_, target_w)) = seen["model"][0], seen["target"][0]
    np.testing.assert_array_equal(w, target_w)
    even = np.asarray(t) / (shift - (shift - 1) * np.asarray(t))  # t and s are 1 / 8 apart before the shift
    np.testing.assert_allclose(even, np.round(8 * even) / 8, rtol=1e-6)
    earlier = np.round(8 * even) / 8 - 1 / 8
    np.testing.assert_allclose(s, np.maximum(shift * earlier / (1 + (shift - 1) * earlier), 1e-3), rtol=1e-6)
    assert 3 <= w.min() < w.max() <= 5
    x0_of = lambda v: (1 - t[:, None]) * x_t - t[:, None] * v  # over alpha^2 + sigma^2
    norm = ((1 - t) ** 2 + t**2)[:, None]
    conditional, free = (x0_of(teacher(x_t, t, of)) / norm for of in (label, jnp.full(24, 2)))
    x_0 = (1 + w[:, None]) * conditional - w[:, None] * free
    expected = ddim(FLOW, lambda *_: x_0, x_t, t, s)
    np.testing.assert_allclose(x_s, expected, rtol=1e-5, atol=1e-8)
    f = [
        parameterizations.predict(network, FLOW, V, *inputs).x0
        for network, inputs in ((players["model"], (x_t, t)), (players["target"], (x_s, s)))
    ]
    np.testing.assert_allclose(losses, (np.sqrt((f[0] - f[1]) ** 2 + 1e-6) - 1e-3).mean(1), rtol=1e-5)


def test_latent_consistency_with_one_scale_and_an_exact_end(x64):
    """LCM-LoRA: both networks receive the condition alone, and the last step's target is DDIM's own end, x_s."""
    keys, batch = keys_and_data()
    batch["condition"] = jnp.arange(24) % 2
    states = {}

    def spy(name, share):
        def network(x, t, label):
            states[name] = x, t, label
            return share * x

        return network

    teacher = lambda x, t, label: exact_denoiser(FLOW)(x, t, None) * (1 + label[:, None])
    players = {"model": spy("model", 0.2), "target": spy("target", 0.1), "teacher": teacher}
    of = lambda **more: objectives.latent_consistency_distillation(V, V, null=2, guidance=1.5, solver_steps=3, **more)
    losses, metrics = of(exact_end=True)(players, FLOW, keys, batch, 0)
    (x_t, t, label), (x_s, s, target_label) = states["model"], states["target"]
    np.testing.assert_array_equal(label, batch["condition"])
    np.testing.assert_array_equal(target_label, batch["condition"])
    np.testing.assert_array_equal(metrics["guidance"], 1.5)
    end = lambda share, x, t: parameterizations.predict(lambda x, t, c: share * x, FLOW, V, x, t).x0
    last = (np.asarray(t) < 0.5)[:, None]
    assert 3 < last.sum() < 20
    target = np.where(last, x_s, end(0.1, x_s, s))
    np.testing.assert_allclose(losses, (np.sqrt((end(0.2, x_t, t) - target) ** 2 + 1e-6) - 1e-3).mean(1), rtol=1e-6)
    plain, _ = of()(players, FLOW, keys, batch, 0)
    assert (np.asarray(plain != losses) == last[:, 0]).all()


def test_a_shift_that_leaves_no_room_below_a_time_of_latent_consistency_is_refused():
    """A line at the shift f has the first of N times at f / (N - 1 + f): below 1 / T, s would lie above t."""
    keys, batch = keys_and_data(4)
    batch["condition"] = jnp.zeros(4, int)
    network = lambda x, t, label: 0.2 * x
    players = dict.fromkeys(("model", "target", "teacher"), network)
    run = lambda **more: objectives.latent_consistency_distillation(V, V, null=0, **more)(players, FLOW, keys, batch, 0)
    with pytest.raises(
        ValueError, match=r"shift = 0\.5 .* solver_steps = 1000 .* t = 0\.00050025, below 1 / T = 0\.001"
    ):
        run(solver_steps=1000, shift=0.5)
    for fits in ({"solver_steps": 1000}, {"shift": 0.5}, {"solver_steps": 1000, "shift": 0.5, "T": 2000}):
        assert np.isfinite(run(**fits)[0]).all()


@pytest.mark.slow
def test_latent_consistency_error_is_that_of_ddim(x64):
    """With a teacher that guidance leaves alone, the exact end of the flow is off by one DDIM step: order 2."""
    end = as_v(FLOW, lambda t, x: exact_end(FLOW, t, x))
    found = []
    counts = np.array([16, 32, 64])
    players = {"model": end, "target": end, "teacher": exact_denoiser(FLOW)}
    keys, batch = keys_and_data(128)
    batch["condition"] = jnp.zeros(128, int)
    for steps in counts:
        objective = objectives.latent_consistency_distillation(V, V, null=0, solver_steps=steps, T=10**7, c=1e3)
        losses = jax.jit(lambda keys, objective=objective: objective(players, FLOW, keys, batch, 0)[0])(keys)
        found.append(np.sqrt(np.mean(losses)))  # where c is large, the distance is the square
    measured = -np.polyfit(np.log(counts), np.log(found), 1)[0]
    assert abs(measured - 2) < 0.3, (measured, found)
