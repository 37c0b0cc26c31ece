"""Predictions of x_0 and eps, and the function that reads a network's output as a prediction."""

__all__ = [
    "Clock",
    "Denoiser",
    "Network",
    "Parameterization",
    "Prediction",
    "check",
    "check_kind",
    "check_network",
    "checked",
    "denoiser",
    "evaluate",
    "predict",
    "read_output",
    "reads_alike",
]

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import (
    described,
    require,
    require_floats,
    require_function,
    require_network,
    require_rows,
)
from diffusion.arrays.equal_programs import same_program
from diffusion.package import public
from diffusion.parameterizations.sampled_process import belonging_to
from diffusion.schedules import NoiseSchedule, at_each, check_schedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float, check_times

Network = Callable[..., Any]
"""A function (x, clock or clocks, condition) -> output: an array, or a tuple of the array and further heads.

Some objectives need further heads. Some pass features=(block, ...); the network then returns (output, a tuple of the
features after these blocks).
"""
Clock = Callable[[NoiseSchedule, ArrayLike], Array]
"""A function (schedule, t) -> the time that a network receives."""


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
"""A function (x_t, t) -> `Prediction`."""


class Parameterization(NamedTuple):
    """The input of a network at time t, and the meaning of its output.

    Attributes:
        name: the parameterization's name in a config.
        input_scale: (schedule, t) -> c_in, by which x_t is multiplied before it enters the network.
        clock: (schedule, t) -> the time that the network receives.
        to_prediction: (schedule, t, x_t, output) -> `Prediction`.
        target: (schedule, t, x0, eps) -> the output that a network is trained to have for this pair.
        defined: (schedule, t) -> Bool, True unless `to_prediction` would divide by zero at t.
        needs: the condition that `defined` checks, in words.
        channels: the network's output channels divided by the channels of x: 1, or 2 if it also learns a variance.
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
        condition: the network's condition, passed unchanged: a pytree with leading axis B, or None.

    Returns:
        denoise(x_t, t), where t has a shape that is a prefix of x_t's; predictions are at least float32.

    Raises:
        TypeError: if an argument has the wrong type, such as schedules.cosine without ().
        ValueError: if the parameterization is not defined at schedule.t_max, where sampling starts. The returned
            function raises the errors of `evaluate`.
    """
    check_network(network, schedule, parameterization)

    def denoise(x_t: Array, t: ArrayLike) -> Prediction:
        return predict(network, schedule, parameterization, x_t, t, condition)

    return belonging_to(schedule, denoise)


def predict(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Array,
    t: ArrayLike,
    condition: Any = None,
) -> Prediction:
    """One evaluation of a network as a `Prediction`, without the checks of `denoiser`.

    Args:
        network: (c_in x_t, clock, condition) -> output.
        schedule: the process.
        parameterization: the meaning of the output.
        x_t: noisy samples `[B, ...]`.
        t: times, of a shape that is a prefix of x_t's: `[]`, `[B]`, or `[B, F]`.
        condition: the network's condition, a pytree, or None.
    """
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
    """The raw output of a network at (x_t, t), called with c_in(t) x_t, clock(t) and the condition.

    Args:
        network: (x, clock, condition) -> output.
        schedule: the process.
        parameterization: meaning of the output, with c_in, the clock and the number of channels.
        x_t: noised data `[B, ...]`, float.
        t: times in [0, t_max], `[]`, `[B]`, or `[B, F]` with a time for each frame.
        condition: pytree of arrays `[B, ...]`, or None.

    Returns:
        (the output in float32 or wider, t with at least the batch axis `[B]`).

    Raises:
        TypeError: if the network does not take three arguments, or x_t does not hold floating-point numbers.
        ValueError: if the network's output does not have the shape of x_t with `parameterization.channels` times the
            channels; if the condition has neither one row nor as many rows as x_t; or, outside of `jit`, if a time lies
            outside of [0, schedule.t_max].
    """
    require_network(network)
    require_floats(x_t, "x_t")
    t = as_float(t)
    if x_t.ndim:
        require_rows(condition, "the condition", (len(x_t), 1))
    check_times(schedule, t)  # also where the network is traced as a function of x alone
    if t.ndim == 0 and x_t.ndim > 0:
        t = jnp.broadcast_to(t, x_t.shape[:1])
    t = at_each(schedule, t, x_t)
    c_in = left_broadcast(parameterization.input_scale(schedule, t), x_t)
    output = network(c_in * x_t, parameterization.clock(schedule, t), condition)
    return read_output(output, x_t, parameterization.channels), t


def read_output(output: Any, x: Array, channels: int = 1) -> Array:
    """A network's output for x, in float32 or wider.

    An output of a wrong shape is refused, since later operations could broadcast it without an error.

    Args:
        output: the network's output `[B, ..., channels C]`.
        x: the samples `[B, ..., C]` that the network received.
        channels: the output's channels divided by the channels of x.

    Raises:
        TypeError: if the output does not hold floating-point numbers.
        ValueError: if the output has another shape; the message names both shapes.
    """
    shape = x.shape if channels == 1 else (*x.shape[:-1], channels * x.shape[-1])
    if getattr(output, "shape", None) != shape:
        reason = "as x has" if channels == 1 else f"{channels} times its channels"
        raise ValueError(
            f"the network returned {described(output)}, for x of shape {x.shape}; its output must have the shape "
            f"{shape}, {reason}"
        )
    require_floats(output, "the network's output", more="")
    return as_float(output)


