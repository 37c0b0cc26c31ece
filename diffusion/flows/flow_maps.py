"""Flow maps: functions (x_t, t, s) -> x_s that carry a sample from time t to time s in one evaluation.

The exact flow map is the solution of the probability flow dx / dt = alpha' E[x_0 | x_t] + sigma' E[eps | x_t]. A flow
map is not a denoiser: samplers of flow maps take flow maps, samplers on manifolds take tangent fields, and all other
samplers take denoisers.
"""

__all__ = [
    "Clocks",
    "FlowMap",
    "TangentField",
    "consistency",
    "consistency_boundary",
    "from_denoiser",
    "heun",
    "latent_consistency",
    "mean_flow",
    "mean_velocity",
    "shortcut",
    "start_and_duration",
    "start_and_end",
]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_floats, require_network
from diffusion.arrays.parameters import is_number, traced
from diffusion.package import public
from diffusion.parameterizations import (
    Clock,
    Denoiser,
    Network,
    Parameterization,
    Prediction,
    check_network,
    log_sigma,
    predict,
    read_output,
    time,
)
from diffusion.parameterizations.network_outputs import check_kind
from diffusion.schedules import NoiseSchedule, at_each, check_schedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float

Clocks = Callable[[NoiseSchedule, ArrayLike, ArrayLike], tuple[Array, Array]]
"""(schedule, t, s) -> the two time inputs of a network."""
CALLED = "a function (x, clocks, condition) -> output"  # what a network of two times must be


class FlowMap(NamedTuple):
    """A function that carries a sample from time t to time s, for the samplers of flow maps.

    `FlowMap(f)` wraps any function f(x_t, t, s).

    Attributes:
        carry: (x_t, t, s) -> x_s.
    """

    carry: Callable[[Array, ArrayLike, ArrayLike], Array]

    def __call__(self, x_t: Array, t: ArrayLike, s: ArrayLike) -> Array:
        """x_s."""
        return self.carry(x_t, t, s)


class TangentField(NamedTuple):
    """The flow dx/dt = u(x, t) on a manifold, for the samplers on manifolds.

    `TangentField(manifold, u)` wraps any function u(x, t).

    Attributes:
        manifold: the `manifolds.Manifold` of the samples.
        velocity: (x `[B, *shape]`, t `[]` or `[B]`) -> dx/dt, a tangent at x `[B, *shape]`.
        score: (x, t) -> the gradient of log p_t(x), a tangent at x; None if only the flow is known.
    """

    manifold: Any
    velocity: Callable[[Any, ArrayLike], Any]
    score: Callable[[Any, ArrayLike], Any] | None = None

    def __call__(self, x: Any, t: ArrayLike) -> Any:
        """dx/dt."""
        return self.velocity(x, t)


def consistency(
    network: Network, schedule: NoiseSchedule, parameterization: Parameterization, condition: Any = None
) -> FlowMap:
    """A consistency function f(x_t, t), the end of the flow from x_t, as a flow map.

        x_s = alpha_s f + sigma_s (x_t - alpha_t f) / sigma_t

    At s = 0, the only end time for which a consistency model is trained, this is f. At 0 < s < t it is the point on the
    line from x_t to f (TCD), which is exact only where the flow is straight.

    Facts:
        map: to s = 0 exact at the optimum of consistency objectives; to s > 0 along the line to f
        network: one time
        paper: Song et al. 2023, "Consistency Models", section 3; Zheng et al. 2024, "Trajectory Consistency
            Distillation", eq. 21, for s > 0

    Args:
        network: (x `[B, ...]`, clock `[B]`, condition) -> output.
        schedule: the process.
        parameterization: the network's parameterization, whose x0 is f: `consistency_boundary()`,
            `latent_consistency()`, or any parameterization that returns x_t where sigma = 0: `edm()` (as in TrigFlow
            and ECT), `v()` or `velocity()`.
        condition: the network's condition, passed unchanged.

    Raises:
        TypeError: under the conditions of `parameterizations.denoiser`.
        ValueError: if the parameterization is not defined at schedule.t_max.
    """
    check_network(network, schedule, parameterization)

    def flow_map(x_t, t, s):
        prediction = predict(network, schedule, parameterization, x_t, t, condition)
        return _along_the_line(schedule, x_t, s, prediction)

    return FlowMap(flow_map)


