"""The meaning of a network's output, and the one place where it becomes a `Prediction(x0, eps)`.

Each parameterization is a tuple of functions of (schedule, t). Samplers, guidance, likelihood and editing see only
predictions, in which alpha(t) x0 + sigma(t) eps = x_t holds.
"""

__all__ = [
    "Clock",
    "Denoiser",
    "Network",
    "Parameterization",
    "Prediction",
    "check",
    "check_network",
    "checked",
    "clipped_x0",
    "denoiser",
    "derivatives",
    "edm",
    "epsilon",
    "evaluate",
    "learned_variance",
    "log_sigma",
    "noise_level",
    "predict",
    "read_output",
    "reversed_time",
    "score",
    "steps",
    "time",
    "v",
    "velocity",
    "x0",
]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion import public
from diffusion.arguments import described, require, require_floats, require_function
from diffusion.schedules import NoiseSchedule, at_each, check_schedule, left_broadcast

Network = Callable[..., Any]
"""(x, clock or clocks, condition) -> an array, with heads beside it where an objective needs them.

With features=(block, ...), where an objective requests them: (that, a tuple of the features after these blocks).
"""
Clock = Callable[[NoiseSchedule, ArrayLike], Array]
"""(schedule, t) -> the time that a network receives."""


class Prediction(NamedTuple):
    """A denoiser's estimates from x_t.

    Attributes:
        x0: `[B, ...]` estimate of E[x_0 | x_t].
        eps: `[B, ...]` estimate of E[eps | x_t]; alpha(t) x0 + sigma(t) eps = x_t.
        variance: `[B, ...]` in [0, 1], or None: the position of a learned variance between the smallest and the largest
            posterior variance, on a logarithmic scale (Nichol and Dhariwal 2021, eq. 15).
    """

    x0: Array
    eps: Array
    variance: Array | None = None


Denoiser = Callable[[Array, ArrayLike], Prediction]
"""(x_t, t) -> `Prediction`."""


class Parameterization(NamedTuple):
    """The input of a network at time t, and the meaning of its output.

    Attributes:
        name: its name in the tables of names.
        input_scale: (schedule, t) -> c_in, by which x_t is multiplied before it enters the network.
        clock: (schedule, t) -> the time that the network receives.
        to_prediction: (schedule, t, x_t, output) -> `Prediction`.
        target: (schedule, t, x0, eps) -> the output that a perfect network would have for this pair.
        defined: (schedule, t) -> Bool, whether `to_prediction` divides by nothing that vanishes at t.
        needs: the condition that `defined` checks, in words.
        channels: number of the network's channels over x's: 1, or 2 where it learns a variance too.
    """

    name: str
    input_scale: Callable[[NoiseSchedule, ArrayLike], Array]
    clock: Clock
    to_prediction: Callable[[NoiseSchedule, ArrayLike, Array, Array], Prediction]
    target: Callable[[NoiseSchedule, ArrayLike, Array, Array], Array]
    defined: Callable[[NoiseSchedule, ArrayLike], Array]
    needs: str
    channels: int = 1


def denoiser(
    network: Network, schedule: NoiseSchedule, parameterization: Parameterization, condition: Any = None
) -> Denoiser:
    """Turns a network into a function (x_t, t) -> `Prediction`.

        output = network(c_in(t) x_t, clock(t), condition)

    Args:
        network: (x `[B, ...]`, clock `[B]` or `[B, F]`, condition) -> output, any callable.
        schedule: the process.
        parameterization: meaning of the network's output.
        condition: passed to the network as it is; a pytree with leading axis B, or None.

    Returns:
        denoise(x_t, t), where t has a shape that is a prefix of x_t's; predictions are at least float32.

    Raises:
        TypeError: if one of them has another type, such as schedules.cosine without ().
        ValueError: if the parameterization is not defined at schedule.t_max, where sampling starts; from denoise, as
            `evaluate`.
    """
    check_network(network, schedule, parameterization)

    def denoise(x_t: Array, t: ArrayLike) -> Prediction:
        return predict(network, schedule, parameterization, x_t, t, condition)

    return denoise


