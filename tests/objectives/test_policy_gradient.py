"""Policy gradients of Gaussian policies, whose mean reward and its derivative are closed forms."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules
from diffusion.objectives import rewards

FLOW = schedules.rectified_flow()
X0 = parameterizations.x0()
GRID = (1.0, 0.6, 0.3, 0.0)
NUMBER = 2**15


def network(theta):
    """An estimate of x_0 with a parameter for each of the steps that draw, and none for the last."""
    return lambda x, t, condition: 0.5 * x + jnp.where(t > 0.8, theta[0], jnp.where(t > 0.4, theta[1], 0.2))[:, None]


def moments(theta):
    """Mean and variance of x_0 by the steps of Flow-GRPO's equation, from its formulas: x_t = (1 - t) x_0 + t eps.

    The step from alpha = 0 draws q(x_s | x_0); the last returns x_0.
    """
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise(GRID):
        shift = 0.2 if s == 0 else theta[0] if t == 1 else theta[1]
        if t == 1:
            a, b, noise = (1 - s) * 0.5, (1 - s) * shift, s**2
        elif s == 0:
            a, b, noise = 0.5, shift, 0.0
        else:
            h, w = t - s, 0.49 * t / (1 - t)
            c = 1 + w / (2 * t)  # of eps = (x - (1 - t) x0) / t
            a = 1 - h * (-0.5 + c * (1 - (1 - t) * 0.5) / t)
            b = -h * (-shift - c * (1 - t) * shift / t)
            noise = w * h
        mean, variance = a * mean + b, a**2 * variance + noise
    return mean, variance


def mean_reward(theta):
    """E[0.7 x_0 - x_0^2], in float64."""
    mean, variance = moments(theta)
    return 0.7 * mean - mean**2 - variance


def objective(reward=lambda x, condition: (0.7 * x - x**2)[:, 0], group=8, **more):
    return objectives.policy_gradient(X0, GRID, reward, group, deviation=False, **more)


def gradients(theta, objective, old=None, number=NUMBER):
    """The gradient of each group's loss, `[groups, 2]`."""
    size = objective.examples.block
    keys = jax.random.split(jax.random.key(3), number).reshape(-1, size)

    def of_group(theta, keys):
        networks = {"model": network(theta), "teacher": network(jnp.array([0.3, -0.1]))}
        networks |= {} if old is None else {"target": network(old)}
        return objective(networks, FLOW, keys, {"x": jnp.zeros((size, 1))}, 0)[0].mean()

    return jax.jit(jax.vmap(jax.grad(of_group), (None, 0)))(theta, keys)


def within(values, expected):
    error = np.asarray(values).std(0) / len(values) ** 0.5
    assert (error < 0.05 * np.abs(expected).max()).all()
    np.testing.assert_allclose(np.asarray(values).mean(0), expected, atol=4.5 * error.max())


@pytest.mark.extended
@pytest.mark.parametrize("policy", ["model", "target"])
def test_the_gradient_is_that_of_the_mean_reward(policy):
    """By central differences of the closed form; the mean of the group takes 1 / group of it, the steps a half each."""
    theta = np.array([0.4, -0.3])
    expected = [(mean_reward(theta + d) - mean_reward(theta - d)) / 2e-4 for d in 1e-4 * np.eye(2)]
    old = jnp.asarray(theta) if policy == "target" else None
    values = gradients(jnp.asarray(theta), objective(policy=policy), old)
    within(values, -np.array(expected) * (1 - 1 / 8) / 2)


@pytest.mark.extended
def test_samples_of_an_older_policy_are_weighed_by_the_ratio():
    """The gradient at theta of samples of another theta: importance sampling, so that it is the same without a clip."""
    theta, old = np.array([0.4, -0.3]), jnp.array([0.38, -0.33])
    of_step = lambda i: lambda x: mean_reward([x, old[1]] if i == 0 else [old[0], x])
    # Each step's ratio stands alone: the other step's draws are the older policy's.
    expected = [(of_step(i)(theta[i] + 1e-4) - of_step(i)(theta[i] - 1e-4)) / 2e-4 for i in range(2)]
    values = gradients(jnp.asarray(theta), objective(policy="target", clip=1e3), old)
    within(values, -np.array(expected) * (1 - 1 / 8) / 2)


