"""DPM-Solver, single step: exponential integrators of eps in lambda = log(alpha / sigma)."""

import jax
import jax.numpy as jnp

from diffusion.samplers.exponential import between, ddim_step, log_ratio, noise_gain
from diffusion.samplers.sample import Sampler, State, start


def dpm_solver_2() -> Sampler:
    """DPM-Solver-2: with h = lambda_s - lambda_t and m the time where lambda is half way,

        u = (alpha_m / alpha_t) x_t - sigma_m (e^(h/2) - 1) eps(x_t, t),
        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) eps(u, m).

    Facts:
        kind: deterministic, single step
        order: 2 in log(alpha / sigma); the steps from alpha(t) = 0 and onto sigma(s) = 0 are of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert
        paper: Lu et al. 2022, "DPM-Solver", algorithm 1
    """

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        first = denoise(state.x, t)

        def solve():
            m = between(schedule, t, s, 1 / 2)
            second = denoise(ddim_step(schedule, m, first), m)
            x = ddim_step(schedule, s, first) - noise_gain(schedule, t, s) * (second.eps - first.eps)
            return jnp.where(schedule.alpha(t) > 0, x, ddim_step(schedule, s, second))

        return State(jax.lax.cond(schedule.sigma(s) > 0, solve, lambda: ddim_step(schedule, s, first)), first.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: 2 * steps - 1)


def dpm_2() -> Sampler:
    """The midpoint method for dy / dr = eps, y = x / alpha, r = sigma / alpha, at the geometric mean of r.

        y_s = y_t + (r_s - r_t) eps(y_t + (m - r_t) eps(y_t, r_t), m),    m = sqrt(r_t r_s)

    The geometric mean of sigma / alpha is the arithmetic mean of its logarithm, so this equals `dpm_solver_2`.
    Katherine Crowson's k-diffusion calls it "DPM2" (sample_dpm_2 without churn) and states it for alpha = 1.

    Facts:
        kind: deterministic, single step
        order: 2 in log(alpha / sigma); the steps from alpha(t) = 0 and onto sigma(s) = 0 are of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert
        paper: Karras et al. 2022, "Elucidating the Design Space", algorithm 2, with the step of Lu et al. 2022
    """
    return dpm_solver_2()


def dpm_solver_3() -> Sampler:
    """DPM-Solver-3: with h = lambda_s - lambda_t, r_1 = 1/3, r_2 = 2/3 and t_k the time where lambda is r_k on its way,

        u_1 = (alpha_1 / alpha_t) x_t - sigma_1 (e^(r_1 h) - 1) eps_t,            D_1 = eps(u_1, t_1) - eps_t,
        u_2 = (alpha_2 / alpha_t) x_t - sigma_2 (e^(r_2 h) - 1) eps_t
              - (r_2 / r_1) sigma_2 ((e^(r_2 h) - 1) / (r_2 h) - 1) D_1,          D_2 = eps(u_2, t_2) - eps_t,
        x_s = (alpha_s / alpha_t) x_t - sigma_s (e^h - 1) eps_t - (1 / r_2) sigma_s ((e^h - 1) / h - 1) D_2.

    Facts:
        kind: deterministic, single step
        order: 3 in log(alpha / sigma); the steps from alpha(t) = 0 and onto sigma(s) = 0 are of order 1
        nfe: 3 steps - 2
        accepts: any schedule; plans that go up invert
        paper: Lu et al. 2022, "DPM-Solver", algorithm 2
    """
    r_1 = 1 / 3
    r_2 = 2 / 3

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        first = denoise(state.x, t)

        def solve():
            h = log_ratio(schedule, s) - log_ratio(schedule, t)
            regular = jnp.isfinite(h)
            h = jnp.where(regular, h, 1)

            def corrected(time, fraction, scale, other):
                """A DDIM step corrected by the slope of eps; from alpha(t) = 0, a DDIM step with `other`."""
                gain = noise_gain(schedule, t, time) / (fraction * h) - schedule.sigma(time)
                x = ddim_step(schedule, time, first) - scale * gain * (other.eps - first.eps)
                return jnp.where(regular, x, ddim_step(schedule, time, other))

            t_1 = between(schedule, t, s, r_1)
            t_2 = between(schedule, t, s, r_2)
            second = denoise(ddim_step(schedule, t_1, first), t_1)
            third = denoise(corrected(t_2, r_2, r_2 / r_1, second), t_2)
            return corrected(s, 1, 1 / r_2, third)

        return State(jax.lax.cond(schedule.sigma(s) > 0, solve, lambda: ddim_step(schedule, s, first)), first.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: 3 * steps - 2)