def predict(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Array,
    t: ArrayLike,
    condition: Any = None,
) -> Prediction:
    """One evaluation of a network as a `Prediction`, without the checks of `denoiser`; the arguments are the same."""
    output, t = evaluate(network, schedule, parameterization, x_t, t, condition)
    return parameterization.to_prediction(schedule, t, x_t, output)


def evaluate(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Array,
    t: ArrayLike,
    condition: Any = None,
) -> tuple[Array, Array]:
    """The raw output of a network at (x_t, t), in float32 or wider, and t with at least the batch axis `[B]`.

    Raises:
        TypeError: if x_t does not hold floating-point numbers.
        ValueError: if the network's output does not have the shape of x_t, with `parameterization.channels` times its
            channels; outside of `jit`, if a time lies outside of [0, schedule.t_max].
    """
    require_floats(x_t, "x_t")
    t = jnp.asarray(t)
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    if not isinstance(t, Tracer) and not isinstance(schedule.t_max, Tracer):
        outside = ~((t >= 0) & (t <= schedule.t_max * (1 + 1e-6)))  # NaN too
        if outside.any():
            raise ValueError(
                f"t = {float(t[outside].ravel()[0]):g} is outside of this schedule's times, "
                f"[0, {schedule.t_max:g}]; t = 0 is the data"
            )
    if t.ndim == 0 and x_t.ndim > 0:
        t = jnp.broadcast_to(t, x_t.shape[:1])
    t = at_each(schedule, t, x_t)
    c_in = left_broadcast(parameterization.input_scale(schedule, t), x_t)
    output = network(c_in * x_t, parameterization.clock(schedule, t), condition)
    return read_output(output, x_t, parameterization.channels), t


def read_output(output: Any, x: Array, channels: int = 1) -> Array:
    """A network's output for x, in float32 or wider; refuses another shape, which would be broadcast.

    Args:
        output: `[B, ..., channels C]`.
        x: `[B, ..., C]`.
        channels: number of its channels over x's.

    Raises:
        ValueError: naming both shapes.
    """
    shape = x.shape if channels == 1 else (*x.shape[:-1], channels * x.shape[-1])
    if getattr(output, "shape", None) != shape:
        reason = "that of x" if channels == 1 else f"{channels} times its channels"
        raise ValueError(
            f"the network returned {described(output)}, for x of shape {x.shape}; its output needs the "
            f"shape {shape}, {reason}"
        )
    return output.astype(jnp.promote_types(output.dtype, jnp.float32))


def checked(denoise: Denoiser) -> Denoiser:
    """A denoiser that raises an error if its output is not a `Prediction` of x_t's shape.

    Args:
        denoise: (x_t, t) -> Prediction.

    Returns:
        The same function, with a TypeError or a ValueError that names the output.
    """

    def read(x_t, t):
        advice = "a network becomes a denoiser by parameterizations.denoiser(network, schedule, parameterization)"
        try:
            prediction = denoise(x_t, t)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # from inside the denoiser; otherwise it takes other arguments
            raise TypeError(
                f"a denoiser is called as denoise(x_t, t), and this one refused: {error}; {advice}"
            ) from None
        require(prediction, Prediction, "what a denoiser returns", f"a Prediction(x0, eps); {advice}")
        for name, part in zip(("x0", "eps"), prediction[:2]):
            if jnp.shape(part) != x_t.shape:
                raise ValueError(
                    f"the {name} of a denoiser must have the shape of x_t, {x_t.shape}, and has {jnp.shape(part)}"
                )
        return prediction

    return read


def check_network(network: Network, schedule: NoiseSchedule, parameterization: Parameterization) -> None:
    """Checks the arguments of `denoiser`, with the errors that it raises."""
    require_function(network, "network", "a function (x, clock, condition) -> output")
    check(parameterization, schedule)


