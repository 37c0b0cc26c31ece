"""Log-likelihood of a diffusion or flow model through its probability flow, and bits per dimension of images.

The flow dx/dt = alpha' x0(x, t) + sigma' eps(x, t) is integrated in the angle atan2(sigma, alpha) instead of t; see
`probability_flow`.
"""

__all__ = [
    "Divergence",
    "Field",
    "Likelihood",
    "bits_per_dim",
    "dequantise",
    "exact",
    "hutchinson",
    "log_likelihood",
    "normal",
    "normal_density",
    "rademacher",
    "times",
]

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays import padding
from diffusion.arrays.arguments import require, require_floats, require_function, require_keys, require_shape
from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import traced
from diffusion.flows import probability_flow
from diffusion.flows.ode import Solver
from diffusion.package import public
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float, prior_std

Field = Callable[[Array], Array]
"""x `[B, ...]` -> slope of the same shape."""
Divergence = Callable[[Field, Array], tuple[Array, Array]]
"""(field, x) -> (field at x, divergence `[B]` of the field)."""


class Likelihood(NamedTuple):
    """The likelihood of a batch under the flow.

    Attributes:
        log_density: `[B]` log p(x) of the model at the first time, in nats.
        latent: `[B, ...]` x carried to the last time.
        nfe: number of evaluations of the denoiser, each with one divergence.
    """

    log_density: Array
    latent: Array
    nfe: ArrayLike


def times(schedule: NoiseSchedule, steps: int, t_start: float | None = None) -> np.ndarray:
    """`[steps + 1]` times from t_start to t_max, uniform in theta^(1/3) and thus dense near the data.

    Args:
        schedule: the process.
        steps: number of solver steps, >= 1.
        t_start: first time; schedule.t_min if None. For a network that cannot be evaluated at sigma = 0, use a slightly
            later time, such as 1e-5 with a continuous schedule (Song et al. 2021, appendix D.2).

    Raises:
        ValueError: if steps is not a positive integer, or t_start is outside [t_min, t_max).
    """
    check_schedule(schedule)
    if not steps >= 1 or steps % 1:
        raise ValueError(f"steps = {steps}: a solver takes an integer number of steps, at least 1")
    t_start = schedule.t_min if t_start is None else t_start
    if not schedule.t_min <= t_start < schedule.t_max:
        raise ValueError(
            f"t_start = {t_start} must be in [{schedule.t_min:g}, {schedule.t_max:g}), where the schedule is defined"
        )
    with jax.ensure_compile_time_eval():  # the times are concrete values, also inside a compiled function
        first, last = (float(probability_flow.angle(schedule, jnp.asarray(t))) for t in (t_start, schedule.t_max))
        angles = np.linspace(first ** (1 / 3), last ** (1 / 3), int(steps) + 1) ** 3
        grid = np.array(probability_flow.time(schedule, jnp.asarray(angles)), np.float64)
    grid[0], grid[-1] = t_start, schedule.t_max
    return grid


