"""Runge-Kutta methods for the probability flow dx / dt = alpha' x0(x, t) + sigma' eps(x, t), in the variable t."""

import jax
import jax.numpy as jnp

from diffusion.parameterizations import Prediction, derivatives
from diffusion.samplers.sample import Sampler, State, start


def euler() -> Sampler:
    """x_s = x_t + (s - t) dx/dt.

    Deterministic, order 1 in t; one evaluation a step, NFE = steps. The step onto sigma(s) = 0 returns the estimate
    of x_0, which is the same thing where the path is straight (rectified flow, EDM) and leaves no noise where it is
    not. Song et al. 2021, eq. 13, and Lipman et al. 2023, for the flow.
    """

    def step(state, denoise, schedule, plan, i, noise):
        t, s = plan.t[i], plan.s[i]
        prediction = denoise(state.x, t)
        return State(_euler(schedule, t, s, state.x, prediction), prediction.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: steps)


def heun() -> Sampler:
    """x_s = x_t + (s - t) / 2 (dx/dt at (x_t, t) + dx/dt at (Euler's x_s, s)).

    Deterministic, order 2 in t; two evaluations a step but one for the step onto sigma(s) = 0, which is Euler's:
    NFE = 2 steps - 1. Karras et al. 2022, algorithm 1.
    """

    def step(state, denoise, schedule, plan, i, noise):
        t, s = plan.t[i], plan.s[i]
        prediction = denoise(state.x, t)
        predicted = _euler(schedule, t, s, state.x, prediction)

        def correct(predicted):
            slope_t = _velocity(schedule, t, state.x, prediction)
            slope_s = _velocity(schedule, s, predicted, denoise(predicted, s))
            return state.x + (s - t) / 2 * (slope_t + slope_s)

        x = jax.lax.cond(schedule.sigma(s) > 0, correct, lambda predicted: predicted, predicted)
        return State(x, prediction.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: 2 * steps - 1)


def _velocity(schedule, t, x, prediction: Prediction):
    alpha_dot, sigma_dot = derivatives(schedule, t, x)
    return alpha_dot * prediction.x0 + sigma_dot * prediction.eps


def _euler(schedule, t, s, x, prediction: Prediction):
    moved = x + (s - t) * _velocity(schedule, t, x, prediction)
    return jnp.where(schedule.sigma(s) > 0, moved, schedule.alpha(s) * prediction.x0)