def check(parameterization: Parameterization, schedule: NoiseSchedule, times: ArrayLike | None = None) -> None:
    """Refuses times at which a network of this parameterization cannot be read.

    Args:
        parameterization: the parameterization.
        schedule: the process.
        times: concrete times of any shape, each one at which the network is to be evaluated; schedule.t_max if None.

    Raises:
        TypeError: if the schedule or the parameterization has another type.
        ValueError: naming the first time at which it is not defined, and what it needs.
    """
    check_schedule(schedule)
    require(parameterization, Parameterization, "parameterization", "a Parameterization, such as parameterizations.v()")
    times = schedule.t_max if times is None else times
    if isinstance(times, Tracer):
        return
    if schedule.leaves:
        for _, leaf in schedule.leaves:
            check(parameterization, leaf, times)
        return
    times = np.atleast_1d(np.asarray(times, np.float64))
    with jax.ensure_compile_time_eval():  # so that a denoiser can be built under jit too
        t = jnp.asarray(times)
        defined = parameterization.defined(schedule, t)
        finite = jnp.isfinite(parameterization.clock(schedule, t))
    if isinstance(defined, Tracer) or isinstance(finite, Tracer):
        return  # the schedule itself is being differentiated or compiled, and has no values yet
    defined = np.asarray(defined)
    finite = np.asarray(finite)
    if not finite.all():
        raise ValueError(
            f"{parameterization.name} prediction: the network's clock is not finite at "
            f"t = {times[~finite][0]:g} of this schedule; ln(sigma / alpha) needs sigma > 0 and alpha > 0. "
            "Use the clock time(), or a schedule that does not reach this end: "
            "schedule._replace(t_max=...), for training and sampling alike."
        )
    if not defined.all():
        t = times[~defined][0]
        raise ValueError(
            f"{parameterization.name} prediction is not defined at t = {t:g} of this schedule: it needs "
            f"{parameterization.needs}. Use v, velocity or edm there, which divide by neither, "
            "or a schedule that does not reach this end: schedule._replace(t_max=...), for training and sampling alike."
        )


def time(scale: float = 1.0) -> Clock:
    """The network receives scale t: t itself, or 1000 t by the transformers of flows (Esser et al. 2024)."""
    return lambda schedule, t: scale * jnp.asarray(t) if scale != 1 else jnp.asarray(t)


def steps(T: int = 1000) -> Clock:
    """The network receives the index T t - 1 of a discrete process of T steps, 0 .. T - 1 (Ho et al. 2020)."""
    return lambda schedule, t: T * jnp.asarray(t) - 1


def log_sigma(scale: float = 0.25) -> Clock:
    """The network receives scale ln(sigma / alpha), a quarter by Karras et al. 2022 (table 1, c_noise).

    The code of consistency models (Song et al. 2023) has 250.
    """
    return lambda schedule, t: -scale / 2 * schedule.log_snr(t)


def reversed_time() -> Clock:
    """The network receives 1 - t, for networks trained with their data at time 1 (Ma et al. 2024, SiT's code)."""
    return lambda schedule, t: 1 - jnp.asarray(t)


def noise_level() -> Clock:
    """The network receives alpha, the square root of alpha-bar: the noise level of WaveGrad (Chen et al. 2021)."""
    return lambda schedule, t: schedule.alpha(jnp.asarray(t))


def epsilon(clock: Clock | None = None) -> Parameterization:
    """The network predicts the noise: x0 = (x_t - sigma eps) / alpha. Ho et al. 2020, eq. 11.

    Args:
        clock: the network's time; `time()` if None, as in every parameterization but EDM's.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction((x_t - sigma * output) / alpha, output)

    return Parameterization(
        "epsilon",
        _unscaled,
        clock or time(),
        to_prediction,
        target=lambda schedule, t, x0, eps: eps,
        defined=lambda schedule, t: schedule.alpha(t) > 0,
        needs="alpha(t) > 0, because x0 = (x_t - sigma eps) / alpha",
    )


def x0(clock: Clock | None = None) -> Parameterization:
    """The network predicts the data: eps = (x_t - alpha x0) / sigma. Salimans and Ho 2022, section 4.

    Args:
        clock: the network's time.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction(output, (x_t - alpha * output) / sigma)

    return Parameterization(
        "x0",
        _unscaled,
        clock or time(),
        to_prediction,
        target=lambda schedule, t, x0, eps: x0,
        defined=lambda schedule, t: schedule.sigma(t) > 0,
        needs="sigma(t) > 0, because eps = (x_t - alpha x0) / sigma",
    )


