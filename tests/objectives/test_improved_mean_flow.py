"""Improved MeanFlow with guidance as an input and a velocity head: its loss is its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import objectives, schedules
from diffusion.objectives.guidance_inputs import draw_guidance, guided_target
from diffusion.objectives.projectors import Projector
from tests.objectives.few_step_cases import FLOW, UNIFORM, keys_and_data

KEYS, BATCH = keys_and_data()
X = jnp.float32(BATCH["x"]).reshape(-1, 1, 1, 2)
BATCH = {"x": X, "noise": X[::-1], "condition": jnp.arange(24) % 3}
NULL = 3
PARAMETERS = jnp.array([0.4, 0.3, 0.2, 0.1, 0.7, -0.3])
HEAD = Projector(lambda *_: None, lambda parameters, h, shape: parameters[4] * h + parameters[5] * h**2)


def network(parameters, x, clocks, condition, features=()):
    """Of a label, w - 1 and the interval; its features are the token of a picture of one pixel."""
    label, more, interval = condition
    t, duration = clocks
    inputs = label + more + interval @ jnp.array([1.0, 2.0])
    bias = parameters[1] * t + parameters[2] * duration + parameters[3] * inputs
    h = jnp.tanh(parameters[0] * x + bias.reshape(-1, 1, 1, 1))
    output = jnp.sin(2 * h)
    return (output, (h.reshape(-1, 1, 2),)) if features else output


def v_hat(parameters, x, clocks, condition):
    _, (h,) = network(parameters, x, clocks, condition, features=(2,))
    return HEAD.apply(parameters, h, None).reshape(x.shape)


@pytest.mark.parametrize("layer", [pytest.param(None, marks=pytest.mark.extended), 2])
def test_the_loss_is_its_definition(layer):
    """Without a head the velocity is u at s = t. The gradient goes through u and the head's output alone."""
    p, c = 0.6, 0.2
    seen = []
    guidance = objectives.GuidanceInputs(NULL, largest=5.0, dropout=0.4)
    head = {} if layer is None else {"velocity_layer": layer, "projector": HEAD}
    objective = objectives.improved_mean_flow(UNIFORM, 0.3, p, c, guidance=guidance, **head)

    def model(parameters, x, clocks, condition, features=()):
        seen.append(condition)
        return network(parameters, x, clocks, condition, features)

    def total(parameters):
        players = {
            "model": functools.partial(model, parameters),
            "velocity": lambda h, shape: HEAD.apply(parameters, h, shape),
        }
        losses, metrics = objective(players, FLOW, KEYS, BATCH, 0)
        return losses.sum(), (losses, metrics, seen[-1])

    slope, (losses, metrics, received) = jax.jit(jax.grad(total, has_aux=True))(PARAMETERS)
    t, s = metrics["t"], metrics["s"]
    label, more, interval = received
    dropped = label == NULL
    assert 4 < dropped.sum() < 16 and 2 < (s == t).sum() < 16
    np.testing.assert_array_equal(label, np.where(dropped, NULL, BATCH["condition"]))
    np.testing.assert_array_equal(interval[s == t], [[0, 1]] * int((s == t).sum()))
    w_t = np.where((interval[:, 0] <= t) & (t <= interval[:, 1]), 1 + more, 1)
    assert 2 < (w_t[~dropped] == 1).sum() < 22
    assert (more > 0).all()  # a network receives its scale at times outside of its interval too

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def definition(parameters):
        image = lambda a: jnp.reshape(a, (-1, 1, 1, 1))
        x_0, eps = BATCH["x"], BATCH["noise"]
        x_t = image(1 - t) * x_0 + image(t) * eps
        whole = jnp.tile(jnp.array([0.0, 1.0]), (24, 1))
        velocity = network if layer is None else v_hat
        at_t = lambda label, w: velocity(PARAMETERS, x_t, (t, 0 * t), (label, w - 1, whole))
        conditional, null = at_t(BATCH["condition"], w_t), at_t(jnp.full(24, NULL), jnp.ones(24))
        extra = jnp.where(dropped, 0.0, 1 - 1 / w_t)
        target = eps - x_0 + image(extra) * (conditional - null)
        rate = jnp.where(image(dropped), null, conditional)
        of_pair = lambda f, parameters, x, t, s: f(parameters, x, (t, t - s), received)
        u = lambda x, t, s: of_pair(network, PARAMETERS, x, t, s)
        _, du_dt = jax.jvp(u, (x_t, t, s), (rate, jnp.ones(24), jnp.zeros(24)))
        errors = [lambda parameters: of_pair(network, parameters, x_t, t, s) + image(t - s) * du_dt - target]
        if layer is not None:
            errors.append(lambda parameters: of_pair(v_hat, parameters, x_t, t, s) - target)
        squared = lambda error, parameters: jnp.square(error(parameters)).sum((1, 2, 3))
        parts = [squared(error, parameters) / (squared(error, PARAMETERS) + c) ** p for error in errors]
        return sum(parts).sum(), parts

    expected, parts = definition(PARAMETERS)
    np.testing.assert_allclose(losses, sum(parts), rtol=1e-4)
    np.testing.assert_allclose(slope, expected, rtol=1e-3)
    if layer is not None:
        np.testing.assert_allclose(metrics["velocity_loss"], parts[1], rtol=1e-4)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_scales_and_intervals_have_the_published_distribution(beta):
    """p(w) ~ w^-beta on [1, largest]; the interval begins in the first half of the times, and ends in the second."""
    guidance = objectives.GuidanceInputs(NULL, largest=6.0, beta=beta)
    everywhere = jnp.arange(4000) % 4 == 0
    keys = jax.random.split(jax.random.key(1), 4000)
    schedule = schedules.ending_at(FLOW, 0.8)
    draw = jax.jit(lambda everywhere: draw_guidance(guidance, schedule, keys, everywhere))
    w, interval = (np.asarray(drawn, np.float64) for drawn in draw(everywhere))
    share = np.log(w) / np.log(6) if beta == 1 else (1 - w ** (1 - beta)) / (1 - 6 ** (1 - beta))
    start, end = interval[~everywhere].T / 0.8
    draws = np.stack([share[~everywhere], 2 * start, 2 * end - 1])
    for uniform in draws:
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.06
    np.testing.assert_allclose(interval[everywhere], [[0, 0.8]] * 1000, rtol=1e-6)
    alone = guidance._replace(interval=False)
    np.testing.assert_allclose(draw_guidance(alone, schedule, keys[:3], everywhere[:3])[1], [[0, 0.8]] * 3, rtol=1e-6)


