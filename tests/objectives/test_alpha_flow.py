"""AlphaFlow: its two ends are MeanFlow and flow matching to the bit, and the loss between them is its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, objectives
from tests.objectives.few_step_cases import FLOW, UNIFORM, keys_and_data
from tests.objectives.test_few_step_optima import between

KEYS, BATCH = keys_and_data()
BATCH = {"x": jnp.float32(BATCH["x"]), "noise": jnp.float32(BATCH["x"][::-1]), "condition": jnp.arange(24) % 3}
PARAMETERS = jnp.array([0.4, 0.3, 0.2, 0.1])
GUIDED = objectives.Guidance(3, 1.5, 0.3, 0.25)


def network(parameters, x, clocks, condition):
    t, duration = (clock[:, None] for clock in clocks)
    bias = parameters[1] * t + parameters[2] * duration + parameters[3] * condition[:, None]
    return jnp.tanh(parameters[0] * x + bias)


def losses_and_slope(objective, network=network):
    """step -> losses `[B]`, the gradient of their sum in PARAMETERS, and the metrics."""

    def total(parameters, step):
        players = {"model": functools.partial(network, parameters)}
        losses, metrics = objective(players, FLOW, KEYS, BATCH, step)
        return losses.sum(), (losses, metrics)

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))

    def run(step):
        (_, (losses, metrics)), slope = compiled(PARAMETERS, step)
        return losses, slope, metrics

    return run


@pytest.mark.extended
@pytest.mark.parametrize("guidance", [None, GUIDED])
def test_after_its_end_it_is_mean_flow(guidance):
    """Losses and gradients, with the same draws: alpha = 0 from the step `end total` on."""
    p = 0.0 if guidance else 1.0
    found = losses_and_slope(objectives.alpha_flow(UNIFORM, 100, equal=0.5, p=p, end=0.4, guidance=guidance))(41)
    expected = losses_and_slope(objectives.mean_flow(UNIFORM, equal=0.5, p=p, guidance=guidance))(41)
    np.testing.assert_array_equal(found[2]["alpha"], 0)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.extended
def test_before_its_start_it_is_flow_matching_of_every_pair_of_times():
    """alpha = 1: a network that sees t alone has the loss that MeanFlow has at s = t."""
    blind = lambda parameters, x, clocks, condition: network(parameters, x, (clocks[0], 0 * clocks[1]), condition)
    found = losses_and_slope(objectives.alpha_flow(UNIFORM, 100, equal=0.0, p=0.7, start=0.2), blind)(19)
    expected = losses_and_slope(objectives.mean_flow(UNIFORM, equal=1.0, p=0.7), blind)(19)
    np.testing.assert_array_equal(found[2]["alpha"], 1)
    assert (found[2]["s"] < found[2]["t"]).all()
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_between_its_ends_it_is_the_definition():
    """alpha^(2 p - 1) |u - (alpha v + (1 - alpha) u(x_r, r, s))|^2 / (|..|^2 + c)^p; for s = t the error to v."""
    step = 60
    p = 0.8
    alpha = 1 / (1 + np.exp(10 * (step - 70) / 60))  # from 40 to 100
    density = between(0.7)
    twice = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(24, 2.0)))
    objective = objectives.alpha_flow(twice, 200, equal=0.5, p=p, c=0.3, start=0.2, end=0.5, gamma=10.0)
    losses, slope, metrics = losses_and_slope(objective)(step)
    t, s = (np.asarray(metrics[name], float) for name in "ts")
    same = s == t
    assert 4 < same.sum() < 20
    np.testing.assert_allclose(t, 0.7)
    np.testing.assert_allclose(s[~same], 0.35)
    np.testing.assert_allclose(metrics["alpha"], alpha, rtol=1e-5)
    x_0, eps = (np.asarray(BATCH[name], float) for name in ("x", "noise"))
    v = eps - x_0
    x_t = 0.3 * x_0 + 0.7 * eps
    u = lambda x, t, s, parameters=PARAMETERS: network(parameters, x, (t, t - s), BATCH["condition"])
    r = 0.7 - alpha * 0.35
    rest = u(x_t - alpha * 0.35 * v, r + 0 * t, 0.35 + 0 * t)
    target = np.where(same[:, None], v, alpha * v + (1 - alpha) * rest)
    factor = np.where(same, 1.0, alpha ** (2 * p - 1))
    squared = np.square(u(x_t, t, s) - target).sum(1)
    weights = 2 * 2 * factor / (squared + 0.3) ** p  # each time has an importance of 2
    np.testing.assert_allclose(losses, weights * squared, rtol=2e-5)

    def error(parameters):  # no gradient through the target, nor through the weight
        return (weights * jnp.square(u(x_t, t, s, parameters) - target).sum(1)).sum()

    np.testing.assert_allclose(slope, jax.grad(error)(PARAMETERS), rtol=1e-4)


@pytest.mark.extended
def test_a_dropped_condition_is_dropped_in_the_networks_own_target_too():
    """Dropout 1 with guidance is training without guidance on the null condition, also where alpha = 1/2."""
    found = losses_and_slope(objectives.alpha_flow(UNIFORM, 6, guidance=objectives.Guidance(3, 1.5, 0.3, 1.0)))(3)
    unguided = objectives.alpha_flow(UNIFORM, 6)
    null = lambda networks, schedule, keys, batch, step: unguided(
        networks, schedule, keys, batch | {"condition": jnp.full(24, 3)}, step
    )
    expected = losses_and_slope(null)(3)
    np.testing.assert_array_equal(found[2]["alpha"], 0.5)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.extended
def test_the_network_receives_the_times_of_its_clocks():
    """A network of (t, s) in place of (t, t - s) is the same network if it takes the difference itself."""
    of_both = lambda parameters, x, times, label: network(parameters, x, (times[0], times[0] - times[1]), label)
    found = losses_and_slope(objectives.alpha_flow(UNIFORM, 6, clocks=flow_maps.start_and_end()), of_both)(3)
    expected = losses_and_slope(objectives.alpha_flow(UNIFORM, 6))(3)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_small_alpha_has_the_gradient_of_mean_flow(x64):
    """For p = 0 it differs from MeanFlow's by an error of order 1 in alpha."""
    expected = losses_and_slope(objectives.mean_flow(UNIFORM, equal=0.0, p=0.0))(0)[1]
    run = losses_and_slope(objectives.alpha_flow(UNIFORM, 40, equal=0.0, p=0.0, gamma=40.0, clamp=0.0))
    apart = []
    for step in (22, 24, 26):  # alpha = exp(-2), exp(-4) and exp(-6), about
        _, slope, metrics = run(step)
        apart.append((float(metrics["alpha"][0]), float(jnp.abs(slope - expected).max())))
    alphas, errors = np.array(apart).T
    order = np.polyfit(np.log(alphas), np.log(errors), 1)[0]
    assert abs(order - 1) < 0.1, (order, apart)