@pytest.mark.extended
@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_the_ratio_is_clipped_where_a_step_would_go_further(shift):
    """One draw, of known noise: rho = exp(d z - d^2 / 2), and no gradient beyond the clip on the advantage's side."""
    made = objectives.policy_gradient(
        X0, (1.0, 0.5, 0.0), lambda x, c: x[:, 0], 2, deviation=False, policy="target", clip=0.1
    )
    keys = jax.random.split(jax.random.key(0), 64)
    old = lambda x, t, c: jnp.where(t[:, None] > 0.8, 0.2, x)

    def losses_and_metrics(shifts):
        networks = {"model": lambda x, t, c: shifts + old(x, t, c), "target": old}
        return made(networks, FLOW, keys, {"x": jnp.zeros((64, 1))}, 0)

    total = lambda shifts: (lambda values: (values[0].sum(), values))(losses_and_metrics(shifts))
    slopes, (losses, metrics) = jax.jit(jax.grad(total, has_aux=True))(jnp.full((64, 1), shift))
    x = np.asarray(metrics["reward"])  # the middle, 0.5 * 0.2 + 0.5 z
    z, d = (x - 0.1) / 0.5, shift  # the mean moves by alpha shift, of std 0.5
    rho = np.exp(d * z - d**2 / 2)
    advantage = (x.reshape(-1, 2) - x.reshape(-1, 2).mean(1, keepdims=True)).ravel()
    expected = -np.minimum(rho * advantage, np.clip(rho, 0.9, 1.1) * advantage)
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(metrics["clipped"], np.abs(rho - 1) > 0.1)
    beyond = np.where(advantage > 0, rho > 1.1, rho < 0.9)
    assert (np.asarray(slopes)[:, 0] == 0).tolist() == beyond.tolist() and 0 < beyond.sum() < 64


def test_where_all_draws_are_clipped_their_share_is_one():
    """Of the two steps that draw; the third one, onto the data, has no part in it."""
    made = objectives.policy_gradient(
        X0, (1.0, 0.6, 0.3, 0.0), lambda x, c: x[:, 0], 2, policy="target", clip=1e-6, sampler=samplers.ddpm()
    )
    old = lambda x, t, c: 0.2 * x
    networks = {"model": lambda x, t, c: 0.3 + old(x, t, c), "target": old}
    _, metrics = made(networks, FLOW, jax.random.split(jax.random.key(0), 4), {"x": jnp.zeros((4, 1))}, 0)
    np.testing.assert_array_equal(metrics["clipped"], 1)


@pytest.mark.extended
def test_with_a_linear_reward_the_fixed_point_on_gaussians_is_the_tilted_one():
    """N(0, S) tilted by exp(g x / beta) is N(S g / beta, S).

    A step's mean moves by std^2 g (dx_0 / dx_s) / beta, with dx_0 / dx_s = Cov(x_0, x_s) / Var x_s of the reference.
    """
    variance, slope, beta, group = 0.6, 0.8, 0.5, 8

    def solution(steps):
        """The shifts of x0 in all steps but the last, and the mean of the samples."""
        grid = np.linspace(1, 0, steps + 1)
        t, s = grid[:-2], grid[1:-1]
        kept = 1 - (((1 - t) / t) / ((1 - s) / s)) ** 2
        std2, weight = s**2 * kept, (1 - s) * kept  # of q(x_s | x_t, x_0)
        to_data = (1 - s) * variance / ((1 - s) ** 2 * variance + s**2)
        moves = std2 * slope * to_data / beta
        return moves / weight, (moves * to_data).sum()

    assert solution(400)[1] == pytest.approx(variance * slope / beta, rel=0.02)
    steps = 6
    shifts, _ = solution(steps)
    grid = np.linspace(1, 0, steps + 1)

    def model(shifts):
        def apply(x, t, condition):
            shift = (jnp.abs(t[:, None] - grid[:-2]) < 0.01) @ shifts
            return (((1 - t) * variance / ((1 - t) ** 2 * variance + t**2)) * x[:, 0] + shift)[:, None]

        return apply

    # The mean of the group takes a share 1 / group of the reward.
    made = objectives.policy_gradient(
        X0, grid, lambda x, c: slope * x[:, 0] / (1 - 1 / group), group, X0, samplers.ddpm(), 0.2, beta, deviation=False
    )

    def of_group(shifts, keys):
        networks = {"model": model(shifts), "teacher": model(jnp.zeros(steps - 1))}
        return made(networks, FLOW, keys, {"x": jnp.zeros((group, 1))}, 0)[0].mean()

    keys = jax.random.split(jax.random.key(5), NUMBER).reshape(-1, group)
    slopes = jax.jit(jax.vmap(jax.grad(of_group), (None, 0)))
    at_solution, at_reference = (np.asarray(slopes(jnp.asarray(x), keys)) for x in (shifts, 0 * shifts))
    error = at_solution.std(0) / len(at_solution) ** 0.5
    assert (np.abs(at_solution.mean(0)) < 4.5 * error).all()
    assert (np.abs(at_reference.mean(0)) > 20 * error).all()


