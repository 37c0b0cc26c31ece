"""Samplers of flow maps: networks x_s = F(x_t, t, s) that jump along the probability flow from one time to another.

They take a `FlowMap` in place of a denoiser. With the exact map, each is exact in any number of steps: `flow_map`
follows the trajectory of the flow, and the others preserve every marginal.
"""

import jax.numpy as jnp

from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.flows.flow_maps import FlowMap
from diffusion.samplers.posterior import transition_variance
from diffusion.samplers.sample import Sampler, State, start


def flow_map() -> Sampler:
    """x_s = F(x_t, t, s): only jumps of the map, in one or a few steps.

    The `x0` of the trajectory are the samples x_s, since a map to s gives no estimate of x_0.

    Facts:
        kind: deterministic, flow map
        order: exact for an exact map
        nfe: steps
        accepts: flow maps, any schedule; plans that go up invert if the map does
        paper: Frans et al. 2024, "One Step Diffusion via Shortcut Models", algorithm 2; Geng et al. 2025, "Mean Flows
            for One-step Generative Modeling", eq. 12
    """

    def step(state, flow_map, schedule, plan, i, noise):
        x = flow_map(state.x, plan.t[i], plan.s[i])
        return State(x, x)

    return Sampler(start, step, draws=0, nfe=lambda steps: steps, takes=(FlowMap,))


def consistency(sigma_min: float = 0.0) -> Sampler:
    """Multistep consistency sampling: x0 = F(x_t, t, 0), then

        x_s = alpha_s x0 + sqrt(sigma_s^2 - alpha_s^2 sigma_min^2) z.

    In the literature on latent consistency models it is called LCM.

    Facts:
        kind: stochastic, flow map
        order: exact marginals for an exact map
        nfe: steps
        accepts: flow maps, any schedule
        paper: Song et al. 2023, "Consistency Models", algorithm 1; Luo et al. 2023, "Latent Consistency Models",
            multistep sampling

    Args:
        sigma_min: sigma / alpha at the end of the map, >= 0. The authors' maps end at their smallest noise level,
            0.002; 0 means that the map ends at the data.

    Raises:
        ValueError: if sigma_min is negative.
    """
    if not traced(sigma_min) and not sigma_min >= 0:
        raise ValueError(f"consistency: sigma_min = {sigma_min} must not be negative (0.002 in the authors' code)")

    def step(state, flow_map, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        x0 = flow_map(state.x, t, jnp.zeros_like(s))
        alpha = schedule.alpha(s)
        sigma = schedule.sigma(s)
        std = root(sigma**2 - (alpha * sigma_min) ** 2) if not is_number(sigma_min, 0) else sigma
        return State(alpha * x0 + std * noise[0], x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps, takes=(FlowMap,))


def tcd(gamma: float = 0.3) -> Sampler:
    """Trajectory consistency: a jump x_r = F(x_t, t, r) to r = (1 - gamma) s, then noise x_s ~ q(x_s | x_r).

    gamma = 0 is `flow_map`, gamma = 1 `consistency`. The `x0` of the trajectory are the x_r.

    Facts:
        kind: stochastic, deterministic at gamma = 0; flow map
        order: exact marginals for an exact map
        nfe: steps
        accepts: flow maps, any schedule
        paper: Zheng et al. 2024, "Trajectory Consistency Distillation", strategic stochastic sampling

    Args:
        gamma: share of stochasticity, in [0, 1]; 0.3 in the authors' code.

    Raises:
        ValueError: if gamma is not in [0, 1].
    """
    if not traced(gamma) and not 0 <= gamma <= 1:
        raise ValueError(f"tcd: gamma = {gamma} must be in [0, 1]; 0 is flow_map, 1 is consistency")
    if is_number(gamma, 0):
        return flow_map()

    def step(state, flow_map, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        r = (1 - gamma) * s
        x_r = flow_map(state.x, t, r)
        last = schedule.sigma(s) == 0
        std = root(transition_variance(schedule, jnp.where(last, t, s), jnp.where(last, t, r)))
        return State(schedule.alpha(s) / schedule.alpha(r) * x_r + jnp.where(last, 0, std) * noise[0], x_r)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps, takes=(FlowMap,))