@pytest.mark.extended
def test_an_alpha_below_the_digits_of_float32_is_0_whatever_clamp_is():
    """At the end of a steep fall alpha is 6e-9: x_r and r are x_t and t in float32, and nothing would be learned."""
    expected = losses_and_slope(objectives.mean_flow(UNIFORM, equal=0.0, p=0.0))(0)
    found = losses_and_slope(objectives.alpha_flow(UNIFORM, 40, equal=0.0, p=0.0, gamma=40.0, clamp=0.0))(39)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_alpha_is_the_published_sigmoid_and_is_clamped_at_both_ends():
    """1 - sigmoid(25 progress) of the authors' code, progress from -1/2 to 1/2; 0 below 0.005, and 1 above 0.995."""
    steps = np.arange(0, 1100, 25)

    def alphas(objective):
        run = lambda step: objective({"model": lambda x, t, c: x}, FLOW, KEYS, BATCH, step)[1]["alpha"]
        return np.asarray(jax.jit(jax.vmap(run))(steps))[:, 0]

    found = alphas(objectives.alpha_flow(UNIFORM, 1000))
    plain = 1 / (1 + np.exp(25 * (steps / 1000 - 0.5)))
    expected = np.where(plain < 0.005, 0, np.where(plain > 0.995, 1, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert set(found) >= {0.0, 0.5, 1.0}
    # Of a slow fall, the ends are a jump.
    found = alphas(objectives.alpha_flow(UNIFORM, 1000, start=0.2, end=0.8, gamma=2.0))
    plain = 1 / (1 + np.exp(2 * (steps - 500) / 600))
    np.testing.assert_allclose(found, np.where(steps < 200, 1, np.where(steps > 800, 0, plain)), rtol=1e-5)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"total": 0}, "total = 0"),
        ({"start": 0.5, "end": 0.5}, "start = 0.5 and end = 0.5"),
        ({"end": 1.1}, "end = 1.1"),
        ({"gamma": 0.0}, "gamma = 0.0"),
        ({"clamp": 0.5}, "clamp = 0.5"),
        ({"equal": 1.2}, "equal = 1.2"),
    ],
)
def test_settings_that_are_no_schedule_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        objectives.alpha_flow(UNIFORM, **{"total": 10, **wrong})
