"""Reward backpropagation: the gradient of a sample's reward flows back through the last sampling steps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.inputs import condition_of_data, split
from diffusion.objectives.objective import Denoises, Objective
from diffusion.objectives.objective_facts import Beside
from diffusion.objectives.rewards import CaptionReward, Reward, metadata_of, reward_of_pictures, rewarded
from diffusion.objectives.rollouts import check_ends
from diffusion.parameterizations import Parameterization, denoiser
from diffusion.samplers.ddpm import ddim
from diffusion.samplers.sample import Sampler, loop, prior
from diffusion.timesteps import plan


def reward_backpropagation(
    parameterization: Parameterization,
    grid: Sequence[float],
    reward: Reward | CaptionReward,
    last: int = 1,
    sampler: Sampler | None = None,
) -> Objective:
    """DRaFT-K: maximises the reward of a sample, differentiated through the last K steps of the sampler.

        x_T ~ prior,   x_{T-1}, ..., x_0 by the sampler,   loss = -r(x_0),   with x_K taken as a constant

    K = N gives the full gradient of E r(x_0). Memory holds the activations of one step at a time. The loss does not
    keep the network near the initial model, so train a LoRA (`config.tuning`), or stop early. The data define only the
    conditions.

    Facts:
        loss: -r(x_0)
        networks: model
        optimum: samples with the largest reward, whatever the data
        paper: Clark et al. 2024, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards", algorithm 1;
            Prabhudesai et al. 2023, "Aligning Text-to-Image Diffusion Models with Reward Backpropagation"

    Args:
        parameterization: parameterization of the network "model".
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        reward: (x_0 `[B, ...]`, condition of the data) -> rewards `[B]`, differentiable.
        last: number K of steps with a gradient, in [1, N].
        sampler: sampler that generates the samples; `ddim()` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`, the time of the first step with a gradient,
        and "reward" `[B]`.

    Raises:
        ValueError: if last is not in [1, N]; when called, if the grid does not lead from t_max to 0, and under the
            conditions of `rewarded`.
    """
    steps = plan(np.asarray(grid))
    number = len(steps.t)
    if not 1 <= last <= number:
        raise ValueError(
            f"reward_backpropagation: last = {last}, but the grid has {number} steps. Valid: 1 to {number}"
        )
    sampler = sampler or ddim()

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        check_ends(schedule, steps)
        starts, draws = split(keys, 2)
        condition = batch.get("condition")
        noise = prior(schedule, starts, batch["x"].shape[1:])

        def way(network):
            return loop(sampler, denoiser(network, schedule, parameterization, condition), schedule, steps, draws)

        def stepped(run, first, end, carry):
            step = jax.checkpoint(run.step)
            return jax.lax.scan(lambda carry, i: (step(carry, i), None), carry, jnp.arange(first, end))[0]

        fixed = way(frozen(networks, "model"))
        carry = fixed.init(noise)
        if last < number:
            carry = stepped(fixed, 0, number - last, carry)
        carry = stepped(way(player(networks, "model")), number - last, number, carry)
        decoded_reward = reward_of_pictures(reward, networks, batch.get("metadata"))
        rewards = rewarded(decoded_reward, carry[0].x, condition_of_data(batch))
        return -rewards, {"t": jnp.full(keys.shape, steps.t[number - last], noise.dtype), "reward": rewards}

    return Objective(loss, reads=Denoises(parameterization), beside=Beside(pictures=True, metadata=metadata_of(reward)))
