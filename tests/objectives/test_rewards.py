"""Rewards: one that is not finite makes the loss of its example alone not finite; and no gradient goes through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.objectives.rewards import advantages
from diffusion.objectives.rollouts import rollouts

FLOW = schedules.rectified_flow()
X0 = parameterizations.x0()
GRID = (1.0, 0.5, 0.0)
UNIFORM = timesteps.uniform_density(FLOW, t_min=0.1)
WEIGHTING = weightings.constant(X0)


def broken(x, condition):
    return jnp.where(jnp.arange(8) == 5, jnp.nan, x[:, 0])


MADE = {
    "adjoint_matching": lambda: objectives.adjoint_matching(X0, X0, WEIGHTING, GRID, broken, 1.0),
    "diffusion_nft": lambda: objectives.diffusion_nft(X0, WEIGHTING, UNIFORM, GRID, broken, 4),
    "policy_gradient": lambda: objectives.policy_gradient(X0, GRID, broken, 4),
    "reward_backpropagation": lambda: objectives.reward_backpropagation(X0, GRID, broken),
    "with_reward_weights": lambda: objectives.with_reward_weights(
        objectives.denoising(X0, WEIGHTING, UNIFORM), broken, 1.0
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_the_loss_of_its_example_alone_is_not_finite(name):
    networks = dict.fromkeys(("model", "target", "teacher"), lambda x, t, condition: 0.5 * x)
    objective = MADE[name]()
    keys = jax.random.split(jax.random.key(0), 8)
    losses = jax.jit(lambda keys: objective(networks, FLOW, keys, {"x": jnp.zeros((8, 1))}, 0)[0])(keys)
    np.testing.assert_array_equal(np.isfinite(losses), np.arange(8) != 5)


def test_no_gradient_goes_through_advantages_and_rollouts():
    weights = jnp.array([1.0, 2.0, 3.0, 5.0])
    of_rewards = lambda rewards: (weights * advantages(rewards, 2)).sum()
    np.testing.assert_array_equal(jax.grad(of_rewards)(jnp.array([0.1, 0.5, 0.2, 0.9])), 0)

    def of_network(gain):
        keys = jax.random.split(jax.random.key(0), 4)
        return rollouts(lambda x, t, condition: gain * x, FLOW, X0, GRID, samplers.ddim(), keys, (2,)).sum()

    assert of_network(0.5) != of_network(0.6) and jax.grad(of_network)(0.5) == 0
