"""Runge-Kutta methods for the probability flow dx / dt = alpha' x0(x, t) + sigma' eps(x, t), in the variable t.

If sigma is 0 at one end of a step, its slope in t may be infinite. Such a step is a DDIM step, alpha_s x0 + sigma_s
eps, which evaluates the network once, at the start. It equals an Euler step if the path is straight (rectified flow,
EDM); on other paths it leaves no noise at sigma(s) = 0. The same step is used where the slope of alpha is infinite
(`schedules.sigmoid` at t_max).

The slopes of a tabulated process (`schedules.from_betas`) jump at its T times, since log alpha is linear between them.
A method that uses these slopes falls to order 1 once the error is about a tenth of 1 / T. The exponential integrators
use only alpha and sigma, and keep their orders.
"""

import jax
import jax.numpy as jnp

from diffusion.parameterizations import Prediction, derivatives
from diffusion.samplers.exponential import ddim_step
from diffusion.samplers.sample import Sampler, State, start


def euler() -> Sampler:
    """Euler's method in t.

        x_s = x_t + (s - t) dx/dt

    Facts:
        kind: deterministic, single step
        order: 1 in t
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 13
    """
    return _explicit((), (1.0,))


def heun() -> Sampler:
    """Heun's method in t: an Euler step, then the mean of the slopes at its two ends.

        x_s = x_t + (s - t) / 2 (dx/dt at (x_t, t) + dx/dt at (Euler's x_s, s))

    Facts:
        kind: deterministic, single step
        order: 2 in t, 1 on tabulated processes below an error of about 1e-4; the step onto sigma(s) = 0 is of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1
    """
    return _explicit(((1.0,),), (0.5, 0.5))


def midpoint() -> Sampler:
    """The midpoint method in t.

        x_s = x_t + (s - t) dx/dt at (x_t + (s - t) / 2 dx/dt, (t + s) / 2)

    Facts:
        kind: deterministic, single step
        order: 2 in t, 1 on tabulated processes below an error of about 1e-4; the step onto sigma(s) = 0 is of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert
        paper: Runge 1895; for flows Lipman et al. 2024, "Flow Matching Guide and Code"
    """
    return _explicit(((0.5,),), (0.0, 1.0))


def rk4() -> Sampler:
    """The classical Runge-Kutta method in t.

        x_s = x_t + (s - t) / 6 (k_1 + 2 k_2 + 2 k_3 + k_4),    k_1 at t, k_2 and k_3 at (t + s) / 2, k_4 at s

    Facts:
        kind: deterministic, single step
        order: 4 in t, 1 on tabulated processes below an error of about 1e-4; the step onto sigma(s) = 0 is of order 1
        nfe: 4 steps - 3
        accepts: any schedule; plans that go up invert
        paper: Kutta 1901
    """
    return _explicit(((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def _explicit(stages: tuple[tuple[float, ...], ...], weights: tuple[float, ...]) -> Sampler:
    """The explicit Runge-Kutta method of a Butcher tableau; a row of `stages` sums to its fraction of the step."""

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)

        def moved(row, slopes):
            return state.x + (s - t) * sum(a * slope for a, slope in zip(row, slopes))

        def solve():
            slopes = [_velocity(schedule, t, state.x, prediction)]
            for row in stages:
                x = moved(row, slopes)
                fraction = sum(row)
                time = (1 - fraction) * t + fraction * s
                slopes.append(_velocity(schedule, time, x, denoise(x, time)))
            return moved(weights, slopes)

        slopes = derivatives(schedule, jnp.stack([t, s]), jnp.stack([t, s]))
        regular = (schedule.sigma(t) > 0) & (schedule.sigma(s) > 0) & jnp.isfinite(jnp.stack(slopes)).all()
        x = jax.lax.cond(regular, solve, lambda: ddim_step(schedule, s, prediction))
        return State(x, prediction.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: len(weights) * (steps - 1) + 1)


def _velocity(schedule, t, x, prediction: Prediction):
    alpha_dot, sigma_dot = derivatives(schedule, t, x)
    return alpha_dot * prediction.x0 + sigma_dot * prediction.eps
