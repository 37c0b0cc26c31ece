"""Moving averages with power-function profiles, and the reconstruction of any such profile after training.

    average at step t = integral_0^t p_t(tau) params(tau) dtau,    p_t(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3 and appendix C. The
width of p is a share sigma_rel of the training so far; gamma and sigma_rel determine each other.

    ema = tracked(power_function(0.05), power_function(0.10))            # in training; store its state at times
    weights = reconstruction_weights(steps, sigma_rels, step, 0.07)      # afterwards, one for each stored average
    params = reconstruct(averages, weights)
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.training import ema
from diffusion.training.ema import ExponentialMovingAverage, exponential_moving_average

WIDEST = 12**-0.5  # the width of gamma = 0, the plain mean of all steps


def gamma(sigma_rel: float) -> float:
    """Returns the exponent of the profile whose standard deviation is a share sigma_rel of its length.

        sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

    Karras et al. 2024, eq. 123 and algorithm 2.

    Args:
        sigma_rel: the relative standard deviation, in (0, 12^-1/2]; the paper tracks 0.05 and 0.10.

    Raises:
        ValueError: if sigma_rel is out of range.
    """
    if not 0 < sigma_rel <= WIDEST * (1 + 1e-9):
        raise ValueError(
            f"power_function: sigma_rel = {sigma_rel} must be in (0, {WIDEST:.4f}], for example 0.05 "
            f"({WIDEST:.4f} is the mean of all steps)."
        )
    inverse = sigma_rel**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def power_function(sigma_rel: float) -> ExponentialMovingAverage:
    """Returns the average `a <- b a + (1 - b) params` with b = (1 - 1/t)^(gamma + 1) at the t-th update.

    The weight of the parameters after update i is then exactly the integral of p_t from i - 1 to i,
    (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1). The first update forgets the initial parameters.
    Karras et al. 2024, eq. 127.

    Args:
        sigma_rel: the width of the profile as a share of the steps so far, in (0, 12^-1/2].

    Returns:
        ExponentialMovingAverage, used in the same way as `ema.exponential_moving_average`.

    Raises:
        ValueError: if sigma_rel is out of range.
    """
    exponent = gamma(sigma_rel) + 1

    def update(average, params, step):
        t = jnp.asarray(step, jnp.float32) + 1
        # 1 - (1 - 1/t)^exponent, whose digits are not lost at large t.
        return ema.moved(average, params, -jnp.expm1(exponent * jnp.log1p(-1 / t)))

    return ExponentialMovingAverage(ema.init, update)


def moving_average(decay: float = 0.9999, warmup: bool = True, sigma_rel: float = 0.0) -> ExponentialMovingAverage:
    """Returns the exponential average, or the average of a power function where that has a width.

    Args:
        decay: the decay of the exponential average, in [0, 1).
        warmup: whether that decay is shorter at the start of a run.
        sigma_rel: the width of a power function in place of both, as a share of the run, in (0, 12^-1/2]; 0 for none.

    Returns:
        `power_function(sigma_rel)`, or `ema.exponential_moving_average(decay, warmup)`.

    Raises:
        ValueError: if a value is out of range.
    """
    return power_function(sigma_rel) if sigma_rel else exponential_moving_average(decay, warmup)


def tracked(*averages: ExponentialMovingAverage) -> ExponentialMovingAverage:
    """Returns several moving averages as one; its state is the tuple of their states."""

    def update(states, params, step):
        return tuple(average.update(state, params, step) for average, state in zip(averages, states, strict=True))

    return ExponentialMovingAverage(lambda params: tuple(average.init(params) for average in averages), update)


def reconstruction_weights(steps: ArrayLike, sigma_rels: ArrayLike, step: float, sigma_rel: float) -> np.ndarray:
    """Returns the weights of stored averages whose sum comes closest to another average.

    They minimise the squared distance of their combined profile to the target profile, and are scaled to sum to one as
    in the authors' code. Karras et al. 2024, algorithm 3.

    Args:
        steps: the number of updates made when each average was stored, [K], >= 1.
        sigma_rels: the width of each average, [K] or [].
        step: the number of updates at which the target average ends; at most the largest of `steps`.
        sigma_rel: the width of the target average, not much below the narrowest stored one.

    Returns:
        float64 [K].

    Raises:
        ValueError: if a step is not positive, two averages are the same, or the target ends after all of them.
    """
    steps, sigma_rels = np.broadcast_arrays(np.asarray(steps, np.float64), np.asarray(sigma_rels, np.float64))
    if steps.ndim != 1 or np.any(steps < 1) or not step >= 1:
        raise ValueError(f"reconstruction: steps = {steps} and step = {step} must be numbers of updates, at least 1.")
    if step > steps.max():
        raise ValueError(f"reconstruction: step = {step} is later than step {steps.max():g}, the last stored average.")
    if len({*zip(steps, sigma_rels)}) < len(steps):
        raise ValueError(f"reconstruction: an average occurs twice among steps {steps}, sigma_rels {sigma_rels}.")
    gammas = np.array([gamma(value) for value in sigma_rels])
    stored = _inner(steps[:, None], gammas[:, None], steps, gammas)
    wanted = _inner(steps, gammas, float(step), gamma(sigma_rel))
    weights = np.linalg.solve(stored, wanted)
    return weights / weights.sum()


def distance(steps: ArrayLike, sigma_rels: ArrayLike, step: float, sigma_rel: float, weights: ArrayLike) -> float:
    """Returns the L2 distance of the combined profile of stored averages to a target, as a share of the target's norm.

    Of few averages, no combination comes close to a width that is not theirs.

    Args:
        steps, sigma_rels, step, sigma_rel: the stored averages and the target, as in `reconstruction_weights`.
        weights: the weight of each stored average, [K].
    """
    steps, sigma_rels = np.broadcast_arrays(np.asarray(steps, np.float64), np.asarray(sigma_rels, np.float64))
    gammas = np.array([gamma(value) for value in sigma_rels])
    weights, end, target = np.asarray(weights, np.float64), float(step), gamma(sigma_rel)
    norm = _inner(end, target, end, target)
    stored = weights @ _inner(steps[:, None], gammas[:, None], steps, gammas) @ weights
    square = (stored - 2 * weights @ _inner(steps, gammas, end, target) + norm) / norm
    return float(np.sqrt(max(square, 0.0)))


def reconstruct(averages: Sequence[Any], weights: ArrayLike) -> Any:
    """Returns the weighted sum of pytrees, in float64 on the host; a leaf that is not floating is the last pytree's.

    Args:
        averages: K pytrees of one structure.
        weights: the weight of each, [K], see `reconstruction_weights`.

    Raises:
        ValueError: if there are more or fewer weights than averages, or a leaf has another shape in one of them.
    """
    weights = np.asarray(weights, np.float64)
    if len(averages) != len(weights):
        raise ValueError(
            f"reconstruct: {len(averages)} averages but {len(weights)} weights; give one weight for each average."
        )

    def leaf(path, *values):
        last = np.asarray(values[-1])
        for value in values:
            require_shape(value, last.shape, f"{jax.tree_util.keystr(path)} of an average")
        if not jnp.issubdtype(last.dtype, jnp.floating):
            return last
        parts = [weight * np.asarray(value, np.float64) for weight, value in zip(weights, values)]
        return functools.reduce(np.add, parts).astype(last.dtype)

    return jax.tree_util.tree_map_with_path(leaf, *averages)


def _inner(t_a, gamma_a, t_b, gamma_b):
    """The integral of p_a p_b from 0 to m, the earlier of their ends, with c = gamma + 1:

    c_a c_b / (c_a + c_b - 1)  m^(c_a + c_b - 1) / (t_a^c_a t_b^c_b)
    """
    m = np.minimum(t_a, t_b)
    ratios = (m / t_a) ** gamma_a * (m / t_b) ** gamma_b  # each in (0, 1]: nothing overflows
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * ratios * m / (t_a * t_b)
