"""Reward-weighted regression: an objective in which examples with a larger reward count more."""

import dataclasses

import jax

from diffusion.arrays.not_a_number import exponential
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import condition_of_data
from diffusion.objectives.objective import Objective, check_objective
from diffusion.objectives.rewards import CaptionReward, Reward, metadata_of, reward_of_pictures, rewarded


def with_reward_weights(
    objective: Objective, reward: Reward | CaptionReward, beta: float, baseline: float = 0.0
) -> Objective:
    """Reward-weighted regression: an objective in which examples with a larger reward count more.

        loss = exp((r(x_0, c) - baseline) / beta) l(x_0, c)

    The weights tilt the distribution of the data: a model that is trained on samples of a reference learns the tilted
    reference. A model that is trained for k rounds, each time on its own samples, learns p(x) exp(k r(x) / beta); in
    the limit it generates only samples with the largest reward.

    Facts:
        loss: exp((r(x_0) - baseline) / beta) times the wrapped objective's
        networks: the wrapped objective's
        optimum: exactly the wrapped objective's for the tilted data, p(x | c) exp(r(x, c) / beta) / Z(c)
        paper: Peters and Schaal 2007, "Reinforcement Learning by Reward-Weighted Regression for Operational Space
            Control"; for diffusion Lee et al. 2023, "Aligning Text-to-Image Models using Human Feedback"

    Args:
        objective: the objective to wrap, whose examples must be independent.
        reward: (x_0 `[B, ...]`, condition of the data) -> rewards `[B]`.
        beta: temperature, > 0.
        baseline: reward at which the weight is 1; if it is the largest reward, all weights are at most 1.

    Returns:
        An objective with the metrics of the wrapped one, "reward" `[B]` and "weight" `[B]`.

    Raises:
        ValueError: if beta is not positive, the objective compares examples with each other, or both the reward and the
            objective read metadata of captions.
    """
    check_objective(objective)
    if not traced(beta) and not beta > 0:
        raise ValueError(f"reward weights: beta = {beta} must be positive")
    if objective.beside.metadata and metadata_of(reward):
        raise ValueError("reward weights: the objective has a reward of captions already. Valid: one of them")
    if objective.examples.block != 1:
        raise ValueError(
            "reward weights: the objective compares examples with each other, so its losses cannot be weighted one by "
            "one. Valid: an objective without a coupling or a term over blocks"
        )

    @entry(entries=None)
    def weighted(networks, schedule, keys, batch, step):
        losses, metrics = objective(networks, schedule, keys, batch, step)
        decoded_reward = reward_of_pictures(reward, networks, batch.get("metadata"))
        rewards = rewarded(decoded_reward, batch["x"], condition_of_data(batch))
        rewards = jax.lax.stop_gradient(rewards)
        weight = exponential((rewards - baseline) / beta)
        return weight * losses, {**metrics, "reward": rewards, "weight": weight}

    beside = objective.beside._replace(pictures=True, metadata=metadata_of(reward) or objective.beside.metadata)
    facts = {"examples": objective.examples._replace(real=False), "beside": beside}
    return dataclasses.replace(objective, loss=weighted, **facts)
