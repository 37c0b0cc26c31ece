"""The ends of the grids on which objectives generate samples: the prior belongs to t_max, and the data to 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from diffusion.objectives import rollouts

FLOW = schedules.rectified_flow()
V, X0 = parameterizations.v(), parameterizations.x0()
REWARD = objectives.near_value(0.3)
UNIFORM = timesteps.uniform_density(FLOW)
RATE = weightings.constant(V)
OBJECTIVES = {
    "policy_gradient": lambda grid: objectives.policy_gradient(X0, grid, REWARD, 2),
    "diffusion_nft": lambda grid: objectives.diffusion_nft(V, RATE, UNIFORM, grid, REWARD, 2),
    "adjoint_matching": lambda grid: objectives.adjoint_matching(X0, X0, weightings.constant(X0), grid, REWARD, 1.0),
    "reward_backpropagation": lambda grid: objectives.reward_backpropagation(V, grid, REWARD, 1),
    "trajectory_regression": lambda grid: objectives.trajectory_regression(X0, X0, grid, 1, 1),
}


def called(make, grid):
    """The loss of two examples of two frames."""
    networks = dict.fromkeys(("model", "target", "teacher"), lambda x, t, condition: 0.5 * x)
    keys, batch = jax.random.split(jax.random.key(0), 2), {"x": jnp.zeros((2, 2, 1))}
    return jax.eval_shape(lambda keys: make(grid)(networks, FLOW, keys, batch, 0), keys)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_grid_that_does_not_lead_from_the_prior_to_the_data_is_refused(name):
    called(OBJECTIVES[name], (1.0, 0.5, 0.0))
    with pytest.raises(ValueError, match=r"begins at t = 0\.7, where .* t_max = 1\."):
        called(OBJECTIVES[name], (0.7, 0.5, 0.0))
    with pytest.raises(ValueError, match=r"(ends at t = |from 1 to )0\.1"):
        called(OBJECTIVES[name], (1.0, 0.5, 0.1))


def test_pairs_belong_to_the_noise_of_the_prior():
    denoise = parameterizations.denoiser(lambda x, t, condition: 0.5 * x, FLOW, V)
    with pytest.raises(ValueError, match=r"begins at t = 0\.7"):
        objectives.reflow_pairs(denoise, FLOW, timesteps.plan([0.7, 0.0]), jax.random.split(jax.random.key(0), 2), (1,))


def test_a_grid_begins_where_alpha_and_the_noise_are_nearly_those_of_the_end():
    """alpha = 1 - t and sigma = t; leading grids of a discrete process; half the noise of an EDM grid is too little."""
    check = lambda schedule, t: rollouts.check_ends(schedule, timesteps.plan([t, 0.0]))
    discrete, edm = schedules.scaled_linear(), schedules.edm()
    for schedule, t in ((FLOW, 0.901), (discrete, 0.981), (edm, 0.91), (schedules.cosine(), 0.95)):
        check(schedule, t)
    leading = timesteps.leading(discrete, 50, 1000)
    assert leading[0] == pytest.approx(0.981)
    for schedule, t in ((FLOW, 0.89), (edm, 0.5), (schedules.cosine(), 0.9), (schedules.ending_at(edm, 0.5), 0.4)):
        with pytest.raises(ValueError, match="the noise differs from the prior"):
            check(schedule, t)
    jax.eval_shape(lambda end: check(schedules.ending_at(edm, end), 0.4), np.float32(1.0))  # traced: no value yet