def clipped_x0(floor: float = 0.05, clock: Clock | None = None) -> Parameterization:
    """The network predicts the data, and is read as a velocity without division by less than `floor`.

        u = (sigma' / w x_t - output) / max(sigma / w, floor),    w = alpha sigma' - sigma alpha'

    and x0, eps follow from u as in `velocity`. For the rectified flow u = (x_t - output) / max(t, floor): above the
    floor the output is x0; below it x0 lies between the output and x_t, and everything stays finite up to the data.
    With the weighting constant(velocity()) the loss is JiT's, on the velocity. Li and He 2025, "Back to Basics: Let
    Denoising Generative Models Denoise", section 3 and the authors' denoiser.py, whose t_eps is `floor`.

    Args:
        floor: least value of sigma / w, > 0; of the rectified flow's t.
        clock: the network's time.

    Raises:
        ValueError: if floor is not positive.
    """
    if not floor > 0:
        raise ValueError(f"clipped_x0: floor = {floor} must be positive (0.05 in JiT's code)")
    by_velocity = velocity(clock)

    def scaled(schedule, t, x_t):
        """sigma' / w x_t, and max(sigma / w, floor)."""
        _, sigma = _coefficients(schedule, t, x_t)
        _, sigma_dot, w, _ = _rates(schedule, t, x_t)
        return sigma_dot / w * x_t, jnp.maximum(sigma / w, floor)

    def to_prediction(schedule, t, x_t, output):
        x, left = scaled(schedule, t, x_t)
        return by_velocity.to_prediction(schedule, t, x_t, (x - output) / left)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        x, left = scaled(schedule, t, alpha * x0 + sigma * eps)
        return x - left * by_velocity.target(schedule, t, x0, eps)

    return by_velocity._replace(name="clipped_x0", to_prediction=to_prediction, target=target)


def v(clock: Clock | None = None) -> Parameterization:
    """The network predicts v = alpha eps - sigma x0, whose conversion divides by neither alpha nor sigma.

        x0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2),    eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2)

    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D, with
    alpha^2 + sigma^2 = 1 there.

    Args:
        clock: the network's time.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        norm = alpha**2 + sigma**2
        return Prediction((alpha * x_t - sigma * output) / norm, (sigma * x_t + alpha * output) / norm)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        return alpha * eps - sigma * x0

    return Parameterization("v", _unscaled, clock or time(), to_prediction, target, _always, "nothing")


def score(clock: Clock | None = None) -> Parameterization:
    """The network predicts the score of q(x_t): eps = -sigma score, x0 = (x_t + sigma^2 score) / alpha.

    The score is -E[eps | x_t] / sigma only where eps was drawn independently of x_0. Song et al. 2021, eq. 7.

    Args:
        clock: the network's time.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction((x_t + sigma**2 * output) / alpha, -sigma * output)

    def target(schedule, t, x0, eps):
        return -eps / left_broadcast(schedule.sigma(t), eps)

    return Parameterization(
        "score",
        _unscaled,
        clock or time(),
        to_prediction,
        target,
        defined=lambda schedule, t: (schedule.alpha(t) > 0) & (schedule.sigma(t) > 0),
        needs="alpha(t) > 0 and sigma(t) > 0, because x0 = (x_t + sigma^2 score) / alpha and score = -eps / sigma",
    )


