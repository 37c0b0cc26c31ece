"""DiffusionNFT: the model moves towards samples with a reward above the mean, and away from the others."""

from collections.abc import Sequence

import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.inputs import condition_of_data, noised, output_weight, split, weigh, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective, Teacher
from diffusion.objectives.objective_facts import Beside, Examples
from diffusion.objectives.rewards import (
    CaptionReward,
    Reward,
    advantages,
    check_compared,
    metadata_of,
    repeat_in_groups,
    reward_of_pictures,
    rewarded,
)
from diffusion.objectives.rollouts import rollouts
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization, evaluate, predict
from diffusion.samplers.ddpm import ddim
from diffusion.samplers.sample import Sampler
from diffusion.timesteps import Density


def diffusion_nft(
    parameterization: Parameterization,
    weighting: Weighting,
    density: Density,
    grid: Sequence[float],
    reward: Reward | CaptionReward,
    group: int,
    teacher: Parameterization | None = None,
    sampler: Sampler | None = None,
    beta: float = 1.0,
    limit: float = 5.0,
    divergence: float = 0.0,
    deviation: bool = True,
) -> Objective:
    """Regresses two implicit models f+ and f- on the model's samples x_0, weighted by their rewards.

        loss = w(t) (p |f+ - y|^2 + (1 - p) |f- - y|^2 + divergence |f - f_ref|^2),
        f+ = f_old + beta (f - f_old),   f- = f_old - beta (f - f_old),   p = (1 + clip(A / limit, -1, 1)) / 2

    f is the output of the model and y its target at x_t = alpha x_0 + sigma eps. x_0 are samples, by any sampler, of
    the moving average "target", whose output is f_old. A are the advantages (`rewards.advantages`) within groups of
    consecutive examples, which all get the condition of the group's first example.

    Facts:
        loss: w(t) (p |f+ - y|^2 + (1 - p) |f- - y|^2 + divergence |f - f_ref|^2)
        networks: model, target (EMA of the model), teacher (the frozen reference, if divergence > 0)
        optimum: f_old + (2 / beta) Cov(p, y | x_t) in each round; without a divergence the largest reward. With one the
            fixed point is f_ref + (2 beta / divergence) Cov(p, y | x_t), which is p_ref(x) exp(beta r(x) / (divergence
            limit std r)) for Gaussians and a linear reward, but not a tilted distribution in general
        paper: Zheng et al. 2025, "DiffusionNFT: Online Diffusion Reinforcement with Forward Process", eq. 5 and theorem
            3.2; the authors' code divides each error by its size

    Args:
        parameterization: parameterization of the network "model".
        weighting: (schedule, t) -> weight on the squared error of x0.
        density: distribution of t.
        grid: `[N + 1]` times from t_max down to 0, on which the samples are generated. In a config it is the grid of
            config.sample.
        reward: (x_0 `[B, ...]`, condition of the data) -> rewards `[B]`, which need no derivative; or a
            `CaptionReward`.
        group: number of samples of one condition that are compared, at least 2.
        teacher: parameterization of the network "teacher", which is needed for divergence > 0.
        sampler: sampler that generates the samples; `ddim()` if None.
        beta: share of the model in f+, > 0; a smaller beta gives larger updates.
        limit: advantage, > 0, at which p reaches 1; at its negative p reaches 0. 5 in the authors' code.
        divergence: weight of the squared distance from the reference's output, >= 0.
        deviation: whether advantages are divided by the standard deviation of their group.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", "reward", and "moved", which is w(t)
        |f - f_old|^2.

    Raises:
        ValueError: if an argument is out of range, or divergence > 0 without a teacher; when called, if group does not
            divide the batch, if the grid does not lead from t_max to 0, and under the conditions of `rewards.rewarded`.
    """
    if not traced(beta, limit, divergence) and not (beta > 0 and limit > 0 and divergence >= 0):
        raise ValueError(
            f"diffusion_nft: beta = {beta} and limit = {limit} must be positive, and divergence = {divergence} must "
            "not be negative"
        )
    anchored = check_compared("diffusion_nft", group, "divergence", divergence, teacher)
    sampler = sampler or ddim()

    @entry(parameterization, teacher if anchored else None)
    def loss(networks, schedule, keys, batch, step):
        conditions = (batch.get("condition"), condition_of_data(batch), batch.get("metadata"))
        condition, wanted, metadata = repeat_in_groups(conditions, group)
        model, old = player(networks, "model"), frozen(networks, "target")
        way_keys, keys = split(keys, 2)
        way = rollouts(old, schedule, parameterization, grid, sampler, way_keys, batch["x"].shape[1:], condition)
        rewards = rewarded(reward_of_pictures(reward, networks, metadata), way[-1], wanted)
        p = (1 + jnp.clip(advantages(rewards, group, deviation) / limit, -1, 1)) / 2
        samples = {name: batch[name] for name in ("index", "density") if name in batch} | {"x": way[-1]}
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, samples)
        output, at = evaluate(model, schedule, parameterization, x_t, t, condition)
        before, _ = evaluate(old, schedule, parameterization, x_t, t, condition)
        weight = weigh(importance, output_weight(weighting, schedule, at, parameterization))
        y = parameterization.target(schedule, at, x_0, eps)
        moved = output - before
        above, below = (weighted_mean_square(weight, before + sign * beta * moved - y) for sign in (1, -1))
        losses = p * above + (1 - p) * below
        if anchored and teacher is not None:
            read = predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition)
            held = parameterization.target(schedule, at, read.x0, read.eps)  # as an output of the model
            losses = losses + divergence * weighted_mean_square(weight, output - held)
        return losses, {"t": t, "reward": rewards, "moved": weighted_mean_square(weight, moved)}

    examples = Examples(block=group)
    facts = {"density": density, "teacher": Teacher() if anchored else None, "examples": examples}
    return Objective(
        loss, reads=Denoises(parameterization), beside=Beside(pictures=True, metadata=metadata_of(reward)), **facts
    )