def log_likelihood(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    solver: Solver,
    divergence: Divergence,
    log_prior: Callable[[Array], Array] | None = None,
    real: Array | None = None,
) -> Likelihood:
    """Log-density of x under the model, by the change of variables along the probability flow.

        log p_0(x(0)) = log p_T(x(T)) + integral_0^T div dx/dt dt

    Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 39; Chen et al.
    2018, "Neural Ordinary Differential Equations", eq. 8; Grathwohl et al. 2019, "FFJORD".

    Args:
        denoise: (x_t, t) -> Prediction; called with t of shape `[B]`.
        schedule: the process.
        x: `[B, ...]` data, of any rank.
        solver: `ode.runge_kutta(times(schedule, 100))` or `ode.dormand_prince(t_start, schedule.t_max)`.
        divergence: `exact()`, or `hutchinson(probes)`, whose probes do not change during the solve.
        log_prior: x `[B, ...]` -> log-density `[B]` at solver.end; the density of `schedule.prior` if None, where the
            solver must end at schedule.t_max. With a mask it must be the density of the real values.
        real: mask of x, False on padding, see `diffusion.padding`; the result is then the density of the real values,
            whose number for `bits_per_dim` is `padding.count`. None for no padding.

    Returns:
        `Likelihood` at solver.start.

    Raises:
        ValueError: if the solver leaves the schedule's range or, without log_prior, ends below t_max, the mask removes
            everything, or log_prior does not return one number for each example.
    """
    check_schedule(schedule)
    require_floats(x, "x")
    if real is not None:
        padding.check(real, x)
    require(solver, Solver, "solver", "a Solver, such as ode.runge_kutta(likelihood.times(schedule, 100))")
    require_function(divergence, "divergence", "a Divergence, such as likelihood.exact()", takes=2)
    if solver.start < schedule.t_min or solver.end > schedule.t_max:
        raise ValueError(
            f"likelihood: the solver goes from time {solver.start:g} to {solver.end:g}, but the schedule is defined "
            f"only in [{schedule.t_min:g}, {schedule.t_max:g}]"
        )
    if log_prior is None and solver.end < schedule.t_max * (1 - 1e-6):
        raise ValueError(
            f"likelihood: the solver ends at time {solver.end:g}, but the prior is the distribution at t_max = "
            f"{schedule.t_max:g}. Valid: a solver that ends there, log_prior=, or the schedule "
            f"schedules.ending_at(schedule, {solver.end:g})"
        )
    x = padding.zeroed(as_float(x), real)
    prior = log_prior if log_prior is not None else _log_prior(schedule, real)
    first, last = (probability_flow.radius(schedule, jnp.asarray(t, x.dtype)) for t in (solver.start, solver.end))
    velocity = probability_flow.velocity(denoise, schedule)
    field = lambda theta, u: padding.zeroed(velocity(theta, padding.zeroed(u, real)), real)
    flow = lambda theta, state: divergence(lambda u: field(theta, u), state[0])
    begin = (x / first, jnp.zeros(x.shape[:1], x.dtype))
    (u, gained), nfe = solver.solve(flow, lambda t: probability_flow.angle(schedule, t), begin)
    latent = u * last
    at_end = prior(latent)
    require_shape(at_end, x.shape[:1], "the result of log_prior, one number for each example,")
    log_density = at_end + gained + _total(jnp.log(last) - jnp.log(first), x, real)
    return Likelihood(log_density, latent, nfe)


def exact() -> Divergence:
    """The exact trace of the Jacobian, by one vector-Jacobian product for each number of an example.

    Returns:
        (field, u `[B, ...]`) -> (field(u), divergence `[B]`), where the field treats examples independently.
    """

    def divergence(field, u):
        value, pullback = jax.vjp(field, u)
        dims = math.prod(u.shape[1:])

        def diagonal(i):
            basis = jnp.zeros(dims, u.dtype).at[i].set(1).reshape(u.shape[1:])
            row = pullback(jnp.broadcast_to(basis, u.shape).astype(value.dtype))[0]
            return row.reshape(len(u), dims)[:, i]

        return value, jax.lax.map(diagonal, jnp.arange(dims)).sum(axis=0)

    return divergence


def hutchinson(probes: Array) -> Divergence:
    """The unbiased estimate mean_k z_k^T (d field / du) z_k, with one vector-Jacobian product per probe.

    Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"; Grathwohl et al. 2019, section 3.1.
    The probes are an argument, so they are the same in all evaluations: the solver then integrates a smooth function,
    and its result is an unbiased estimate of the log-likelihood.

    Args:
        probes: `[K, B, ...]` from `rademacher` or `normal`.

    Returns:
        (field, u `[B, ...]`) -> (field(u), estimate of the divergence `[B]`).
    """

    def divergence(field, u):
        if probes.shape[1:] != u.shape:
            raise ValueError(f"probes must have shape [K, {', '.join(map(str, u.shape))}], got {list(probes.shape)}")
        value, pullback = jax.vjp(field, u)
        along = lambda z: flattened(z * pullback(z.astype(value.dtype))[0]).sum(axis=1)
        return value, jax.lax.map(along, probes.astype(u.dtype)).mean(axis=0)

    return divergence


def rademacher(keys: Array, shape: tuple[int, ...], count: int = 1) -> Array:
    """`[count, B, *shape]` probes of -1 and 1, drawn for each example from its key; they have the least variance.

    Args:
        keys: `[B]` random keys, one for each example, which must not be used elsewhere.
        shape: shape of an example.
        count: number of probes for each example.

    Raises:
        ValueError: if keys are raw keys, or a single key.
    """
    _check_probe_keys(keys)
    return jax.vmap(lambda key: jax.random.rademacher(key, (count, *shape), jnp.float32), out_axes=1)(keys)