def velocity(clock: Clock | None = None) -> Parameterization:
    """The network predicts the flow's velocity u = alpha' x0 + sigma' eps, with derivatives in t.

        x0 = (sigma' x_t - sigma u) / w,    eps = (alpha u - alpha' x_t) / w,    w = alpha sigma' - sigma alpha'

    For the rectified flow u = eps - x0 and w = 1 at every t. Where sigma leaves 0 with an infinite slope, as that of
    `schedules.cosine`, u is infinite at t = 0, and the prediction is the limit for any finite output: x0 = x_t / alpha
    and eps = 0. Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 23; Ma et al. 2024, "SiT".

    Args:
        clock: the network's time.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        alpha_dot, sigma_dot, w, rising = _rates(schedule, t, x_t)
        noise = (alpha * output - alpha_dot * x_t) / w
        return Prediction((sigma_dot * x_t - sigma * output) / w, jnp.where(rising, 0, noise))

    def target(schedule, t, x0, eps):
        alpha_dot, sigma_dot = derivatives(schedule, t, x0)
        return alpha_dot * x0 + sigma_dot * eps

    def defined(schedule, t):
        alpha_dot, sigma_dot = derivatives(schedule, t, jnp.asarray(t))
        w = schedule.alpha(t) * sigma_dot - schedule.sigma(t) * alpha_dot
        return jnp.isfinite(w) & (w != 0)

    return Parameterization(
        "velocity",
        _unscaled,
        clock or time(),
        to_prediction,
        target,
        defined,
        needs="alpha sigma' - sigma alpha' finite and not zero at t",
    )


def edm(sigma_data: float = 0.5, clock: Clock | None = None) -> Parameterization:
    """EDM's preconditioning, for any schedule.

    With y = x_t / alpha and s = sigma / alpha,

        x0 = c_skip(s) y + c_out(s) F(c_in(s) y, c_noise(s)),
        c_skip = sigma_data^2 / (s^2 + sigma_data^2),    c_out = s sigma_data / sqrt(s^2 + sigma_data^2),
        c_in = 1 / sqrt(s^2 + sigma_data^2),             c_noise = ln(s) / 4.

    Written in alpha and sigma, no term divides by either. Karras et al. 2022, eq. 7 and table 1.

    Args:
        sigma_data: standard deviation of the data, > 0.
        clock: the network's time; `log_sigma()` if None, as published.

    Raises:
        ValueError: if sigma_data is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"edm preconditioning: sigma_data = {sigma_data} must be positive (0.5 in the paper)")

    def variance(alpha, sigma):
        return alpha**2 * sigma_data**2 + sigma**2

    def input_scale(schedule, t):
        return 1 / jnp.sqrt(variance(schedule.alpha(t), schedule.sigma(t)))

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        var = variance(alpha, sigma)
        scaled = sigma_data * output / jnp.sqrt(var)
        return Prediction(alpha * sigma_data**2 / var * x_t + sigma * scaled, sigma / var * x_t - alpha * scaled)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        return (sigma * x0 - alpha * sigma_data**2 * eps) / (sigma_data * jnp.sqrt(variance(alpha, sigma)))

    return Parameterization("edm", input_scale, clock or log_sigma(), to_prediction, target, _always, "nothing")


def learned_variance(parameterization: Parameterization) -> Parameterization:
    """A network with twice the channels: the first half as in `parameterization`, the second the variance.

    The second half o in [-1, 1] gives the fraction (o + 1) / 2 of `Prediction.variance`. `target` stays the target
    of the first half. Nichol and Dhariwal 2021, eq. 15, in the scaling of the authors' code; DiT's "learned sigma".

    Args:
        parameterization: the meaning of the first C of 2 C channels.
    """

    def to_prediction(schedule, t, x_t, output):
        mean, fraction = jnp.split(read_output(output, x_t, 2), 2, axis=-1)
        prediction = parameterization.to_prediction(schedule, t, x_t, mean)
        return prediction._replace(variance=(fraction + 1) / 2)

    return parameterization._replace(name="learned_variance", to_prediction=to_prediction, channels=2)


def derivatives(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    """d alpha / dt and d sigma / dt, shaped to multiply x example by example."""
    t = jnp.asarray(t)
    t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    one = jnp.ones_like(t)
    rate = lambda f: left_broadcast(jax.jvp(f, (t,), (one,))[1], x)
    return rate(schedule.alpha), rate(schedule.sigma)


def _rates(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array, Array, Array]:
    """alpha', sigma' and w = alpha sigma' - sigma alpha', up to a common factor; and whether sigma' is infinite there.

    The factor is 1 but at the data, sigma = 0, where w may be infinite.
    """
    alpha, sigma = _coefficients(schedule, t, x)
    alpha_dot, sigma_dot = derivatives(schedule, t, x)
    w = alpha * sigma_dot - sigma * alpha_dot
    rising = (sigma == 0) & ~jnp.isfinite(w)
    return jnp.where(rising, 0, alpha_dot), jnp.where(rising, 1, sigma_dot), jnp.where(rising, alpha, w), rising


def _coefficients(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    return left_broadcast(schedule.alpha(t), x), left_broadcast(schedule.sigma(t), x)


def _unscaled(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    return jnp.ones_like(schedule.alpha(t))


def _always(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    return jnp.ones(jnp.shape(t), bool)


public.declare(__name__)