@pytest.mark.parametrize("interval", [True, False])
def test_guidance_at_all_times_holds_at_both_ends(interval):
    """At 0 and t_max of a schedule that ends early: v + (1 - 1 / w) (v_w - v_null), where v_w is the label plus w - 1.

    A network that receives an interval adds its end, which the difference does not contain.
    """
    schedule = schedules.ending_at(FLOW, 0.8)
    guidance = objectives.GuidanceInputs(NULL, largest=4.0, interval=interval, dropout=0.0)

    def velocity_of(condition):
        label, more, *intervals = condition
        assert len(intervals) == interval
        return (label + more + sum(times[:, 1] for times in intervals))[:, None]

    keys, t, labels = jax.random.split(jax.random.key(2), 2), jnp.array([0.0, schedule.t_max]), jnp.array([1, 2])
    v, everywhere = jnp.array([[5.0], [7.0]]), jnp.ones(2, bool)
    target, rate, (label, more, *_) = guided_target(guidance, velocity_of, schedule, keys, t, v, labels, everywhere)
    assert more.min() > 0.1
    np.testing.assert_array_equal(label, labels)
    np.testing.assert_allclose(rate[:, 0], labels + more + 0.8 * interval, rtol=1e-6)
    np.testing.assert_allclose(target[:, 0], v[:, 0] + more / (1 + more) * (labels + more - NULL), rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_guidance_holds_within_its_interval_alone_and_not_without_a_label(dropout):
    """v_w is the label plus w - 1: outside the interval w = 1; an example without its label takes v, along v_null."""
    schedule = schedules.ending_at(FLOW, 0.8)
    guidance = objectives.GuidanceInputs(NULL, largest=4.0, dropout=dropout)
    velocity_of = lambda condition: (condition[0] + condition[1] + condition[2][:, 1])[:, None]
    keys, labels = jax.random.split(jax.random.key(2), 8), jnp.arange(8) % 3
    t, v, nowhere = jnp.full(8, 0.3), jnp.full((8, 1), 5.0), jnp.zeros(8, bool)
    target, rate, (label, more, interval) = guided_target(
        guidance, velocity_of, schedule, keys, t, v, labels, everywhere=nowhere
    )
    inside = (interval[:, 0] <= 0.3) & (0.3 <= interval[:, 1])
    assert inside.any() and not inside.all() and more.min() > 0.01
    w = np.where(inside, 1 + more, 1)
    guided, rates = 5 + (1 - 1 / w) * (labels + w - 1 - NULL), labels + w - 1 + 0.8
    expected = (labels, guided, rates) if dropout == 0 else (NULL, 5, NULL + 0.8)
    for ours, theirs in zip((label, target[:, 0], rate[:, 0]), expected):
        np.testing.assert_allclose(ours, np.broadcast_to(theirs, 8), rtol=1e-5)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"guidance": objectives.GuidanceInputs(NULL, largest=0.5)}, "largest = 0.5"),
        ({"guidance": objectives.GuidanceInputs(NULL, dropout=1.5)}, "dropout = 1.5"),
        ({"projector": HEAD}, "needs a velocity_layer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        objectives.improved_mean_flow(UNIFORM, **wrong)


def test_guidance_needs_a_condition():
    objective = objectives.improved_mean_flow(UNIFORM, guidance=objectives.GuidanceInputs(NULL))
    with pytest.raises(ValueError, match="needs a condition, but the batch has none"):
        objective({"model": network}, FLOW, KEYS, {"x": X}, 0)