def normal(keys: Array, shape: tuple[int, ...], count: int = 1) -> Array:
    """`[count, B, *shape]` standard normal probes, drawn for each example from its key.

    Args:
        keys: `[B]` random keys, one for each example, which must not be used elsewhere.
        shape: shape of an example.
        count: number of probes for each example.

    Raises:
        ValueError: if keys are raw keys, or a single key.
    """
    _check_probe_keys(keys)
    return jax.vmap(lambda key: jax.random.normal(key, (count, *shape), jnp.float32), out_axes=1)(keys)


def _check_probe_keys(keys: Array) -> None:
    require_keys(keys, jnp.shape(keys)[0] if jnp.ndim(keys) else 1, "probes need one key for each example")


def normal_density(scale: ArrayLike, real: Array | None = None) -> Callable[[Array], Array]:
    """x `[B, ...]` -> log N(x; 0, scale^2 I) `[B]`.

    Args:
        scale: standard deviation, > 0: one number, or one for each number of a vector, `[D]`.
        real: mask of x, False on padding, where x is zero; None for no padding.
    """

    def log_density(x):
        squares = flattened((x / scale) ** 2)
        return -0.5 * jnp.sum(squares, axis=1) - _total(0.5 * math.log(2 * math.pi) + jnp.log(scale), x, real)

    return log_density


def dequantise(images: Array, keys: Array) -> Array:
    """Uniform dequantisation (byte + u) / 128 - 1 with u uniform in [0, 1), float32 in [-1, 1).

    Theis et al. 2016, "A note on the evaluation of generative models", section 3.1, in the scaling of Song et al. 2021.
    The result differs from byte / 127.5 - 1, on which many networks are trained, by at most one level, and by at most
    half a level on average.

    Args:
        images: uint8 `[B, ...]`.
        keys: `[B]` random keys, one for each image, which must not be used elsewhere.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if there is not one key for each image.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"dequantisation takes uint8 images of 256 levels, got {images.dtype}")
    require_keys(keys, len(images), f"dequantisation needs one key for each of the {len(images)} images")
    noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], jnp.float32))(keys)
    # With u rounded to a multiple of 2^-16, the sum is exact in float32, so it is never rounded up to the next level.
    noise = jnp.floor(noise * 2**16) / 2**16
    return (images.astype(jnp.float32) + noise) / 128 - 1


def bits_per_dim(log_density: Array, dims: ArrayLike) -> Array:
    """Bits per dimension of images of 256 levels in [-1, 1): -log p(x) / (D ln 2) + 7.

    A level is 2/256 wide, so -log2 of its probability is -log2 p(x) - log2(2/256) per dimension. The mean over
    dequantisation noise is an upper bound of the true code length (Jensen). Theis et al. 2016; Song et al. 2021.

    Args:
        log_density: log-density `[B]` of dequantised images, in nats.
        dims: how many numbers D an image has, >= 1; `[B]` if images are padded, see `padding.count`.

    Raises:
        ValueError: if an image has no numbers; traced numbers pass.
    """
    if not traced(dims) and np.any(np.asarray(dims) < 1):
        raise ValueError(f"bits_per_dim: dims = {dims}, the numbers that an image has, must be at least 1")
    return -log_density / (dims * math.log(2)) + 7


def _log_prior(schedule: NoiseSchedule, real: Array | None = None) -> Callable[[Array], Array]:
    """The log-density of `schedule.prior`."""
    return lambda x: normal_density(prior_std(schedule, jnp.asarray(schedule.t_max, x.dtype)), real)(x)


def _total(value: Array, x: Array, real: Array | None) -> Array:
    """The sum over the real numbers of an example, `[]` or `[B]`, of one value, or of a value for each number `[D]`."""
    if jnp.ndim(value) == 0:
        return value * (math.prod(x.shape[1:]) if real is None else padding.count(real, x).astype(value.dtype))
    return flattened(padding.zeroed(jnp.broadcast_to(value, x.shape), real)).sum(axis=1)


public.declare(__name__)
