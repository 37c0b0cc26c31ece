"""Sampling of sequences whose frames are at different times."""

import jax
import jax.numpy as jnp

from diffusion.flows.flow_maps import FlowMap
from diffusion.samplers.sample import Sampler, State, check_sampler, start
from diffusion.timesteps import Plan, clean_time


def per_frame(sampler: Sampler) -> Sampler:
    """A sampler that moves each frame of x `[B, F, ...]` along separate times.

        x_s[f] = step of the sampler from t[f] to s[f] on the prediction for the whole sequence at times t

    The denoiser, or the flow map, is evaluated once in each step, with times `[B, F]`. A frame with t[f] = s[f] does
    not change; the network sees a frame at the end of the process at `timesteps.clean_time`. Plans have t and s of
    shape `[N, F]`; see `timesteps.staggered`.

    Facts:
        kind: the sampler's
        order: the sampler's if the frames do not depend on each other; waiting frames are still noise
        nfe: steps of the plan
        accepts: the same as the sampler
        paper: Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion", algorithm 2

    Args:
        sampler: sampler with one evaluation per step and without history, such as `ddpm()`, `ddim()`, `euler()` or
            `consistency()`.

    Raises:
        ValueError: if the sampler evaluates the network more than once in a step; when called, if it has a history.
    """
    check_sampler(sampler)
    if sampler.nfe(3) != 3:
        raise ValueError(
            "per_frame takes samplers that evaluate the network once in each step, such as ddim(); this one needs "
            f"{sampler.nfe(3)} evaluations for 3 steps"
        )

    def init(x, schedule, plan):
        if not isinstance(sampler.init(x, schedule, plan), State):
            raise ValueError(
                "per_frame takes samplers without a history, such as ddim(), because a frame that rests has nothing "
                "to add to a history"
            )
        return start(x, schedule, plan)

    def step(state, denoise, schedule, plan, i, noise):
        by_frame = lambda times: jnp.broadcast_to(times, state.x.shape[:2])
        clocks = by_frame(jnp.maximum(plan.t[i], clean_time(schedule)))

        def advance(state, prediction, t, s, noise):
            # The step of a frame that rests is left out; where it rests at an end, it would have no derivative.
            rests = t == s
            start, end = jnp.where(rests, schedule.t_max, t), jnp.where(rests, 0, s)
            alone = Plan(start[None], end[None], jnp.zeros(1, bool))
            new = sampler.step(state, lambda *_: prediction, schedule, alone, 0, noise)
            return jax.tree.map(lambda new, old: jnp.where(rests, old, new), new, state)

        def ends(state, t, s, noise):
            """The time to which the flow map carries a frame in the step, which is 0 for a consistency function."""
            targets = []
            carry = lambda x, t, s: (targets.append(s), x)[1]
            sampler.step(state, carry, schedule, Plan(t[None], s[None], jnp.zeros(1, bool)), 0, noise)
            return targets[0]

        way = (plan.t[i], plan.s[i], noise)
        if FlowMap in sampler.takes:
            to = jax.vmap(ends, in_axes=(1, 0, 0, 2))(state, *way)
            prediction = denoise(state.x, clocks, by_frame(to))
        else:
            prediction = denoise(state.x, clocks)
        return jax.vmap(advance, in_axes=(1, 1, 0, 0, 2), out_axes=1)(state, prediction, *way)

    return sampler._replace(init=init, step=step, frames=True)
