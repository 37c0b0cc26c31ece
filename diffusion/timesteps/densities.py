"""Densities: distributions of the times that a network is trained at."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import is_count, require, require_function
from diffusion.arrays.parameters import functions_of, is_number, traced
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.discrete import MOST_STEPS
from diffusion.schedules.noise_schedule import check_times
from diffusion.timesteps.shifts import dimension_shift, shift as shifted
from diffusion.timesteps.valid_ranges import check_one_schedule, check_positive

DRAWS = 1024  # of a density, which show a share of 0.5 % outside of the schedule's times all but surely
LEAST_SHARE = 1e-30  # of a distribution within the range of a schedule; float32 holds quantiles of such shares


class Density(NamedTuple):
    """A distribution of training times.

    Attributes:
        init: () -> state; a pytree, empty unless the density adapts.
        sample: (state, keys `[B]`, index `[B]`) -> (t `[B]`, importance `[B]`): a time for each example, which depends
            only on the example's key and global index, and the importance weight of its loss, which corrects for
            sampling from another density than the loss is defined with.
        update: (state, t `[B]`, losses `[B]`) -> state.
    """

    init: Callable[[], Any]
    sample: Callable[[Any, Array, Array], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


def from_quantile(quantile: Callable[[Array], Array], strata: int | None = None) -> Density:
    """The density of quantile(u) for uniform u, optionally stratified.

        u_i = ((index_i mod strata) + r_i) / strata,    r_i uniform in (0, 1)

    Any `strata` consecutive examples then cover (0, 1) evenly. This lowers the variance of the loss, like the common
    offset of Kingma et al. 2021, but each example's time depends only on its own key and index.

    Facts:
        range: the range of the quantile function
        paper: Kingma et al. 2021, "Variational Diffusion Models", appendix I.1, low-discrepancy sampler, for the strata

    Args:
        quantile: increasing function of u in (0, 1) to t, elementwise.
        strata: number of strata, usually the batch size; None draws u independently.

    Raises:
        TypeError: if quantile is not a function.
        ValueError: if strata is not a positive integer.
    """
    require_function(quantile, "quantile", "a function of u in (0, 1) to t")
    if strata is not None and (isinstance(strata, (bool, str)) or not strata >= 1 or strata % 1):
        raise ValueError(f"strata = {strata!r}. Valid: an integer of at least 1, usually the batch size, or None")

    def sample(state, keys, index):
        u = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)
        u = u + 2.0**-24  # the middle of a cell of width 2^-23, the grid of float32 draws: neither 0 nor 1
        if strata is not None:
            u = (jnp.asarray(index % strata, u.dtype) + u) / strata
            u = jnp.minimum(u, 1 - 2.0**-24)
        t = quantile(u)
        return t, jnp.ones_like(t)

    return Density(init=tuple, sample=sample, update=lambda state, t, losses: state)


def uniform_density(schedule: NoiseSchedule, strata: int | None = None, t_min: float | None = None) -> Density:
    """t uniform in (t_min, t_max).

    Facts:
        paper: Ho et al. 2020 and Song et al. 2021, in continuous time
        range: (t_min, t_max)

    Args:
        schedule: the process, which defines t_min and t_max.
        strata: number of strata or None, see `from_quantile`.
        t_min: smallest time, for example the t_start of `objectives.variational_bound`; the schedule's t_min if None.

    Raises:
        ValueError: if t_min is outside of the schedule's times.
    """
    check_schedule(schedule)
    first = schedule.t_min if t_min is None else t_min
    if not traced(first, schedule.t_min, schedule.t_max) and not schedule.t_min <= first < schedule.t_max:
        raise ValueError(
            f"uniform_density: t_min = {first:g} must be in [{schedule.t_min:g}, {schedule.t_max:g}), the times of "
            "the schedule"
        )
    return from_quantile(lambda u: first + (schedule.t_max - first) * u, strata)


def discrete_density(schedule: NoiseSchedule, T: int = 1000, strata: int | None = None, shift: float = 1.0) -> Density:
    """The times t = (i + 1) / T of a discrete process, with i uniform in 0 .. T - 1; `shift` moves them.

    Facts:
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 1
        range: 1 / T .. 1

    Args:
        schedule: the discrete process; its t_max must be 1.
        T: number of steps of the process, 1 to 10^6.
        strata: number of strata or None, see `from_quantile`.
        shift: factor of `timesteps.shift`, > 0, for a model that is sampled at T shifted times; above 1 the times are
            noisier.

    Raises:
        ValueError: if T is out of range or the schedule does not hold all these times.
    """
    check_schedule(schedule)
    if not 1 <= T <= MOST_STEPS or schedule.t_max < 1 or schedule.t_min > 1 / T * (1 + 1e-6):
        raise ValueError(
            f"discrete_density: T = {T} needs T in 1 .. {MOST_STEPS} and times 1 / T .. 1 within the schedule's "
            f"[{schedule.t_min:g}, {schedule.t_max:g}]"
        )
    times = shifted(schedule, np.arange(1, T + 1, dtype=np.float32) / np.float32(T), shift)
    return from_quantile(lambda u: jnp.asarray(times)[jnp.floor(u * T).astype(int)], strata)


def logit_normal(schedule: NoiseSchedule, mean: float = 0.0, std: float = 1.0, strata: int | None = None) -> Density:
    """logit((t - t_min) / (t_max - t_min)) ~ N(mean, std^2). A positive mean favours noisy times.

    Facts:
        paper: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", eq. 19
        range: (t_min, t_max)

    Args:
        schedule: the process, which defines t_min and t_max.
        mean: location, on the scale of logits.
        std: scale, > 0.
        strata: number of strata or None, see `from_quantile`.

    Raises:
        ValueError: if std is not positive, or strata is not a positive integer.
    """
    if not traced(std):
        check_positive("logit_normal", "std", std)
    return _of_fraction(schedule, lambda u: jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)), strata)


def mode(schedule: NoiseSchedule, scale: float = 1.29, strata: int | None = None) -> Density:
    """Uniform times, pulled to the middle: (t - t_min) / (t_max - t_min) = u - scale (sin^2(pi u / 2) - u).

    The paper's formula for 1 - u, so that t grows with u.

    Facts:
        paper: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", eq. 20
        range: (t_min, t_max)

    Args:
        schedule: the process, which defines t_min and t_max.
        scale: strength of the mode, in [-1, 2 / (pi - 2)], where the function of u is monotone: 0 is uniform, positive
            values favour the middle and negative ones the ends; 1.29 in the paper's best setting.
        strata: number of strata or None, see `from_quantile`.

    Raises:
        ValueError: if scale is out of its range.
    """
    if not traced(scale) and not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"mode: scale = {scale} must be in [-1, 2 / (pi - 2)] = [-1, {2 / (math.pi - 2):.4g}]")
    return _of_fraction(schedule, lambda u: u - scale * (jnp.sin(math.pi / 2 * u) ** 2 - u), strata)


def cosmap(schedule: NoiseSchedule, strata: int | None = None) -> Density:
    """The times at which the rectified flow has the log-SNRs of the cosine schedule at uniform times.

        (t - t_min) / (t_max - t_min) = 1 - 1 / (tan(pi u / 2) + 1)

    Facts:
        paper: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", eq. 21
        range: (t_min, t_max)

    Args:
        schedule: the process, which defines t_min and t_max.
        strata: number of strata or None, see `from_quantile`.
    """

    def fraction(u):
        sin = jnp.sin(math.pi / 2 * u)
        cos = jnp.cos(math.pi / 2 * u)
        return sin / (sin + cos)

    return _of_fraction(schedule, fraction, strata)


def beta_density(schedule: NoiseSchedule, a: float, b: float, strata: int | None = None) -> Density:
    """(t - t_min) / (t_max - t_min) ~ Beta(a, b); a > b favours noisy times.

    Facts:
        paper: Black et al. 2024, "pi_0: A Vision-Language-Action Flow Model", appendix B, with a = 1.5 and b = 1, which
            favours noisy times
        range: (t_min, t_max)

    Args:
        schedule: the process, which defines t_min and t_max.
        a: first parameter of Beta(a, b), > 0: the density is proportional to t^(a - 1) (1 - t)^(b - 1) on [0, 1].
        b: second parameter of Beta(a, b), > 0.
        strata: number of strata or None, see `from_quantile`.

    Raises:
        ValueError: if a or b is not positive.
    """
    check_positive("beta_density", "a", a)
    check_positive("beta_density", "b", b)
    import scipy.special  # imported here: it takes as long as a third of the library

    # The quantile function is exact at 4001 points, which are dense at both ends, and linear between them.
    knots = np.unique(scipy.special.expit(np.linspace(-17, 17, 4001)).astype(np.float32))
    quantiles = scipy.special.betaincinv(a, b, knots.astype(np.float64)).astype(np.float32)
    return _of_fraction(schedule, lambda u: jnp.interp(u, knots, quantiles), strata)


def log_normal(schedule: NoiseSchedule, mean: float = -1.2, std: float = 1.2, strata: int | None = None) -> Density:
    """ln(sigma / alpha) ~ N(mean, std^2), truncated to the schedule's range.

    Facts:
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1
        range: (t_min, t_max)

    Args:
        schedule: the process, which gives the range and turns sigma / alpha into t.
        mean: P_mean of the paper.
        std: P_std of the paper, > 0.
        strata: number of strata or None, see `from_quantile`.

    Raises:
        ValueError: if std is not positive, or almost nothing of the distribution lies in the schedule's range.
    """
    if not traced(std):
        check_positive("log_normal", "std", std)
    check_one_schedule("log_normal", schedule)
    low, high = (-end / 2 for end in _log_snr_at_ends(schedule, mean, std))
    low, high = (low - mean) / std, (high - mean) / std
    # A range above the mean is mirrored: shares near 1 have no digits for what is beyond them.
    above = low > 0
    sign, first, last = (_chosen(above, *pair) for pair in ((-1, 1), (-high, low), (-low, high)))
    cdf_first = _normal_cdf(first)
    share = _normal_cdf(last) - cdf_first
    _check_share("log_normal", share, f"mean = {mean} and std = {std}")

    def quantile(u):
        z = sign * jax.scipy.special.ndtri(cdf_first + share * _chosen(above, 1 - u, u))
        z = jnp.clip(z, jnp.maximum(low, -1e4), jnp.minimum(high, 1e4))
        return _off_the_ends(schedule, schedule.inverse_log_snr(-2 * (mean + std * z)))

    return from_quantile(quantile, strata)


def laplace(schedule: NoiseSchedule, mean: float = 0.0, scale: float = 0.5, strata: int | None = None) -> Density:
    """log-SNR ~ Laplace(mean, scale), truncated to the schedule's range.

        p(log-SNR) = exp(-|log-SNR - mean| / scale) / (2 scale)

    The paper states it as a noise schedule, which is equivalent to this density of the log-SNR.

    Facts:
        paper: Hang et al. 2024, "Improved Noise Schedule for Diffusion Training", table 1
        range: (t_min, t_max)

    Args:
        schedule: the process, which gives the range and turns the log-SNR into t.
        mean: log-SNR of the peak; 0 in the paper.
        scale: b of the paper, > 0; 0.5 there.
        strata: number of strata or None, see `from_quantile`.

    Raises:
        ValueError: if scale is not positive, or almost nothing of the distribution lies in the schedule's range.
    """
    if not traced(scale):
        check_positive("laplace", "scale", scale)
    check_one_schedule("laplace", schedule)
    high, low = _log_snr_at_ends(schedule, mean, scale)
    above = _laplace_tail((high - mean) / scale)
    below = _laplace_tail((mean - low) / scale)
    # Differences of the smaller tails: if the peak is outside the range, 1 - above - below has lost its digits.
    share = _chosen(below > 0.5, _laplace_tail((low - mean) / scale) - above, 1 - above - below)
    share = _chosen(above > 0.5, _laplace_tail((mean - high) / scale) - below, share)
    _check_share("laplace", share, f"mean = {mean} and scale = {scale}")

    def quantile(u):
        # The shares of log-SNRs above and below the drawn one; the smaller of the two keeps its digits.
        more = above + share * u
        less = below + share * (1 - u)
        z = jnp.where(more < 0.5, -jnp.log(2 * more), jnp.log(2 * less))
        return _off_the_ends(schedule, schedule.inverse_log_snr(mean + scale * z))

    return from_quantile(quantile, strata)


def dimension_shifted_density(
    schedule: NoiseSchedule, density: Density, dimension: int | None, base: int = 4096
) -> Density:
    """The times of `density`, with the log-SNR lowered by ln(dimension / base) for data of more dimensions.

    For the rectified flow this is t' = a t / (1 + (a - 1) t) with a = sqrt(dimension / base).

    Facts:
        paper: Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders", section 4.2
        range: the shifted range of the density

    Args:
        schedule: the process.
        density: density of the times before the shift.
        dimension: how many numbers an example has, >= 1; a config sets it from data.shape.
        base: dimension for which the schedule was made, see `timesteps.dimension_shift`.

    Raises:
        ValueError: if the dimension is above the base and the schedule ends with a finite log-SNR, below which times
            would leave it; under the conditions of `timesteps.dimension_shift`.
    """
    check_one_schedule("dimension_shifted_density", schedule)
    require_density(density)
    fall = 2 * math.log(dimension_shift(dimension, base))
    _, lowest = _log_snr_at_ends(schedule)
    if fall > 0 and not traced(lowest) and lowest > -math.inf:
        raise ValueError(
            f"dimension_shifted_density: a factor of {math.exp(fall / 2):g} moves times out of the schedule, whose "
            f"log-SNR ends at {lowest:g}. Valid: a schedule that ends with alpha = 0, such as rectified_flow"
        )
    moved = lambda t, by: _off_the_ends(schedule, schedule.inverse_log_snr(schedule.log_snr(t) - by))

    def sample(state, keys, index):
        t, importance = density.sample(state, keys, index)
        return moved(t, fall), importance

    return Density(density.init, sample, lambda state, t, losses: density.update(state, moved(t, -fall), losses))


def per_frame(density: Density, frames: int) -> Density:
    """A time for each frame of each example, all drawn from `density` independently: t `[B, F]`, importance `[B, F]`.

    Frame f of example i has the index F i + f, so that strata cover the frames of consecutive examples. An adaptive
    density receives the loss of an example for each of its frames.

    Facts:
        paper: Chen et al. 2024, "Diffusion Forcing: Next-token Prediction Meets Full-Sequence Diffusion", algorithm 1
        range: the range of the density

    Args:
        density: the density of a single time.
        frames: number of frames F, >= 1: the second axis of the data.

    Raises:
        ValueError: if frames is below 1.
    """
    require_density(density)
    if not is_count(frames):
        raise ValueError(f"per_frame: frames = {frames} must be an integer of at least 1")

    def sample(state, keys, index):
        frame_keys = jax.vmap(lambda key: jax.random.split(key, frames))(keys).reshape(-1)
        frame_index = (jnp.asarray(index)[:, None] * frames + jnp.arange(frames)[None]).reshape(-1)
        t, importance = density.sample(state, frame_keys, frame_index)
        return t.reshape(-1, frames), importance.reshape(-1, frames)

    def update(state, t, losses):
        return density.update(state, t.reshape(-1), jnp.repeat(losses, frames))

    return Density(density.init, sample, update)


def require_density(density: Any) -> None:
    """Refuses a value that is not a density, such as a function of `timesteps` that was not called.

    Raises:
        TypeError: if the value is not a density; the message names it.
    """
    require(density, Density, "density", "a Density, such as timesteps.uniform_density(schedule)")


def check_density(schedule: NoiseSchedule, density: Density) -> None:
    """Refuses a density that draws times outside of a schedule's, of which a compiled training step sees no number.

    Args:
        schedule: the process.
        density: the density of the training times, in its first state.

    Raises:
        ValueError: if one of 1,024 draws lies outside of [0, t_max], or is NaN; the message names it.
    """

    def draws(seed: Array) -> Any:
        keys = jax.random.split(jax.random.key(seed), DRAWS)
        return density.sample(density.init(), keys, jnp.arange(DRAWS))

    drawn = jax.jit(draws)(np.uint32(0))  # one program, where each operation by itself would be one
    try:
        check_times(schedule, drawn[0] if isinstance(drawn, tuple) else drawn)
    except ValueError as error:
        raise ValueError(f"the density of training times: {error}. Valid: a density within these times") from error


def _of_fraction(schedule: NoiseSchedule, fraction: Callable[[Array], Array], strata: int | None) -> Density:
    """The density of t_min + (t_max - t_min) fraction(u), clipped off the ends, where a schedule may be singular."""
    check_schedule(schedule)
    span = schedule.t_max - schedule.t_min
    return from_quantile(lambda u: schedule.t_min + span * jnp.clip(fraction(u), 2.0**-24, 1 - 2.0**-24), strata)


def _off_the_ends(schedule: NoiseSchedule, t: Array) -> Array:
    """The times, clipped to the range of the schedule without t = 0 and t_max, where sigma or alpha may be 0."""
    half_cell = 2.0**-24 * (schedule.t_max - schedule.t_min)
    first = half_cell if is_number(schedule.t_min, 0) else schedule.t_min
    return jnp.clip(t, first, schedule.t_max - half_cell)


def _log_snr_at_ends(schedule: NoiseSchedule, *parameters: Any) -> tuple[Any, Any]:
    """The log-SNRs at t_min and t_max.

    They are float64 numbers, also inside a compiled function. If they or the parameters of the density are traced,
    infinite ends are replaced by finite ones, whose share of the density is as small and has derivatives.
    """
    ends = schedule.t_min, schedule.t_max
    with jax.ensure_compile_time_eval():
        values = schedule.log_snr(jnp.stack(ends) if traced(*ends) else np.array(ends))
    if traced(values, *parameters):
        first, last = jnp.clip(values, -1e4, 1e4)
    else:
        first, last = map(float, np.asarray(values))
    return first, last


def _check_share(function: str, share: Any, parameters: str) -> None:
    if not traced(share) and not share > LEAST_SHARE:
        raise ValueError(
            f"{function}: with {parameters}, a share of {share:.1g} of the distribution lies between the log-SNRs of "
            "the schedule at t_min and t_max. Valid: a distribution that overlaps with this range"
        )


def _chosen(condition: Any, one: Any, other: Any) -> Any:
    """`one` if the condition holds and `other` if not, for numbers and traced values."""
    return jnp.where(condition, one, other) if traced(condition) else (one if condition else other)


def _normal_cdf(z: Any) -> Any:
    return jax.scipy.special.ndtr(z) if traced(z) else 0.5 * math.erfc(-z / math.sqrt(2))


def _laplace_tail(z: Any) -> Any:
    """The share of a Laplace distribution of scale 1 that lies above z."""
    share = functions_of(z).exp(-abs(z)) / 2
    return jnp.where(z > 0, share, 1 - share) if traced(z) else (share if z > 0 else 1 - share)
