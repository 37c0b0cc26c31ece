"""The stochastic DPM-Solver++ family: exponential integrators of the reverse equation in l = log(alpha / sigma).

If the estimate of x_0 is held at D and the noise has eta times its rate, the solution of the reverse equation over a
step of length h is

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z,

and the multistep methods replace D by a polynomial in l through the last estimates. The solution is finite at both
ends, where h is infinite: the steps from alpha(t) = 0 and to sigma(s) = 0 use only their own estimate D, and the latter
returns D.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import functions_of, is_number, traced
from diffusion.arrays.square_roots import root
from diffusion.samplers.exponential import between, data_gain, ddim_step, log_ratio
from diffusion.samplers.posterior import check_eta, split_noise
from diffusion.samplers.sample import Sampler, State, start

SOLVERS = ("midpoint", "heun")


def dpmpp_sde(eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> Sampler:
    """Stochastic DPM-Solver++, single step: an ancestral step to the time m with l(m) = l(t) + r h, and then

        D = (1 - 1 / (2 r)) x0(x_t, t) + 1 / (2 r) x0(x_m, m),
        x_s = (down / sigma_t) x_t + (alpha_s - alpha_t down / sigma_t) D + s_noise up z,

    with down and up as in `euler_ancestral`. The noises of the two stages are increments of one Brownian motion, whose
    share up to m is (SNR_m - SNR_t) / (SNR_s - SNR_t). This is exactly the share of the reverse equation at eta = 1;
    independent draws would lose the second order. (k-diffusion's Brownian motion runs in sigma, which agrees to first
    order.)

    Facts:
        kind: stochastic, single step; deterministic at eta = 0
        order: weak 2; the steps from alpha(t) = 0 and onto sigma(s) = 0 are of order 1
        nfe: 2 steps - 1
        accepts: any schedule; plans that go up invert at eta = 0
        paper: Lu et al. 2022, "DPM-Solver++", with the noise of k-diffusion's `sample_dpmpp_sde`

    Args:
        eta: share of the posterior's noise, in [0, 1]; 1 is the reverse equation, 0 the probability flow.
        s_noise: factor of the noise; other values than 1 leave the process.
        r: position of the intermediate time m within the step, in (0, 1].

    Raises:
        ValueError: if eta is not in [0, 1] or r not in (0, 1].
    """
    check_eta("dpmpp_sde", eta)
    if not traced(r) and not 0 < r <= 1:
        raise ValueError(f"dpmpp_sde: r = {r} must be in (0, 1]; 1/2 is the midpoint")
    log_r = functions_of(r).log(r)
    draws = 0 if is_number(eta, 0) else 2

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        x = state.x
        prediction = denoise(x, t)
        x0, eps = prediction[:2]
        h = log_ratio(schedule, s) - log_ratio(schedule, t)

        def two_stages():
            m = between(schedule, t, s, r)
            long = jnp.minimum(h, 1e30)  # an infinite length has no derivative in r
            before = r * long
            after = jnp.where(jnp.isfinite(h), (1 - r) * long, -log_r)
            down, up = split_noise(schedule.sigma(m), before, eta)
            x_m = schedule.alpha(m) * x0 + down * eps + (s_noise * up * noise[0] if draws else 0)
            change = (denoise(x_m, m).x0 - x0) / (2 * r)
            if not draws:  # also right for a step up from sigma = 0
                return ddim_step(schedule, s, prediction) + data_gain(schedule, t, s) * change
            down, up = split_noise(schedule.sigma(s), h, eta)
            ratio = down / schedule.sigma(t)
            arrived = ratio * x + (schedule.alpha(s) - schedule.alpha(t) * ratio) * (x0 + change)
            share = jnp.exp(-2 * after) * jnp.expm1(-2 * before) / jnp.expm1(-2 * h)
            return arrived + s_noise * up * (root(share) * noise[0] + root(1 - share) * noise[1])

        return State(jax.lax.cond(schedule.sigma(s) > 0, two_stages, lambda: schedule.alpha(s) * x0), x0)

    return Sampler(start, step, draws=draws, nfe=lambda steps: 2 * steps - 1)


class _Two(NamedTuple):
    x: Array
    x0: Array
    h: Array  # length of the last step; infinite if there is no earlier step


def dpmpp_2m_sde(
    eta: float = 1.0, s_noise: float = 1.0, solver: str = "midpoint", lower_order_final: bool = False
) -> Sampler:
    """DPM-Solver++(2M) SDE: the module's step with D = x0_i, plus a term from the previous estimate,

        x_s += alpha_s c (h_i / h_{i-1}) (x0_i - x0_{i-1}),    k = (1 + eta) h_i,
        midpoint: c = (1 - e^-k) / 2,    heun: c = 1 - (1 - e^-k) / k.

    Facts:
        kind: stochastic, multistep; deterministic at eta = 0
        order: weak 2; the first step and the step onto sigma(s) = 0 are of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert at eta = 0
        paper: Lu et al. 2022, "DPM-Solver++", as SDE-DPM-Solver++(2M); k-diffusion's `sample_dpmpp_2m_sde` for eta and
            both solvers

    Args:
        eta: factor of the noise rate, >= 0; 1 is the reverse equation, 0 is `dpmpp_2m`.
        s_noise: factor of the noise; other values than 1 leave the process.
        solver: "midpoint" or "heun".
        lower_order_final: whether the last step is of order 1 wherever it ends, as in the authors' code for few steps.

    Raises:
        ValueError: if eta is negative or solver is unknown.
    """
    _check_rate("dpmpp_2m_sde", eta)
    if solver not in SOLVERS:
        raise ValueError(f"dpmpp_2m_sde: unknown solver {solver!r}. Valid: {', '.join(SOLVERS)}")

    def init(x, schedule, plan):
        return _Two(x, jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype))

    def step(state, denoise, schedule, plan, i, noise):
        x, x0, h = _held(state.x, denoise, schedule, plan, i, noise, eta, s_noise)
        both = jnp.isfinite(h) & jnp.isfinite(state.h)
        if lower_order_final:
            both &= i < plan.t.shape[0] - 1
        ratio = jnp.where(both, h / jnp.where(both, state.h, 1), 0)
        k = (1 + eta) * jnp.where(both, h, 1)
        c = -jnp.expm1(-k) / 2 if solver == "midpoint" else _phi_2(k)
        return _Two(x + schedule.alpha(plan.s[i]) * c * ratio * (x0 - state.x0), x0, h)

    return Sampler(init, step, draws=0 if is_number(eta, 0) else 1, nfe=lambda steps: steps)


class _Three(NamedTuple):
    x: Array
    x0: Array
    x0_before: Array
    h: Array
    h_before: Array


def dpmpp_3m_sde(eta: float = 1.0, s_noise: float = 1.0) -> Sampler:
    """DPM-Solver++(3M) SDE: the module's step with D = x0_i, plus derivatives in l from the last three estimates,

        x_s += alpha_s (phi_2 h d1 + (1 - 2 phi_2 / k) h^2 d2),    phi_2 = 1 - (1 - e^-k) / k,    k = (1 + eta) h_i,
        d2 = (u_i - u_{i-1}) / (h_{i-1} + h_{i-2}),    d1 = u_i + h_{i-1} d2,    u_i = (x0_i - x0_{i-1}) / h_{i-1}.

    k-diffusion has half the factor of d2, which loses the third order at eta = 0; see `dpmpp_3m`.

    Facts:
        kind: stochastic, multistep; deterministic at eta = 0
        order: weak 2; at eta = 0 as `dpmpp_3m`. The first two steps are taken as in `dpmpp_2m_sde` with "heun", the
            step onto sigma(s) = 0 is of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert at eta = 0
        paper: none; k-diffusion's `sample_dpmpp_3m_sde`, after Lu et al. 2022, "DPM-Solver++"

    Args:
        eta: factor of the noise rate, >= 0; 1 is the reverse equation, 0 is `dpmpp_3m`.
        s_noise: factor of the noise; other values than 1 leave the process.

    Raises:
        ValueError: if eta is negative.
    """
    _check_rate("dpmpp_3m_sde", eta)

    def init(x, schedule, plan):
        none = jnp.zeros_like(x)
        unknown = jnp.asarray(jnp.inf, x.dtype)
        return _Three(x, none, none, unknown, unknown)

    def step(state, denoise, schedule, plan, i, noise):
        x, x0, h = _held(state.x, denoise, schedule, plan, i, noise, eta, s_noise)
        both = jnp.isfinite(h) & jnp.isfinite(state.h)
        h_now = jnp.where(both, h, 0)
        h_last = jnp.where(both, state.h, 1)
        # The length of a step before the first is infinite, which makes the second derivative zero.
        u = (x0 - state.x0) / h_last
        u_before = (state.x0 - state.x0_before) / state.h_before
        d2 = (u - u_before) / (h_last + state.h_before)
        d1 = u + h_last * d2
        k = (1 + eta) * jnp.where(both, h, 1)
        phi_2 = _phi_2(k)
        x = x + schedule.alpha(plan.s[i]) * (phi_2 * h_now * d1 + (1 - 2 * phi_2 / k) * h_now**2 * d2)
        return _Three(x, x0, state.x0, h, state.h)

    return Sampler(init, step, draws=0 if is_number(eta, 0) else 1, nfe=lambda steps: steps)


def _held(x, denoise, schedule, plan, i, noise, eta, s_noise):
    """The solution of a step with the estimate of x_0 held fixed, the estimate, and the step's length in l."""
    t, s = plan.t[i], plan.s[i]
    prediction = denoise(x, t)
    h = log_ratio(schedule, s) - log_ratio(schedule, t)
    if is_number(eta, 0):
        return ddim_step(schedule, s, prediction), prediction.x0, h
    long = jnp.minimum(h, 1e30)  # an infinite length has no derivative in eta
    ratio = schedule.sigma(s) / schedule.sigma(t) * jnp.exp(-eta * long)
    x = ratio * x - schedule.alpha(s) * jnp.expm1(-(1 + eta) * long) * prediction.x0
    return x + s_noise * schedule.sigma(s) * root(-jnp.expm1(-2 * eta * long)) * noise[0], prediction.x0, h


def _phi_2(k):
    """1 - (1 - e^-k) / k, which is 1 at infinity."""
    return 1 + jnp.expm1(-k) / k


def _check_rate(name: str, eta: float) -> None:
    if not traced(eta) and not eta >= 0:
        raise ValueError(f"{name}: eta = {eta} must not be negative; 0 is deterministic, 1 the reverse equation")
