"""Linear multistep methods: a polynomial through the latest network outputs, integrated exactly over the step.

Each method is a choice of three things: the output (eps or x0), the variable of the polynomial, and the variable of the
integral (sigma / alpha for eps, alpha / sigma for x0; see `exponential`). An infinite node of the polynomial has no
effect. The first steps therefore have the order that their history allows, and a node at alpha(t) = 0 drops out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.samplers.exponential import ddim_step, log_ratio
from diffusion.samplers.sample import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan

_POINTS, _WEIGHTS = (part / 2 for part in np.polynomial.legendre.leggauss(12))
_POINTS += 1 / 2  # from [-1, 1] to [0, 1]


class History(NamedTuple):
    """The state of a linear multistep method.

    Attributes:
        x: `[B, ...]` current sample.
        x0: `[B, ...]` the latest estimate of the clean sample.
        outputs: `[K, B, ...]` the network's outputs at the latest K points, the newest first.
        nodes: `[K]` values of the polynomial's variable at these points; infinite if there is no point yet.
    """

    x: Array
    x0: Array
    outputs: Array
    nodes: Array


def no_history(points: int) -> Callable[[Array, NoiseSchedule, object], History]:
    """The `init` of a sampler with a history of this number of points."""

    def init(x, schedule, plan):
        return History(x, jnp.zeros_like(x), jnp.zeros((points, *x.shape), x.dtype), jnp.full(points, jnp.inf, x.dtype))

    return init


def prepend(new: Array, array: Array) -> Array:
    """`[K + 1, ...]`: `new` `[...]` in front of `array` `[K, ...]`."""
    return jnp.concatenate([new[None], array])


def latest(nodes: Array, plan: Plan, i: Array, order: int, lower_order_final: bool) -> Array:
    """`[K]` nodes of step i of a plan, infinite beyond the first min(order, N - i) if the order falls at the end.

    Args:
        nodes: `[K]` nodes, the newest first.
        plan: plan of N steps.
        i: index of the step, int `[]`.
        order: order of the method, the largest number of nodes in a step.
        lower_order_final: whether the last steps have the orders .., 3, 2, 1, as in the code of DPM-Solver's authors;
            otherwise all steps use `order` nodes.
    """
    count = jnp.minimum(order, plan.t.shape[0] - i) if lower_order_final else order
    return jnp.where(jnp.arange(nodes.size) < count, nodes, jnp.inf)


def integrate_polynomials(
    nodes: Array, start: Array, end: Array, variable: Callable[[Array], Array], regular: Array
) -> Array:
    """`[K]` integrals of the Lagrange polynomials of K nodes, int_start^end l_k(variable(r)) dr.

    Gauss-Legendre quadrature with 12 points in the fourth root of r's way from the lower value: exact for polynomials
    in r up to degree 5, and right to about 1e-5 for those in log r, also down to r = 0.

    Args:
        nodes: `[K]` nodes; an infinite node has l_k = 0, and gives no factor in the other polynomials.
        start: lower limit.
        end: upper limit.
        variable: r -> the variable of the nodes, elementwise.
        regular: Bool `[]`, whether the limits are finite; if not, the integrals are 0.
    """
    start = jnp.where(regular, start, 1)
    end = jnp.where(regular, end, 1)
    at = variable(jnp.minimum(start, end) + jnp.abs(end - start) * jnp.asarray(_POINTS**4, nodes.dtype))
    finite = jnp.isfinite(nodes)
    at_nodes = jnp.where(finite, nodes, 0)
    others = finite[:, None] & finite[None] & ~np.eye(nodes.size, dtype=bool)
    apart = jnp.where(others, at_nodes[:, None] - at_nodes[None], 1)
    factors = jnp.where(others[..., None], (at[None] - at_nodes[:, None])[None] / apart[..., None], 1)
    # Written as sums, because accelerators multiply matrices with less than float32 precision.
    weights = (end - start) * jnp.asarray(4 * _POINTS**3 * _WEIGHTS, nodes.dtype)
    return jnp.where(finite, (factors.prod(1) * weights[None]).sum(-1), 0)


def correction(weights: Array, outputs: Array) -> Array:
    """sum_k weights_k (output_k - output_0), `[B, ...]`."""
    weights = weights[1:].reshape(-1, *[1] * (outputs.ndim - 1))
    return (weights * (outputs[1:] - outputs[:1])).sum(0)


def lms(order: int = 4) -> Sampler:
    """Adams-Bashforth for y = x / alpha in r = sigma / alpha: a polynomial in r through the latest values of eps.

        y_s = y_t + sum_k eps_k int_{r_t}^{r_s} l_k(r) dr

    This is sample_lms of Katherine Crowson's k-diffusion, which states it for alpha = 1.

    Facts:
        kind: deterministic, multistep
        order: `order` in sigma / alpha; 2 as shipped, since the first step is of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", rho AB-DEIS

    Args:
        order: largest number of outputs in a step, in 1 .. 4; 1 is ddim.

    Raises:
        ValueError: if order is not in 1 .. 4.
    """
    _check_order("lms", order, (1, 2, 3, 4))
    ratio = lambda schedule, t: schedule.sigma(t) / schedule.alpha(t)
    return _adams_bashforth(order, ratio, lambda schedule, t, s: lambda r: r)


def deis(order: int = 3, variable: str = "t", lower_order_final: bool = False) -> Sampler:
    """tAB-DEIS: a polynomial in t through the latest values of eps, integrated over r = sigma / alpha.

        y_s = y_t + sum_k eps_k int_{r_t}^{r_s} l_k(t(r)) dr,    y = x / alpha

    In diffusers, the polynomial of DEIS is in log(r) instead of t.

    Facts:
        kind: deterministic, multistep
        order: `order` in the variable, t by default (3 and 4 in t fall to 2 on tabulated processes, below an error of
            about 1e-7); 2 as shipped, since the first step is of order 1
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", eq. 15, tAB-DEIS

    Args:
        order: number of points of the polynomial, in 1 .. 4; 1 is ddim, 2 to 4 are tAB1 to tAB3 in the paper.
        variable: variable of the polynomial, "t" or "log-SNR" (the logarithm of r, times -2).
        lower_order_final: whether the order falls to 1 over the last steps, as in the code of DPM-Solver's authors.

    Raises:
        ValueError: if order or variable is not one of these.
    """
    _check_order("deis", order, (1, 2, 3, 4))
    if variable not in ("t", "log-SNR"):
        raise ValueError(f"deis: unknown variable {variable!r}. Valid: 't', 'log-SNR'")
    if variable == "log-SNR":
        return _adams_bashforth(order, log_ratio, lambda schedule, t, s: lambda r: -jnp.log(r), lower_order_final)

    def time(schedule, t, s):
        # sigma may jump at t = 0 (variance exploding): for values below the jump the time is 0.
        return lambda r: jnp.clip(schedule.inverse_log_snr(-2 * jnp.log(r)), jnp.minimum(t, s), jnp.maximum(t, s))

    return _adams_bashforth(order, lambda schedule, t: t, time, lower_order_final)


def _adams_bashforth(order, node, variable, lower_order_final=False) -> Sampler:
    """A polynomial of eps in the variable `node(schedule, t)`, or `variable(schedule, t, s)` of r = sigma / alpha."""

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        outputs = prepend(prediction.eps, state.outputs)
        nodes = prepend(node(schedule, t), state.nodes)
        alpha_t = schedule.alpha(t)
        alpha_s = schedule.alpha(s)
        weights = alpha_s * integrate_polynomials(
            latest(nodes, plan, i, order, lower_order_final),
            schedule.sigma(t) / alpha_t,
            schedule.sigma(s) / alpha_s,
            variable(schedule, t, s),
            regular=(alpha_t > 0) & (alpha_s > 0),
        )
        x = ddim_step(schedule, s, prediction) + correction(weights, outputs)
        return History(x, prediction.x0, outputs[:-1], nodes[:-1])

    return Sampler(no_history(order - 1), step, draws=0, nfe=lambda steps: steps)


def _check_order(name, order, valid):
    if order not in valid:
        raise ValueError(f"{name}: order = {order} must be one of {', '.join(map(str, valid))}")
