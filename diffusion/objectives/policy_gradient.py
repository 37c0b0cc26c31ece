"""Policy gradients for samplers whose steps are Gaussian draws with a known likelihood."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player, sum_square
from diffusion.objectives.inputs import condition_of_data
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
from diffusion.parameterizations import Parameterization, predict
from diffusion.samplers.gaussian_steps import check_gaussian, gaussian_step
from diffusion.samplers.sample import Sampler
from diffusion.samplers.stochastic_interpolant import interpolant_sde
from diffusion.timesteps import plan

POLICIES = ("model", "target")


def policy_gradient(
    parameterization: Parameterization,
    grid: Sequence[float],
    reward: Reward | CaptionReward,
    group: int,
    teacher: Parameterization | None = None,
    sampler: Sampler | None = None,
    clip: float = 0.2,
    beta: float = 0.0,
    deviation: bool = True,
    policy: str = "model",
) -> Objective:
    """Flow-GRPO and DDPO: raises the likelihood of each step of a sample in proportion to the sample's advantage.

        loss = mean over steps of -min(rho A, clip(rho, 1 - c, 1 + c) A) + beta KL,
        rho = p(x_s | x_t) / p_old(x_s | x_t),   KL = |mu - mu_ref|^2 / (2 std^2),   A as `rewards.advantages`

    Samples come from p_old: the current model (then rho = 1, and clipping has no effect), or its moving average,
    "target". A group consists of `group` consecutive examples, which all get the condition of the first one. A
    deterministic step, such as the step to sigma = 0, has no likelihood; it counts as a part of the reward.

    Facts:
        loss: -min(rho A, clip(rho) A) + beta |mu - mu_ref|^2 / (2 std^2), a mean over steps
        networks: model, target (as the policy), teacher (the frozen reference, if beta > 0)
        optimum: for beta = 0 the largest reward; else p_ref(x) exp(r(x) / (beta std r)) in the limit of small steps, if
            x_0 does not depend on x_T and KL does not depend on x_t, as for Gaussians and a linear r. In general the
            optimum differs, because the paper's KL does not enter the advantage of the draws that lead to it
        paper: Liu et al. 2025, "Flow-GRPO: Training Flow Matching Models via Online RL", eq. 4 to 9, whose code takes
            means over D numbers for log rho and KL; Black et al. 2023, "Training Diffusion Models with Reinforcement
            Learning", section 4.3, for `ddpm` and `ddim(1)`

    Args:
        parameterization: parameterization of the network "model".
        grid: `[N + 1]` times from t_max down to 0. In a config it is the grid of config.sample (grid, steps, shift).
        reward: (x_0 `[B, ...]`, condition of the data) -> rewards `[B]`, which need no derivative; or a
            `CaptionReward`.
        group: number of samples of one condition that are compared, at least 2.
        teacher: parameterization of the network "teacher", which is needed for beta > 0.
        sampler: sampler whose step is one Gaussian draw; Flow-GRPO's `interpolant_sde("flow_grpo", 0.49)` if None.
        clip: clipping range c of the ratio rho, > 0.
        beta: weight of the KL divergence from the reference, which is exact in each step, >= 0.
        deviation: whether advantages are divided by the standard deviation of their group.
        policy: network that generates the samples, "model" or "target".

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics, `[B]` each: "t", the first time; "reward"; "kl", the
        divergence of a whole trajectory; and "clipped", the share of its steps in which the ratio is out of range.

    Raises:
        ValueError: if an argument is out of range, the policy is unknown, beta > 0 without a teacher, the grid has a
            single step to the data, or the sampler's step is not a Gaussian draw with a fixed variance; when called, if
            group does not divide the batch, if the grid does not lead from t_max to 0, and under the conditions of
            `rewarded`.
    """
    if not traced(clip, beta) and not (clip > 0 and beta >= 0):
        raise ValueError(f"policy_gradient: clip = {clip} must be positive, and beta = {beta} must not be negative")
    if policy not in POLICIES:
        raise ValueError(f"policy_gradient: policy = {policy!r}. Valid: {', '.join(POLICIES)}")
    anchored = check_compared("policy_gradient", group, "beta", beta, teacher)
    steps = plan(np.asarray(grid))
    if len(steps.t) == 1 and steps.s[0] == 0:
        raise ValueError(
            "policy_gradient: the only step of the grid ends at the data and draws nothing, so it has no likelihood. "
            "Valid: at least 2 steps"
        )
    sampler = sampler or interpolant_sde("flow_grpo", 0.49)
    if sampler.reads_variance:
        raise ValueError(
            "policy_gradient: the sampler's variance depends on the network, but the ratio of likelihoods is that of "
            "two means. Valid: a sampler with a fixed variance, e.g. ddpm('small')"
        )

    @entry(parameterization, teacher if anchored else None)
    def loss(networks, schedule, keys, batch, step):
        check_gaussian("policy_gradient weighs", sampler, schedule, batch["x"], steps)
        conditions = (batch.get("condition"), condition_of_data(batch), batch.get("metadata"))
        condition, wanted, metadata = repeat_in_groups(conditions, group)
        old, model = frozen(networks, policy), player(networks, "model")
        reference = frozen(networks, "teacher") if anchored else None
        way = rollouts(old, schedule, parameterization, grid, sampler, keys, batch["x"].shape[1:], condition)
        rewards = rewarded(reward_of_pictures(reward, networks, metadata), way[-1], wanted)
        advantage = advantages(rewards, group, deviation)
        zeros = jnp.zeros(keys.shape, way.dtype)
        typed = steps._replace(t=jnp.asarray(steps.t, way.dtype), s=jnp.asarray(steps.s, way.dtype))

        def drawn(x, network, i, parameterization=parameterization):
            prediction = predict(network, schedule, parameterization, x, typed.t[i], condition)
            return gaussian_step(sampler, prediction, schedule, x, typed, i)

        @jax.checkpoint
        def gain_and_kl(i):
            x, x_s = way[i], way[i + 1]
            mean, std = drawn(x, model, i)
            draws = std > 0
            scaled = lambda difference: jnp.where(draws, difference / jnp.where(draws, std, 1), 0)
            before = jax.lax.stop_gradient(mean) if policy == "model" else drawn(x, old, i)[0]
            moved, noise = scaled(mean - before), scaled(x_s - before)
            total = lambda a: jnp.sum(a, axis=tuple(range(1, a.ndim)))
            ratio = jnp.exp(total(moved * noise) - sum_square(moved) / 2)
            gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
            kl = zeros
            if anchored and teacher is not None:
                kl = sum_square(scaled(mean - drawn(x, reference, i, teacher)[0])) / 2
            counts = jnp.any(draws)
            clipped = counts & (jnp.abs(ratio - 1) > clip)
            return jnp.where(counts, gain, 0), kl, counts.astype(way.dtype), clipped.astype(way.dtype)

        def add(sums, i):
            return jax.tree.map(jnp.add, sums, gain_and_kl(i)), None

        sums, _ = jax.lax.scan(add, (zeros, zeros, jnp.zeros([], way.dtype), zeros), jnp.arange(len(steps.t)))
        gain, kl, number, clipped = sums
        metrics = {"t": jnp.full(keys.shape, steps.t[0], way.dtype), "reward": rewards, "kl": kl}
        return (beta * kl - gain) / number, metrics | {"clipped": clipped / number}

    examples = Examples(block=group)
    facts = {
        "teacher": Teacher() if anchored else None,
        "examples": examples,
        "beside": Beside(pictures=True, metadata=metadata_of(reward)),
    }
    return Objective(loss, reads=Denoises(parameterization), **facts)