def from_denoiser(denoise: Denoiser, schedule: NoiseSchedule) -> FlowMap:
    """A DDIM step as a flow map: x_s = alpha_s x0 + sigma_s eps.

    Facts:
        map: order 1 in sigma / alpha; exact as s approaches t, or for data at a single point
        network: one time
        paper: Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12

    Args:
        denoise: (x_t, t) -> Prediction.
        schedule: the process.
    """
    check_schedule(schedule)
    return FlowMap(lambda x_t, t, s: _along_the_line(schedule, x_t, s, denoise(x_t, t)))


def heun(denoise: Denoiser, schedule: NoiseSchedule) -> FlowMap:
    """A Heun step as a flow map, in r = sigma / alpha, for y = x / alpha with dy / dr = eps.

        x_s = alpha_s x0_t + sigma_s eps_t + alpha_s (r_s - r_t) / 2 (eps_s - eps_t),    eps_s at DDIM's x_s

    Facts:
        map: order 2 in sigma / alpha; two evaluations
        network: one time
        paper: Karras et al. 2022, algorithm 1; the solver of Song et al. 2023, "Consistency Models", section 6

    Args:
        denoise: (x_t, t) -> Prediction, defined at t and s.
        schedule: the process; alpha(t) and alpha(s) must not vanish.
    """
    check_schedule(schedule)

    def flow_map(x_t, t, s):
        prediction = denoise(x_t, t)
        euler = _along_the_line(schedule, x_t, s, prediction)
        t_each, s_each = (at_each(schedule, _one_each(at, x_t), x_t) for at in (t, s))
        r_t, r_s = (jnp.exp(-schedule.log_snr(at) / 2) for at in (t_each, s_each))
        weight = left_broadcast(schedule.alpha(s_each) * (r_s - r_t) / 2, x_t)
        return euler + weight * (denoise(euler, s).eps - prediction.eps)

    return FlowMap(flow_map)


def mean_flow(
    network: Network, schedule: NoiseSchedule, condition: Any = None, clocks: Clocks | None = None
) -> FlowMap:
    """The flow map of a network u that predicts the mean velocity between s and t.

        x_s = x_t - (t - s) u(x_t, t, s),    u = 1 / (t - s) integral_s^t dx / dtau dtau

    Facts:
        map: from any t to any s, exact at the optimum of `objectives.mean_flow`
        network: two times
        paper: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", eq. 3 and 12

    Args:
        network: (x `[B, ...]`, clocks ([B], [B]), condition) -> output.
        schedule: the process that the network was trained on; the rectified flow in the paper.
        condition: the network's condition, passed unchanged.
        clocks: the two time inputs of the network, as functions of t and s; `start_and_duration()` if None, as in the
            authors' code.
    """
    require_network(network, CALLED)
    check_schedule(schedule)
    clocks = clocks or start_and_duration()

    def flow_map(x_t, t, s):
        t, s = (_one_each(at, x_t) for at in (t, s))
        return x_t - left_broadcast(t - s, x_t) * mean_velocity(network, schedule, clocks, x_t, t, s, condition)

    return FlowMap(flow_map)


def shortcut(network: Network, schedule: NoiseSchedule, condition: Any = None, clock: Clock | None = None) -> FlowMap:
    """The flow map of a network that receives the time and the step size d = t - s: x_s = x_t - d u(x_t, t, d).

    Facts:
        map: for the step sizes 1 / M, 2 / M, 4 / M .. 1 on which `objectives.shortcut` trains
        network: two times (start and duration)
        paper: Frans et al. 2024, "One Step Diffusion via Shortcut Models", eq. 3

    Args:
        network: (x `[B, ...]`, (clock `[B]`, duration `[B]`), condition) -> output.
        schedule: the process that the network was trained on; the rectified flow in the paper.
        condition: the network's condition, passed unchanged.
        clock: the time that the network receives; `time()` if None.
    """
    return mean_flow(network, schedule, condition, start_and_duration(clock))


