"""DPM-Solver++: exponential integrators of x0 in lambda = log(alpha / sigma)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.samplers.exponential import between, data_gain, ddim_step, log_ratio
from diffusion.samplers.linear_multistep import History, correction, integrate_polynomials, latest, no_history, prepend
from diffusion.samplers.sample import Sampler, State, start
from diffusion.schedules import NoiseSchedule


class _History(NamedTuple):
    x: Array
    x0: Array
    h: Array  # length of the last step in log(alpha / sigma); infinite before the first step, which is then of order 1


def dpmpp_2s(middle: str = "log-SNR", lower_order_final: bool = False) -> Sampler:
    """DPM-Solver++(2S): with h = lambda_s - lambda_t and m the time where lambda is half way,

        u = (sigma_m / sigma_t) x_t + alpha_m (1 - e^(-h/2)) x0(x_t, t),
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) x0(u, m).

    In a step from alpha(t) = 0, m is half way in alpha / sigma.

    With middle = "grid", m is a time of the plan: two steps of the plan, with one evaluation each, form one step of the
    method, as in the authors' code. A step that renoises ends a pair. The first step is a DDIM step from t to m; with r
    = (lambda_m - lambda_t) / h the second is

        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) (x0(x_t, t) + (x0(x_m, m) - x0(x_t, t)) / (2 r)).

    Facts:
        kind: deterministic, single step
        order: 2 in log(alpha / sigma); the step onto sigma(s) = 0 is of order 1, and with the middle on the grid also
            the step onto alpha(s) = 0
        nfe: 2 steps - 1; `steps` with the middle on the grid
        accepts: any schedule; plans that go up invert
        paper: Lu et al. 2022, "DPM-Solver++", algorithm 1 with r = 1/2

    Args:
        middle: place of m: "log-SNR" for half way in lambda, or "grid" for every second time of the plan.
        lower_order_final: whether the plan's last step is always a DDIM step, as in the authors' code; for middle =
            "grid" only. A step to sigma(s) = 0 always is.

    Raises:
        ValueError: if middle is unknown, or `lower_order_final` is set without middle = "grid".
    """
    if middle not in ("log-SNR", "grid"):
        raise ValueError(f"dpmpp_2s: unknown middle {middle!r}. Valid: 'log-SNR', 'grid'")
    if middle == "grid":
        return _on_the_grid(lower_order_final)
    if lower_order_final:
        raise ValueError(
            "dpmpp_2s: lower_order_final needs middle='grid', because with 'log-SNR' every step has full order"
        )

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        first = denoise(state.x, t)

        def solve():
            m = between(schedule, t, s, 1 / 2)
            second = denoise(ddim_step(schedule, m, first), m)
            return ddim_step(schedule, s, first) + data_gain(schedule, t, s) * (second.x0 - first.x0)

        return State(jax.lax.cond(schedule.sigma(s) > 0, solve, lambda: ddim_step(schedule, s, first)), first.x0)

    return Sampler(start, step, draws=0, nfe=lambda steps: 2 * steps - 1)


class _Pair(NamedTuple):
    x: Array
    x0: Array
    time: Array  # at which x0 was predicted


def _on_the_grid(lower_order_final: bool) -> Sampler:
    """`dpmpp_2s` whose points m are every second time of the plan."""

    def init(x, schedule, plan):
        return _Pair(x, jnp.zeros_like(x), plan.t[0])

    def step(state, denoise, schedule, plan, i, noise):
        m = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, m)
        euler = ddim_step(schedule, s, prediction)

        def second():
            t = state.time
            rest, inner = (log_ratio(schedule, m) - log_ratio(schedule, time) for time in (s, t))
            regular = jnp.isfinite(inner)
            inverse = jnp.where(regular, 1 - rest / jnp.where(regular, inner, 1), jnp.exp(-rest))  # 1 / r
            # The first order from t, as the way from m on: it holds what a function after the last step has changed.
            sigma = schedule.sigma(m)
            scaled = schedule.sigma(s) / jnp.where(sigma > 0, sigma, 1) * state.x
            first_order = scaled + data_gain(schedule, m, s) * state.x0
            return first_order + data_gain(schedule, t, s) * inverse / 2 * (prediction.x0 - state.x0)

        last = lower_order_final & (i == plan.t.shape[0] - 1)
        index = jnp.arange(plan.t.shape[0])
        renoised = jnp.where(plan.renoise & (index < i), index + 1, 0).max()  # the state holds no earlier sample
        inside = (schedule.sigma(s) > 0) & (schedule.alpha(s) > 0)  # onto either end the second order is not defined
        odd = ((i - renoised) % 2 == 1) & inside & ~jnp.asarray(last)
        return _Pair(jax.lax.cond(odd, second, lambda: euler), prediction.x0, m)

    return Sampler(init, step, draws=0, nfe=lambda steps: steps)


def dpmpp_2m(lower_order_final: bool = False) -> Sampler:
    """DPM-Solver++(2M): with h_i = lambda(s_i) - lambda(t_i) and r = h_{i-1} / h_i,

        D = (1 + 1 / (2 r)) x0_i - 1 / (2 r) x0_{i-1},
        x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D.

    Facts:
        kind: deterministic, multistep
        order: 2 in log(alpha / sigma); the first step and the step onto sigma(s) = 0 (which returns x0) are of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Lu et al. 2022, "DPM-Solver++", algorithm 2

    Args:
        lower_order_final: whether the last step is always of order 1, as in the authors' code for few steps.
    """

    def init(x, schedule, plan):
        return _History(x, jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype))

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        h = log_ratio(schedule, s) - log_ratio(schedule, t)
        multistep = jnp.isfinite(h) & jnp.isfinite(state.h)
        if lower_order_final:
            multistep &= i < plan.t.shape[0] - 1
        half_ratio = jnp.where(multistep, h / jnp.where(multistep, 2 * state.h, 1), 0)  # 1 / (2 r)
        d = half_ratio * (prediction.x0 - state.x0)
        return _History(ddim_step(schedule, s, prediction) + data_gain(schedule, t, s) * d, prediction.x0, h)

    return Sampler(init, step, draws=0, nfe=lambda steps: steps)


def dpmpp_3m(lower_order_final: bool = False) -> Sampler:
    """DPM-Solver++(3M): the quadratic in lambda through the latest three x0, integrated exactly.

        x_s = (sigma_s / sigma_t) x_t + sigma_s sum_k x0_k int_t^s l_k(lambda) d(alpha / sigma)

    In the papers' terms, with the derivatives D_1 and D_2 (the second divided difference of the x0 in lambda / h),

        x_s = (sigma_s / sigma_t) x_t + alpha_s ((1 - e^-h) x0_t + phi_2 D_1 - 2 phi_3 D_2),
        phi_2 = (e^-h - 1) / h + 1,    phi_3 = phi_2 / h - 1/2.

    The authors' multistep code, k-diffusion and diffusers lack the factor 2, so their method is only of order 2. The
    authors' single-step method of order 3 and UniPC have the factor.

    Facts:
        kind: deterministic, multistep
        order: 3 in log(alpha / sigma); 2 as shipped, since the first step and the step onto sigma(s) = 0 are of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Lu et al. 2022, "DPM-Solver++", section 4.2 and the authors' code, with the coefficient above corrected

    Args:
        lower_order_final: whether the order falls to 1 over the last steps, as in the authors' code.
    """

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        outputs = prepend(prediction.x0, state.outputs)
        nodes = prepend(log_ratio(schedule, t), state.nodes)
        used = latest(nodes, plan, i, 3, lower_order_final)
        x = ddim_step(schedule, s, prediction) + correction(data_weights(schedule, s, used), outputs)
        return History(x, prediction.x0, outputs[:-1], nodes[:-1])

    return Sampler(no_history(2), step, draws=0, nfe=lambda steps: steps)


def data_weights(schedule: NoiseSchedule, s: Array, nodes: Array) -> Array:
    """`[K]` sigma_s int l_k(lambda) d(alpha / sigma) from the first node to the time s; nodes are in lambda."""
    end = log_ratio(schedule, s)
    regular = jnp.isfinite(nodes[0]) & jnp.isfinite(end)
    return schedule.sigma(s) * integrate_polynomials(nodes, jnp.exp(nodes[0]), jnp.exp(end), jnp.log, regular)
