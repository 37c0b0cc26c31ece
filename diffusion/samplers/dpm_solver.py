"""The DPM-Solver family: exponential integrators in the log-SNR."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion.samplers.sample import Sampler


class _History(NamedTuple):
    x: Array
    x0: Array
    h: Array  # length of the last step in log(alpha / sigma); infinite before the first, which makes it first-order


def dpmpp_2m() -> Sampler:
    """DPM-Solver++(2M): with l = log(alpha / sigma), h_i = l(s_i) - l(t_i) and r = h_{i-1} / h_i,

        D = (1 + 1 / (2 r)) x0_i - 1 / (2 r) x0_{i-1},
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D.

    Deterministic, multistep, order 2 in l; one evaluation a step, NFE = steps. The first step and the step onto
    sigma(s) = 0 are of order 1 (the latter returns x0). Lu et al. 2022, "DPM-Solver++", algorithm 2.
    """

    def init(x, schedule, plan):
        return _History(x, jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype))

    def step(state, denoise, schedule, plan, i, noise):
        t, s = plan.t[i], plan.s[i]
        x0 = denoise(state.x, t).x0
        h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
        multistep = jnp.isfinite(h) & jnp.isfinite(state.h)
        half_ratio = jnp.where(multistep, h / jnp.where(multistep, 2 * state.h, 1), 0)  # 1 / (2 r)
        d = x0 + half_ratio * (x0 - state.x0)
        ratio = schedule.sigma(s) / schedule.sigma(t)
        # alpha_s e^-h = alpha_t sigma_s / sigma_t, which stays finite at both ends.
        x = ratio * state.x + (schedule.alpha(s) - schedule.alpha(t) * ratio) * d
        return _History(x, x0, h)

    return Sampler(init, step, draws=0, nfe=lambda steps: steps)