def mean_velocity(
    network: Network, schedule: NoiseSchedule, clocks: Clocks, x_t: Array, t: Array, s: Array, condition: Any = None
) -> Array:
    """The output of a network of two times, u(x_t, t, s), `[B, ...]` in float32 or wider.

    Args:
        network: (x, the two numbers of `clocks`, condition) -> output of x's shape.
        schedule: the process.
        clocks: (schedule, t, s) -> the numbers that the network receives.
        x_t: noised data `[B, ...]`, float.
        t, s: start and end of the jump, `[]` or `[B]`, or `[B, F]` with times for each frame.
        condition: pytree of arrays `[B, ...]`, or None.
    """
    require_network(network, CALLED)
    require_floats(x_t, "x_t")
    t, s = (at_each(schedule, at, x_t) for at in (t, s))
    return read_output(network(x_t, clocks(schedule, t, s), condition), x_t)


def start_and_end(clock: Clock | None = None) -> Clocks:
    """The network receives both times, (clock(t), clock(s)).

    Args:
        clock: function of each time; `parameterizations.time()` if None.
    """
    clock = clock or time()
    return lambda schedule, t, s: (clock(schedule, t), clock(schedule, s))


def start_and_duration(clock: Clock | None = None) -> Clocks:
    """The network receives the start and the duration, (clock(t), clock(t) - clock(s)).

    Args:
        clock: function of each time; `parameterizations.time()` if None.
    """
    clock = clock or time()
    return lambda schedule, t, s: (clock(schedule, t), clock(schedule, t) - clock(schedule, s))


def consistency_boundary(
    sigma_data: float = 0.5, sigma_min: float = 0.002, clock: Clock | None = None
) -> Parameterization:
    """The preconditioning of consistency models, which ensures f(x, sigma_min) = x for every network.

    With y = x_t / alpha and r = sigma / alpha,

        f = c_skip(r) y + c_out(r) F(c_in(r) y, ln(r) / 4),
        c_skip = sigma_data^2 / ((r - sigma_min)^2 + sigma_data^2),
        c_out = sigma_data (r - sigma_min) / sqrt(r^2 + sigma_data^2),    c_in = 1 / sqrt(r^2 + sigma_data^2).

    Written in alpha and sigma, no term divides by alpha. At sigma_min = 0 it is `edm`, whose boundary is at r = 0.

    Facts:
        boundary: f(x, t) = x at sigma / alpha = sigma_min
        paper: Song et al. 2023, "Consistency Models", appendix C

    Args:
        sigma_data: standard deviation of the data, > 0.
        sigma_min: the smallest sigma / alpha at which the network is used, >= 0.
        clock: the time that the network receives; `log_sigma()` if None, as in the paper.

    Raises:
        ValueError: if sigma_data is not positive or sigma_min is negative.
    """
    if not traced(sigma_data, sigma_min) and not (sigma_data > 0 and sigma_min >= 0):
        raise ValueError(
            f"consistency_boundary: sigma_data = {sigma_data} must be positive and sigma_min = "
            f"{sigma_min} not negative (0.5 and 0.002 in the paper)"
        )

    def coefficients(schedule, t, x):
        alpha = left_broadcast(schedule.alpha(t), x)
        sigma = left_broadcast(schedule.sigma(t), x)
        above = sigma - sigma_min * alpha  # alpha (r - sigma_min)
        skip = alpha * sigma_data**2 / (above**2 + alpha**2 * sigma_data**2)
        out = sigma_data * above / jnp.sqrt(alpha**2 * sigma_data**2 + sigma**2)
        return alpha, sigma, above, skip, out

    def input_scale(schedule, t):
        return 1 / jnp.sqrt(schedule.alpha(t) ** 2 * sigma_data**2 + schedule.sigma(t) ** 2)

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma, above, skip, out = coefficients(schedule, t, x_t)
        x0 = skip * x_t + out * output
        if is_number(sigma_min, 0):
            scaled = sigma_data * output / jnp.sqrt(alpha**2 * sigma_data**2 + sigma**2)
            return Prediction(x0, above / (above**2 + alpha**2 * sigma_data**2) * x_t - alpha * scaled)
        return Prediction(x0, (x_t - alpha * x0) / sigma)

    def target(schedule, t, x0, eps):
        alpha, sigma, _, skip, out = coefficients(schedule, t, x0)
        return (x0 - skip * (alpha * x0 + sigma * eps)) / out

    def defined(schedule, t):
        return jnp.asarray(schedule.sigma(t) >= 0.999 * sigma_min * schedule.alpha(t))

    least = "" if traced(sigma_min) else f" = {sigma_min:g}"
    return Parameterization(
        "consistency_boundary",
        input_scale,
        clock or log_sigma(),
        to_prediction,
        target,
        defined,
        needs=f"sigma / alpha >= sigma_min{least}, where its boundary lies",
    )


