"""A reward that is not finite, in a compiled step: the loss of its example alone is not finite, which names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings

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