def checked(denoise: Denoiser) -> Denoiser:
    """A denoiser that raises an error if its output is not a `Prediction` of x_t's shape.

    Args:
        denoise: (x_t, t) -> Prediction.

    Returns:
        The same function; it raises a TypeError or a ValueError that describes a wrong output.
    """

    def read(x_t, t):
        advice = "a network becomes a denoiser by parameterizations.denoiser(network, schedule, parameterization)"
        try:
            prediction = denoise(x_t, t)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # the error arose inside the denoiser; otherwise the denoiser takes other arguments
            raise TypeError(
                f"a denoiser is called as denoise(x_t, t), but this one raised: {error}; {advice}"
            ) from None
        require(prediction, Prediction, "what a denoiser returns", f"a Prediction(x0, eps); {advice}")
        for name, part in zip(("x0", "eps"), prediction[:2]):
            require_floats(part, f"the {name} of a denoiser", more="")
            if jnp.shape(part) != x_t.shape:
                raise ValueError(
                    f"the {name} of a denoiser must have the shape of x_t, {x_t.shape}; got {jnp.shape(part)}"
                )
        return prediction

    return read


def check_network(network: Network, schedule: NoiseSchedule, parameterization: Parameterization) -> None:
    """Checks the arguments of `denoiser`, and raises its errors."""
    require_network(network)
    check(parameterization, schedule)


def check_kind(parameterization: Parameterization) -> None:
    """Refuses a value that is not a parameterization, such as a function of `parameterizations` that was not called.

    Raises:
        TypeError: if the value is not a parameterization; the message names it.
    """
    require(parameterization, Parameterization, "parameterization", "a Parameterization, such as parameterizations.v()")


def reads_alike(one: Parameterization, other: Parameterization, schedule: NoiseSchedule) -> bool:
    """Whether two parameterizations give a network the same input and turn its output into the same prediction.

    The names do not count: the function compares values at seven times inside the schedule.

    Args:
        one, other: the parameterizations to compare.
        schedule: the process, with concrete coefficients.
    """
    if one is other or one.channels != other.channels:
        return one is other
    if schedule.leaves:
        return all(reads_alike(one, other, leaf) for _, leaf in schedule.leaves)
    t = np.linspace(schedule.t_min, schedule.t_max, 9, dtype=np.float32)[1:-1]
    rng = np.random.default_rng(0)
    x_t, output = (rng.standard_normal((7, width), np.float32) for width in (2, 2 * one.channels))

    def values(parameterization: Parameterization, t: Array, x_t: Array, output: Array) -> Any:
        clock = parameterization.clock(schedule, t)
        scale = jnp.broadcast_to(parameterization.input_scale(schedule, t), t.shape)
        return clock, scale, *parameterization.to_prediction(schedule, t, x_t, output)

    functions = [functools.partial(values, parameterization) for parameterization in (one, other)]
    if same_program(*functions, t, x_t, output):
        return True  # nothing needs to be compiled
    mine, theirs = (jax.tree.leaves(jax.jit(function)(t, x_t, output)) for function in functions)
    return len(mine) == len(theirs) and all(np.allclose(a, b, 1e-4, 1e-5, equal_nan=True) for a, b in zip(mine, theirs))


def check(parameterization: Parameterization, schedule: NoiseSchedule, times: ArrayLike | None = None) -> None:
    """Refuses times at which a network of this parameterization cannot be read.

    Args:
        parameterization: the parameterization.
        schedule: the process.
        times: concrete times, of any shape, at which the network will be evaluated; schedule.t_max if None.

    Raises:
        TypeError: if the schedule or the parameterization has another type.
        ValueError: if the parameterization is not defined at one of the times. The message names the first such time
            and the condition that fails.
    """
    check_schedule(schedule)
    check_kind(parameterization)
    require_function(
        parameterization.clock, "clock", "a function (schedule, t) -> time, such as parameterizations.time()", takes=2
    )
    times = schedule.t_max if times is None else times
    if isinstance(times, Tracer):
        return
    if schedule.leaves:
        for _, leaf in schedule.leaves:
            check(parameterization, leaf, times)
        return
    times = np.atleast_1d(np.asarray(times, np.float64))
    with jax.ensure_compile_time_eval():  # a denoiser may be built under jit too
        readable = lambda t: (parameterization.defined(schedule, t), jnp.isfinite(parameterization.clock(schedule, t)))
        defined, finite = jax.jit(readable)(times)  # as NumPy's: `jnp.asarray` is a program too
    if isinstance(defined, Tracer) or isinstance(finite, Tracer):
        return  # the schedule itself is being differentiated or compiled, and has no values yet
    defined = np.asarray(defined)
    finite = np.asarray(finite)
    if not finite.all():
        raise ValueError(
            f"{parameterization.name} prediction: the network's clock is not finite at "
            f"t = {times[~finite][0]:g} of this schedule; ln(sigma / alpha) needs sigma > 0 and alpha > 0. "
            "Use the clock time(), or a schedule that does not reach this end: "
            "schedules.ending_at(schedule, t_max), for training and sampling alike."
        )
    if not defined.all():
        t = times[~defined][0]
        others = " or ".join(name for name in ("v", "velocity", "edm") if name != parameterization.name)
        raise ValueError(
            f"{parameterization.name} prediction is not defined at t = {t:g} of this schedule: it needs "
            f"{parameterization.needs}. Use {others} there, or "
            "a schedule that does not reach this end: schedules.ending_at(schedule, t_max), for training and "
            "sampling alike."
        )


public.declare(__name__)