@pytest.mark.extended
def test_the_divergence_is_exact_in_each_step():
    """KL of two Gaussians of one variance: (shift of the mean)^2 / (2 variance), in both steps that draw.

    The reference has another parameterization: its velocity is (x - x_0) / t.
    """
    theta, reference = np.array([0.4, -0.3]), np.array([0.3, -0.1])
    made = objective(lambda x, condition: 0 * x[:, 0], teacher=parameterizations.velocity(), beta=0.6)
    velocity = lambda x, t, condition: (x - network(jnp.asarray(reference))(x, t, condition)) / t[:, None]
    networks = {"model": network(jnp.asarray(theta)), "teacher": velocity}
    keys = jax.random.split(jax.random.key(0), 8)
    losses, metrics = made(networks, FLOW, keys, {"x": jnp.zeros((8, 1))}, 0)
    first = ((1 - 0.6) * (theta - reference)[0]) ** 2 / (2 * 0.6**2)
    h, w = 0.3, 0.49 * 0.6 / 0.4
    slope = h * (1 + (1 + w / (2 * 0.6)) * 0.4 / 0.6)
    second = (slope * (theta - reference)[1]) ** 2 / (2 * w * h)
    np.testing.assert_allclose(metrics["kl"], first + second, rtol=1e-4)
    np.testing.assert_allclose(losses, 0.6 * (first + second) / 2, rtol=1e-4)
    assert made.teacher is not None and objective().teacher is None


def test_the_ratio_and_the_divergence_are_of_all_numbers_of_an_example():
    """One draw, N(c / 2, I / 4) of six numbers: rho = exp(d . z - |d|^2 / 2), KL = |c - c_ref|^2 / 2."""
    old, shift, reference = 0.3 * np.random.default_rng(0).standard_normal((3, 2, 3))
    seen = []
    made = objectives.policy_gradient(
        X0,
        (1.0, 0.5, 0.0),
        lambda x, c: seen.append(x) or x[:, 0, 1] - x[:, 1, 2],
        2,
        X0,
        None,
        1e3,
        0.4,
        False,
        "target",
    )
    constant = lambda c: lambda x, t, condition: jnp.where(t[:, None, None] > 0.8, jnp.float32(c), x)
    networks = {"model": constant(old + shift), "target": constant(old), "teacher": constant(reference)}
    keys = jax.random.split(jax.random.key(0), 6)
    losses, metrics = made(networks, FLOW, keys, {"x": jnp.zeros((6, 2, 3))}, 0)
    z = (np.asarray(seen[0]) - old / 2) / 0.5
    rho = np.exp((shift * z).sum((1, 2)) - (shift**2).sum() / 2)
    pairs = np.asarray(metrics["reward"]).reshape(3, 2)
    divergence = ((old + shift - reference) ** 2).sum() / 2
    np.testing.assert_allclose(metrics["kl"], divergence, rtol=1e-4)
    np.testing.assert_allclose(
        losses, 0.4 * divergence - rho * (pairs - pairs.mean(1, keepdims=True)).ravel(), rtol=1e-4
    )


