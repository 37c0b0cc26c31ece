"""Ancestral samplers: a deterministic step to a noise level below that of s, then fresh noise."""

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import is_number
from diffusion.guidance.memory import Memory, Unpaired
from diffusion.parameterizations import Denoiser
from diffusion.samplers.exponential import between, ddim_step, log_ratio, noise_gain
from diffusion.samplers.posterior import check_eta, split_noise
from diffusion.samplers.sample import Sampler, State, start


def euler_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """x_s = alpha_s x0 + down eps + s_noise up z,    up^2 = eta^2 Var q(x_s | x_t, x_0),    down^2 = sigma_s^2 - up^2.

    Written in sigma / alpha this is k-diffusion's step. It equals `ddim(eta)`, and `ddpm` at eta = 1. Some user
    interfaces have other variants for flows, in which eta sets the time of the deterministic step's end.

    Facts:
        kind: stochastic, single step; deterministic at eta = 0
        order: weak 1
        nfe: steps
        accepts: any schedule; plans that go up invert at eta = 0
        paper: none; k-diffusion's `sample_euler_ancestral`, which is the step of Song et al. 2021, "Denoising Diffusion
            Implicit Models"

    Args:
        eta: share of the posterior's noise, in [0, 1]; 0 is Euler's method in sigma / alpha.
        s_noise: factor of the noise, >= 0; with a value other than 1 the samples do not follow the process.

    Raises:
        ValueError: if eta is not in [0, 1].
    """
    check_eta("euler_ancestral", eta)
    draws = 0 if is_number(eta, 0) else 1

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        x0, eps = denoise(state.x, t)[:2]
        h = log_ratio(schedule, s) - log_ratio(schedule, t)
        down, up = split_noise(schedule.sigma(s), h, eta)
        x = schedule.alpha(s) * x0 + down * eps
        return State(x + s_noise * up * noise[0] if draws else x, x0)

    return Sampler(start, step, draws=draws, nfe=lambda steps: steps, takes=(Denoiser, Memory, Unpaired))


def dpm_2_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """Midpoint steps down to the noise level r_down, then fresh noise: with y = x / alpha and r = sigma / alpha,

        r_down^2 + r_up^2 = r_s^2,    r_up^2 = eta^2 r_s^2 (1 - r_s^2 / r_t^2),    r_m = sqrt(r_t r_down),
        y_m = y_t + (r_m - r_t) eps(y_t, r_t),
        y_s = y_t + (r_down - r_t) eps(y_m, r_m) + s_noise r_up z.

    Where alpha(t) = 0 and r_t is infinite, a step of `euler_ancestral` is made with the prediction at the midpoint.

    Facts:
        kind: stochastic, single step; deterministic at eta = 0
        order: weak 2; the steps from alpha(t) = 0 and onto sigma(s) = 0 are of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert at eta = 0
        paper: none; k-diffusion's `sample_dpm_2_ancestral`, after Karras et al. 2022 and DPM-Solver-2

    Args:
        eta: share of the posterior's noise, in [0, 1].
        s_noise: factor of the noise, >= 0; with a value other than 1 the samples do not follow the process.

    Raises:
        ValueError: if eta is not in [0, 1].
    """
    check_eta("dpm_2_ancestral", eta)
    draws = 0 if is_number(eta, 0) else 1

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        first = denoise(state.x, t)
        h = log_ratio(schedule, s) - log_ratio(schedule, t)
        down, up = split_noise(schedule.sigma(s), h, eta)
        euler = lambda prediction: schedule.alpha(s) * prediction.x0 + down * prediction.eps

        def midpoint():
            remainder = 1 - eta**2 + eta**2 * jnp.exp(-2 * h)
            regular = jnp.isfinite(h) & (remainder > 0)
            to_down = jnp.where(regular, h, 0) - jnp.log(jnp.where(regular, remainder, 1)) / 2  # log(r_t / r_down)
            start = jnp.where(regular, schedule.log_snr(t), schedule.log_snr(s))
            m = jnp.where(regular, schedule.inverse_log_snr(start + to_down), between(schedule, t, s, 0.5))
            second = denoise(ddim_step(schedule, m, first), m)
            gain = noise_gain(schedule, t, s) + schedule.sigma(s) - down  # alpha_s (r_t - r_down)
            return jnp.where(schedule.alpha(t) > 0, euler(first) - gain * (second.eps - first.eps), euler(second))

        x = jax.lax.cond(schedule.sigma(s) > 0, midpoint, lambda: euler(first))
        return State(x + s_noise * up * noise[0] if draws else x, first.x0)

    return Sampler(start, step, draws=draws, nfe=lambda steps: 2 * steps - 1)
