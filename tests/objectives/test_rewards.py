"""Rewards: what they receive, no gradient through them, and one that is not finite in the loss of its example alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.objectives.rewards import advantages, reward_of_pictures
from diffusion.objectives.rollouts import rollouts

FLOW = schedules.rectified_flow()
X0 = parameterizations.x0()
GRID = (1.0, 0.5, 0.0)
UNIFORM = timesteps.uniform_density(FLOW, t_min=0.1)
WEIGHTING = weightings.constant(X0)


def broken(x, condition, value=jnp.nan):
    return jnp.where(jnp.arange(8) == 5, value, x[:, 0])


PLAIN = objectives.denoising(X0, WEIGHTING, UNIFORM)
MADE = {
    "adjoint_matching": lambda reward, grid=GRID: objectives.adjoint_matching(X0, X0, WEIGHTING, grid, reward, 1.0),
    "diffusion_nft": lambda reward, grid=GRID: objectives.diffusion_nft(X0, WEIGHTING, UNIFORM, grid, reward, 4),
    "policy_gradient": lambda reward, grid=GRID: objectives.policy_gradient(X0, grid, reward, 4),
    "reward_backpropagation": lambda reward, grid=GRID: objectives.reward_backpropagation(X0, grid, reward, 2),
    "with_reward_weights": lambda reward: objectives.with_reward_weights(PLAIN, reward, 1.0),
}
NETWORKS = dict.fromkeys(("model", "target", "teacher"), lambda x, t, condition: 0.5 * x)
KEYS = jax.random.split(jax.random.key(0), 8)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.extended
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_loss_of_its_example_alone_is_not_finite(name, value):
    objective = MADE[name](functools.partial(broken, value=value))
    losses = jax.jit(lambda keys: objective(NETWORKS, FLOW, keys, {"x": jnp.zeros((8, 1))}, 0)[0])(KEYS)
    np.testing.assert_array_equal(np.isfinite(losses), np.arange(8) != 5)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in MADE if name != "with_reward_weights"])
def test_the_rollout_and_the_losses_are_one_program_without_a_loop_over_steps(name):
    """The networks are traced as often for 30 steps as for 3."""
    counts = []
    for steps in (3, 30):
        calls = []
        network = lambda x, t, condition, calls=calls: calls.append(1) or 0.5 * x
        networks = dict.fromkeys(("model", "target", "teacher"), network)
        made = MADE[name](objectives.near_value(0.5), np.linspace(1, 0, steps + 1))
        run = lambda keys, made=made, networks=networks: made(networks, FLOW, keys, {"x": jnp.zeros((8, 1))}, 0)[0]
        jax.eval_shape(run, KEYS)
        counts.append(len(calls))
    assert 0 < counts[0] == counts[1] <= 8


@pytest.mark.extended
@pytest.mark.parametrize("name", MADE)
def test_a_reward_of_captions_receives_their_facts(name):
    """Of the example itself, or in groups of the first one, whose condition all of a group have."""
    facts_of = lambda caption: {"length": np.float32(len(caption))}
    reward = objectives.CaptionReward(
        lambda x, condition, facts: 10 * facts["length"] + condition + 0 * x[:, 0], facts_of
    )
    objective = MADE[name](reward)
    assert objective.beside.metadata is facts_of and MADE[name](broken).beside.metadata is None
    batch = {"x": jnp.zeros((8, 1)), "condition": jnp.arange(8.0)}
    metrics = objective(NETWORKS, FLOW, KEYS, batch | {"metadata": {"length": 1 + jnp.arange(8.0)}}, 0)[1]
    row = np.arange(8) // 4 * 4 if objective.examples.block == 4 else np.arange(8)
    np.testing.assert_allclose(metrics["reward"], 10 * (1 + row) + row)
    with pytest.raises(ValueError, match=r'the reward reads captions, whose facts the batch lacks\. Valid: "metadata"'):
        objective(NETWORKS, FLOW, KEYS, batch, 0)


@pytest.mark.parametrize("name", MADE)
def test_a_reward_receives_the_datas_condition_where_the_network_has_another(name):
    """As after a dropout of conditions, where a class of the data is rewarded and the null class is none."""
    objective = MADE[name](lambda x, condition: condition + 0 * x[:, 0])
    batch = {"x": jnp.zeros((8, 1)), "condition": jnp.full(8, 9.0), "data_condition": jnp.arange(8.0)}
    metrics = jax.jit(lambda keys: objective(NETWORKS, FLOW, keys, batch, 0)[1])(KEYS)
    row = np.arange(8) // 4 * 4 if objective.examples.block == 4 else np.arange(8)
    np.testing.assert_array_equal(metrics["reward"], row)


@pytest.mark.parametrize(
    "made",
    [
        objectives.diffusion_nft(X0, WEIGHTING, UNIFORM, GRID, objectives.near_value(0.3), 4, X0, divergence=0.1),
        objectives.policy_gradient(X0, GRID, objectives.near_value(0.3), 4, X0, beta=0.1, policy="target"),
    ],
    ids=["diffusion_nft", "policy_gradient"],
)
def test_every_network_has_the_condition_of_the_first_example_of_a_group(made):
    seen = []
    noted = lambda player: lambda x, t, condition: seen.append((player, np.asarray(condition))) or 0.5 * x
    networks = {player: noted(player) for player in ("model", "target", "teacher")}
    made(networks, FLOW, KEYS, {"x": jnp.zeros((8, 1)), "condition": jnp.arange(8)}, 0)
    assert {player for player, _ in seen} == set(networks)
    for _, condition in seen:
        np.testing.assert_array_equal(condition, [0, 0, 0, 0, 4, 4, 4, 4])


def test_two_rewards_of_captions_are_refused_and_either_is_kept():
    reward = objectives.CaptionReward(lambda x, condition, facts: facts["n"], lambda caption: {"n": 0.0})
    tuned = objectives.reward_backpropagation(X0, GRID, reward)
    with pytest.raises(ValueError, match="the objective has a reward of captions already"):
        objectives.with_reward_weights(tuned, reward, 1.0)
    assert objectives.with_reward_weights(tuned, broken, 1.0).beside.metadata is reward.metadata


def test_a_reward_of_captions_sees_pictures():
    reward = objectives.CaptionReward(lambda x, condition, facts: x[:, 0] + condition + facts["n"], dict)
    seen = reward_of_pictures(reward, {"pictures": lambda x: 3 * x}, {"n": jnp.array([100.0, 200.0])})
    np.testing.assert_allclose(seen(jnp.array([[1.0], [2.0]]), jnp.array([10.0, 20.0])), [113, 226])


def test_a_group_of_equal_rewards_has_no_advantages():
    """The other group's two are a deviation of 1 away from its mean, which grows by 1e-4."""
    np.testing.assert_allclose(advantages(jnp.array([2.0, 2.0, 1.0, 3.0]), 2), [0, 0, -1 / 1.0001, 1 / 1.0001])


def test_no_gradient_goes_through_advantages_and_rollouts():
    weights = jnp.array([1.0, 2.0, 3.0, 5.0])
    of_rewards = lambda rewards: (weights * advantages(rewards, 2)).sum()
    np.testing.assert_array_equal(jax.grad(of_rewards)(jnp.array([0.1, 0.5, 0.2, 0.9])), 0)

    def of_network(gain):
        keys = jax.random.split(jax.random.key(0), 4)
        return rollouts(lambda x, t, condition: gain * x, FLOW, X0, GRID, samplers.ddim(), keys, (2,)).sum()

    assert of_network(0.5) != of_network(0.6) and jax.grad(of_network)(0.5) == 0