@pytest.mark.extended
def test_groups_have_one_condition_and_statistics_of_their_own():
    r = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    expected = (r - r.mean(1, keepdims=True)) / r.std(1, keepdims=True)
    np.testing.assert_allclose(rewards.advantages(jnp.asarray(r.ravel()), 4), expected.ravel(), rtol=1e-3)
    seen = []

    def reward(x, condition):
        seen.append(condition)
        return x[:, 0]

    networks = {"model": lambda x, t, condition: 0.5 * x}
    keys = jax.random.split(jax.random.key(0), 8)
    batch = {"x": jnp.zeros((8, 1)), "condition": {"label": jnp.arange(8), "text": jnp.arange(16).reshape(8, 2)}}
    objective(reward, group=4)(networks, FLOW, keys, batch, 0)
    np.testing.assert_array_equal(seen[0]["label"], [0, 0, 0, 0, 4, 4, 4, 4])
    np.testing.assert_array_equal(seen[0]["text"], [[0, 1]] * 4 + [[8, 9]] * 4)
    poisoned = jnp.asarray(r.ravel()).at[5].set(jnp.nan)
    np.testing.assert_array_equal(np.isnan(rewards.advantages(poisoned, 4)), np.arange(12) == 5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"group": 1}, "group = 1 must be at least 2"),
        ({"clip": 0.0}, "clip = 0.0 must be positive"),
        ({"beta": -1.0}, r"beta = -1\.0 must not be negative"),
        ({"beta": 0.1}, r"beta = 0\.1 needs a reference"),
        ({"policy": "teacher"}, "policy = 'teacher'. Valid: model, target"),
        ({"sampler": samplers.ddpm("learned")}, r"variance depends on the network.*Valid: .* ddpm\('small'\)"),
    ],
)
def test_what_is_out_of_range_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        objectives.policy_gradient(X0, GRID, objectives.near_value(0.0), **{"group": 4} | fields)


def test_a_single_step_to_the_data_has_no_likelihood():
    with pytest.raises(ValueError, match=r"draws nothing.*at least 2 steps"):
        objectives.policy_gradient(X0, (1.0, 0.0), objectives.near_value(0.0), 4)


def test_what_does_not_fit_a_batch_is_refused():
    networks = {"model": lambda x, t, condition: 0.5 * x}
    keys, batch = jax.random.split(jax.random.key(0), 6), {"x": jnp.zeros((6, 1))}
    with pytest.raises(ValueError, match=r"a batch \(or micro-batch\) of 6 is not a multiple of block = 4"):
        objective(group=4)(networks, FLOW, keys, batch, 0)
    with pytest.raises(ValueError, match=r"policy_gradient weighs each step by the Gaussian.*draws 0 noise arrays"):
        objective(group=2, sampler=samplers.ddim())(networks, FLOW, keys, batch, 0)
    with pytest.raises(ValueError, match=r"the reward of example 2 is nan\. Valid: finite rewards"):
        objective(lambda x, c: jnp.where(jnp.arange(6) == 2, jnp.nan, x[:, 0]), group=2)(networks, FLOW, keys, batch, 0)


def test_the_gain_of_a_path_is_the_clipped_ratio_of_its_steps_densities(monkeypatch):
    """By a known path and normal steps around 1.3 x, of the policy around 1.1 x and of the teacher around 1.6 x.

    The last step draws nothing. The rewards are the ends, and a group has two examples.
    """
    module = importlib.import_module("diffusion.objectives.policy_gradient")
    way = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    stds = jnp.array([0.5, 0.8, 0.0])
    step = lambda sampler, prediction, schedule, x, steps, i: (prediction.x0 + x, stds[i])
    monkeypatch.setattr(module, "rollouts", lambda *arguments: jnp.asarray(way))
    monkeypatch.setattr(module, "gaussian_step", step)
    linear = lambda share: lambda x, t, condition: share * x
    players = {"model": linear(0.3), "target": linear(0.1), "teacher": linear(0.6)}
    objective = objectives.policy_gradient(
        X0, GRID, lambda x, condition: x[:, 0], 2, X0, policy="target", clip=0.2, beta=0.25
    )
    keys, batch = jax.random.split(jax.random.key(0), 6), {"x": jnp.zeros((6, 2))}
    losses, metrics = jax.jit(lambda: objective(players, FLOW, keys, batch, 0))()
    rewards = np.float64(way[-1][:, 0]).reshape(3, 2)
    advantage = ((rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True) + 1e-4)).ravel()
    gain = kl = clipped = 0.0
    for i, std in ((0, 0.5), (1, 0.8)):
        x, x_s = np.float64(way[i]), np.float64(way[i + 1])
        log = lambda share, x=x, x_s=x_s, std=std: -np.sum((x_s - (1 + share) * x) ** 2, 1) / (2 * std**2)
        ratio = np.exp(log(0.3) - log(0.1))
        gain = gain + np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
        clipped = clipped + (np.abs(ratio - 1) > 0.2)
        kl = kl + np.sum((0.3 * x) ** 2, 1) / (2 * std**2)
    np.testing.assert_allclose(losses, (0.25 * kl - gain) / 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-3)
    np.testing.assert_allclose(metrics["clipped"], clipped / 2)
    np.testing.assert_allclose(metrics["reward"], way[-1][:, 0])
    assert 0 < clipped.sum() < 12
