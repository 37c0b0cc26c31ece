"""The stochastic sampler of EDM."""

import math

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.samplers.exponential import ddim_step, log_ratio
from diffusion.samplers.sample import Sampler, State, start


def edm(s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0) -> Sampler:
    """Adds noise, then makes a Heun step in sigma / alpha: with y = x / alpha, r = sigma / alpha and N steps,

        r_hat = (1 + gamma) r_t,    gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= r_t <= s_tmax, else 0,
        y_hat = y_t + sqrt(r_hat^2 - r_t^2) s_noise z,
        y' = y_hat + (r_s - r_hat) eps(y_hat, r_hat),
        y_s = y_hat + (r_s - r_hat) / 2 (eps(y_hat, r_hat) + eps(y', r_s)).

    where N leaves out the steps of a plan that renoise. r_hat is limited to the schedule's largest value (the authors
    leave this to s_tmax). From alpha(t) = 0, where r_t is infinite, the step is a Heun step in alpha / sigma, without
    noise.

    Facts:
        kind: stochastic; deterministic at s_churn = 0
        order: 2 in sigma / alpha, weakly so with noise; the step onto sigma(s) = 0 is of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert at s_churn = 0
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 2

    Args:
        s_churn: amount of noise in all steps together, >= 0, limited to gamma = sqrt(2) - 1 in one step; 0 for none, 40
            to 80 in the paper.
        s_tmin: smallest sigma / alpha at which noise is added.
        s_tmax: largest sigma / alpha at which noise is added.
        s_noise: factor of the noise; 1.003 to 1.007 in the paper, to counter a loss of detail.

    Raises:
        ValueError: if s_churn is negative or the range is empty.
    """
    if not traced(s_churn) and not s_churn >= 0:
        raise ValueError(f"edm: s_churn = {s_churn} must not be negative; 0 is deterministic")
    if not traced(s_tmin, s_tmax) and not s_tmin <= s_tmax:
        raise ValueError(
            f"edm: s_tmin = {s_tmin} and s_tmax = {s_tmax} leave no sigma / alpha at which noise is added. Valid: "
            "s_tmin below s_tmax"
        )

    draws = 0 if is_number(s_churn, 0) else 1

    def churn(schedule, t, x, steps, z):
        """x_hat, t_hat and log(r_hat / r_t)."""
        ratio = jnp.exp(-schedule.log_snr(t) / 2)
        inside = (s_tmin <= ratio) & (ratio <= s_tmax) & (schedule.alpha(t) > 0)
        gamma = jnp.minimum(s_churn / steps, math.sqrt(2) - 1)
        most = log_ratio(schedule, t) - log_ratio(schedule, jnp.asarray(schedule.t_max, t.dtype))
        rise = jnp.where(inside, jnp.minimum(jnp.log1p(gamma), most), 0)
        t_hat = jnp.where(rise > 0, schedule.inverse_log_snr(schedule.log_snr(t) - 2 * rise), t)
        shrink = jnp.where(rise > 0, schedule.alpha(t_hat) / schedule.alpha(t), 1)
        added = schedule.sigma(t_hat) * root(-jnp.expm1(-2 * rise))
        return shrink * x + s_noise * added * z, t_hat, rise

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        steps = jnp.sum(~plan.renoise, dtype=state.x.dtype)
        x, t_hat, rise = churn(schedule, t, state.x, steps, noise[0]) if draws else (state.x, t, 0.0)
        first = denoise(x, t_hat)
        h = log_ratio(schedule, s) - log_ratio(schedule, t) + rise
        euler = ddim_step(schedule, s, first)

        def heun():
            # eps_s - eps_hat = (x0_hat - x0_s) / r_s, and r_hat / r_s - 1 = e^h - 1; in alpha / sigma the factor is 1.
            regular = h < jnp.inf
            gain = jnp.where(regular, jnp.expm1(jnp.where(regular, h, 0)), 1)
            return euler + schedule.alpha(s) / 2 * gain * (denoise(euler, s).x0 - first.x0)

        return State(jax.lax.cond(schedule.sigma(s) > 0, heun, lambda: euler), first.x0)

    return Sampler(start, step, draws=draws, nfe=lambda steps: 2 * steps - 1)
