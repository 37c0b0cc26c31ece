"""Pseudo numerical methods: Adams-Bashforth weights for eps in t, with DDIM steps in place of straight lines."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.samplers.exponential import ddim_step, noise_gain
from diffusion.samplers.linear_multistep import correction, prepend
from diffusion.samplers.sample import Sampler

# The row is the number of earlier points; the newest coefficient is first.
_ADAMS_BASHFORTH = np.array(
    [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
)


class _History(NamedTuple):
    x: Array
    x0: Array
    eps: Array  # [3, B, ...], the newest first
    known: Array  # the number of entries that are filled


def plms() -> Sampler:
    """Pseudo linear multistep: with phi(x_t, e, t, s) the step of DDIM from t to s by the noise e,

        x_s = phi(x_t, e', t, s),    e' = (55 e_i - 59 e_{i-1} + 37 e_{i-2} - 9 e_{i-3}) / 24,

    with the shorter Adams-Bashforth formulas if there are fewer points. The first step is the pseudo improved Euler
    method, e' = (e_0 + eps(phi(x_t, e_0, t, s), s)) / 2. This is the original sampler of Stable Diffusion.

    Facts:
        kind: deterministic, multistep
        order: 2 in t on plans whose steps change smoothly, with weights for equal steps (1 on other plans); the
            step from alpha(t) = 0 is of order 1
        nfe: steps + 1 (1 for one step)
        accepts: any schedule; plans that go up invert
        paper: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", eq. 12; the start as in
            CompVis' plms.py, which is the start of the paper's S-PNDM
    """

    def improved_euler(schedule, denoise, t, s, first):
        return (denoise(ddim_step(schedule, s, first), s).eps - first.eps) / 2

    return _pseudo(improved_euler, started_steps=1, extra=lambda steps: min(steps - 1, 1))


def pndm() -> Sampler:
    """`plms` with the pseudo Runge-Kutta method for its first three steps: with m = (t + s) / 2,

        e_2 = eps(phi(x_t, e_1, t, m), m),  e_3 = eps(phi(x_t, e_2, t, m), m),  e_4 = eps(phi(x_t, e_3, t, s), s),
        x_s = phi(x_t, (e_1 + 2 e_2 + 2 e_3 + e_4) / 6, t, s).

    Facts:
        kind: deterministic, multistep after three single steps
        order: 2 in t on plans whose steps change smoothly, with weights for equal steps (1 on other plans); the
            step from alpha(t) = 0 is of order 1
        nfe: steps + 9 (steps + 3 (steps - 1) for up to three)
        accepts: any schedule; plans that go up invert
        paper: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", algorithm 2, F-PNDM
    """

    def runge_kutta(schedule, denoise, t, s, first):
        middle = (t + s) / 2
        transfer = lambda time, d: ddim_step(schedule, time, first) - noise_gain(schedule, t, time) * d
        d_2 = denoise(transfer(middle, 0), middle).eps - first.eps
        d_3 = denoise(transfer(middle, d_2), middle).eps - first.eps
        d_4 = denoise(transfer(s, d_3), s).eps - first.eps
        return (2 * d_2 + 2 * d_3 + d_4) / 6

    return _pseudo(runge_kutta, started_steps=3, extra=lambda steps: 3 * min(steps - 1, 3))


def _pseudo(warm_up, started_steps, extra) -> Sampler:
    """`warm_up` returns e' - e_0 for the first steps, except for a step to sigma(s) = 0, which needs no evaluation."""

    def init(x, schedule, plan):
        return _History(x, jnp.zeros_like(x), jnp.zeros((3, *x.shape), x.dtype), jnp.asarray(0))

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        eps = prepend(prediction.eps, state.eps)
        weights = jnp.asarray(_ADAMS_BASHFORTH, state.x.dtype)[state.known]
        change = jax.lax.cond(
            (state.known < started_steps) & (schedule.sigma(s) > 0),
            lambda: warm_up(schedule, denoise, t, s, prediction),
            lambda: correction(weights, eps),
        )
        x = ddim_step(schedule, s, prediction) - noise_gain(schedule, t, s) * change
        return _History(x, prediction.x0, eps[:-1], jnp.minimum(state.known + 1, 3))

    return Sampler(init, step, draws=0, nfe=lambda steps: steps + extra(steps))