def latent_consistency(
    parameterization: Parameterization, sigma_data: float = 0.5, scaling: float = 10.0, T: int = 1000
) -> Parameterization:
    """The boundary of latent consistency models around a pretrained parameterization.

    With n = scaling T t,

        f = c_skip x_t + c_out x0,
        c_skip = sigma_data^2 / (n^2 + sigma_data^2),    c_out = n / sqrt(n^2 + sigma_data^2)

    so that a network for epsilon or v can be fine-tuned without changes; f differs from x0 only in the first few of the
    T steps. The authors' code has the index T t - 1 in place of T t, so that its f is x_t at the first step.

    Facts:
        boundary: f(x, 0) = x
        paper: Luo et al. 2023, "Latent Consistency Models", eq. 9 and appendix; scalings as in the authors' code

    Args:
        parameterization: the network's parameterization; it must be defined at the sampled times.
        sigma_data: standard deviation of the data, > 0; 0.5 in the paper.
        scaling: factor of the time in n, > 0; with a larger factor, f leaves the boundary faster. 10 in the authors'
            code.
        T: number of steps of the discrete process, >= 1.

    Raises:
        ValueError: if sigma_data, scaling or T is not positive.
    """
    check_kind(parameterization)
    if not T >= 1 or (not traced(sigma_data, scaling) and not (sigma_data > 0 and scaling > 0)):
        raise ValueError(
            f"latent_consistency: sigma_data = {sigma_data}, scaling = {scaling} and T = {T} must be positive (0.5, 10 "
            "and 1000 in the authors' code)"
        )

    def to_prediction(schedule, t, x_t, output):
        x0 = parameterization.to_prediction(schedule, t, x_t, output).x0
        n = left_broadcast(scaling * T * jnp.asarray(t), x_t)
        f = sigma_data**2 / (n**2 + sigma_data**2) * x_t + n / jnp.sqrt(n**2 + sigma_data**2) * x0
        alpha = left_broadcast(schedule.alpha(t), x_t)
        sigma = left_broadcast(schedule.sigma(t), x_t)
        return Prediction(f, (x_t - alpha * f) / sigma)

    return parameterization._replace(name="latent_consistency", to_prediction=to_prediction)


def _along_the_line(schedule, x_t, s, prediction: Prediction) -> Array:
    """The x_s with the noise and the data of a prediction at x_t."""
    s = at_each(schedule, _one_each(s, x_t), x_t)
    alpha = left_broadcast(schedule.alpha(s), x_t)
    sigma = left_broadcast(schedule.sigma(s), x_t)
    # At s = 0 the result is the estimate, even if sigma(t) = 0 leaves eps undefined.
    return alpha * prediction.x0 + jnp.where(sigma > 0, sigma * prediction.eps, 0)


def _one_each(t, x_t) -> Array:
    """t with the batch axis of x_t, in float32 or wider."""
    t = as_float(t)
    return jnp.broadcast_to(t, x_t.shape[:1]) if t.ndim == 0 and x_t.ndim > 0 else t


public.declare(__name__)
