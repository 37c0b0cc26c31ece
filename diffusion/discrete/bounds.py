"""Losses of models of symbols: upper bounds on -log p(x_0) in nats, estimated for each example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import require_keys
from diffusion.arrays.parameters import traced
from diffusion.discrete.categorical import draw, happens
from diffusion.discrete.metric_paths import AnyPath, check_path
from diffusion.discrete.predictions import Predictor, check_normalised
from diffusion.discrete.processes import check_symbols, over_positions
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.token_masks import TokenMasks

LEAST = 1e-7  # smallest alpha: rates are infinite at 0
BELOW_ONE = 1 - 2**-24  # the last time before 1 in float32
TINY = 2.0**-126  # smallest normal float32, for the logarithm of symbols that a prediction excludes

LogLikelihood = Callable[[Array, Array, Array], Array]
"""(x_t int `[B, ...]`, t `[B]`, x_0 int `[B, ...]`) -> log p(x_0 | x_t) at masked positions, float32 `[B, ...]`."""


def noised(process: AnyPath, keys: Array, x0: Array, t: Array) -> Array:
    """Draws x_t from q(x_t | x_0). For a process with a mask it makes no array over all symbols.

    Args:
        process: the process, or a metric path.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data.
        t: `[B]` times in [0, 1].

    Returns:
        int32 `[B, ...]`. Example i depends only on keys[i], x0[i] and t[i].

    Raises:
        ValueError: if symbols are out of range, a time that is not traced lies outside of [0, 1], or there is not one
            key for each example.
    """
    check_path(process)
    check_symbols(process, x0, "x0")
    if not traced(t) and not np.all((np.asarray(t) >= 0) & (np.asarray(t) <= 1)):
        raise ValueError(f"t = {np.asarray(t)}: a time lies outside of [0, 1]; t = 0 is the data")
    require_keys(keys, len(x0), "noise needs one key for each example")
    masked = getattr(process, "masked", None)
    if masked is not None and process.mask is not None:
        return jnp.where(happens(keys, masked(x0, t)), process.mask, x0.astype(jnp.int32))
    return draw(keys, process.marginal(x0, t))


def masked_bound(predict: Predictor, process: AnyProcess, keys: Array, x0: Array, t: Array) -> Array:
    """The bound of a masked process in continuous time, estimated at one time for each example.

        -log p(x_0) <= E_t [-alpha'(t) / (1 - alpha(t)) sum over masks of -log p(x_0 | x_t)],    t uniform in (0, 1)

    With the exact predictor, the mean over t, x_t and the data is the entropy of the data, so the bound is tight.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: a process with a mask.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data, no masks.
        t: `[B]` times in (0, 1), uniform for the bound.

    Returns:
        The estimate, float32 `[B]` in nats per example.

    Raises:
        ValueError: if the process has no mask, and under the conditions of `noised`.

    The papers: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models"; Shi et al. 2024, "Simplified
    and Generalized Masked Diffusion for Discrete Data". Both papers state the bound in continuous time.
    """

    def likelihood(x_t: Array, t: Array, x0: Array) -> Array:
        return jnp.take_along_axis(check_normalised(predict(x_t, t)), x0[..., None], -1)[..., 0]

    return masked_bound_of(likelihood, process, keys, x0, t)


def masked_bound_of(likelihood: LogLikelihood, process: AnyProcess, keys: Array, x0: Array, t: Array) -> Array:
    """The same bound as `masked_bound`, from the likelihood of the data alone.

        E_t [-alpha'(t) / (1 - alpha(t)) sum over masks of -log p(x_0 | x_t)],    t uniform in (0, 1)

    Args:
        likelihood: (x_t, t, x_0) -> log p(x_0 | x_t), e.g. a function that `in_chunks` returns.
        process: a process with a mask.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data, no masks.
        t: `[B]` times in (0, 1), uniform for the bound.

    Returns:
        The estimate, float32 `[B]` in nats per example.

    Raises:
        ValueError: if the process has no mask, and under the conditions of `noised`.
    """
    if process.mask is None:
        raise ValueError("masked_bound: the process has no mask. Valid: discrete.absorbing, or score_entropy_bound")
    x_t = noised(process, keys, x0, t)
    errors = jnp.where(x_t == process.mask, -likelihood(x_t, t, x0), 0.0)
    return process.keeping.unmasking_rate(t) * over_positions(errors)


def token_masked_bound(predict: Predictor, process: TokenMasks, keys: Array, x0: Array, t: Array) -> Array:
    """The bound of token-dependent masks in continuous time, estimated at one time for each example.

        E_t [sum over masks of sum_v r_v p(v | x_t) - r_(x_0) - r_(x_0) log p(x_0 | x_t)],    r_v = w_v / t

    with t uniform in (0, 1). With equal powers the first two terms cancel, and this is `masked_bound`.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: the process.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data, no masks.
        t: `[B]` times in (0, 1), uniform for the bound.

    Returns:
        The estimate, float32 `[B]` in nats per example.

    Raises:
        ValueError: under the conditions of `noised`.

    The paper: Shi et al. 2024, "Simplified and Generalized Masked Diffusion for Discrete Data", the bound of GenMD4.
    """
    x_t = noised(process, keys, x0, t)
    return token_masked_at(process, check_normalised(predict(x_t, t)), x_t, x0, t)


def token_masked_at(process: TokenMasks, log_p: Array, x_t: Array, x0: Array, t: Array) -> Array:
    """The sum in `token_masked_bound` at x_t, `[B]` in nats, from log p(x_0 | x_t)."""
    rates = jnp.broadcast_to(process.unmasking_rates(t, log_p), log_p.shape)
    at_data = lambda values: jnp.take_along_axis(values, x0[..., None], -1)[..., 0]
    rate, log_x0 = at_data(rates), at_data(log_p)
    predicted = jnp.sum(rates * jnp.exp(log_p), -1)
    errors = jnp.where(x_t == process.mask, predicted - rate - rate * log_x0, 0.0)
    return over_positions(errors)


def score_entropy_bound(predict: Predictor, process: AnyProcess, keys: Array, x0: Array, t: Array) -> Array:
    """The bound of any process in continuous time: the score entropy of its ratios, at one time for each example.

        E_t [sum over y != x_t of R_t(y, x_t) (s(y) - r(y) log s(y) + r(y) log r(y) - r(y))]

    where s are the model's ratios, r the ratios given the data, R_t(y, x_t) the rates of the process (beta(t) pi(x_t)
    unless it is a `RateProcess`), and t is uniform in (0, 1). For masks it equals `masked_bound`.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: the process.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data.
        t: `[B]` times in (0, 1), uniform for the bound.

    Returns:
        The estimate, float32 `[B]` in nats per example, without the divergence of q(x_1 | x_0) from the prior, which is
        0. At t = 1, where rates are infinite, it is the value for alpha = 1e-7. At t = 0 it is finite, and 0 if the
        prediction is x_t with certainty.

    Raises:
        ValueError: if the process is a metric path or token masks, and under the conditions of `noised`.

    The papers: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
    definition 3.1 and theorem 3.6; for uniform processes Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete
    Diffusion Models".
    """
    check_ratios("score_entropy_bound", process)
    x_t = noised(process, keys, x0, t)
    return score_entropy_at(process, check_normalised(predict(x_t, t)), x_t, x0, t)


def score_entropy_at(process: AnyProcess, log_p: Array, x_t: Array, x0: Array, t: Array) -> Array:
    """The score entropy of a prediction log p(x_0 | x_t) at x_t, which `score_entropy_bound` draws."""
    t = jnp.minimum(t, jnp.minimum(process.keeping.time(LEAST), BELOW_ONE))
    here = jax.nn.one_hot(x_t, process.size, dtype=bool)
    model = process.ratios(x_t, jnp.exp(log_p), t)
    data = process.ratios(x_t, jax.nn.one_hot(x0, process.size), t)
    known = jnp.where(data > 0, data, 1.0)
    excess = jnp.where(data > 0, (model - data) / known, 0.0)
    near = jnp.abs(excess) < 0.5
    # Near the noise the ratios approach each other, and the rates grow as their difference falls.
    far = jnp.log(jnp.maximum(model, TINY)) - jnp.log(known)
    log = jnp.where(near, jnp.log1p(jnp.where(near, excess, 0.0)), far)
    errors = jnp.where(data > 0, known * (excess - log), model)
    summed = process.rates_into(x_t, t) * jnp.where(here, 0.0, errors)
    return over_positions(summed)


def discrete_time_bound(predict: Predictor, process: AnyProcess, keys: Array, x0: Array, i: Array, steps: int) -> Array:
    """The bound of a process of T steps, estimated at one step for each example.

        -log p(x_0) <= T E_i KL(q(x_s | x_t, x_0) || p(x_s | x_t)),    t = (i + 1) / T, s = i / T

    with i uniform in 0 .. T - 1. For i = 0 the term is -log p(x_0 | x_t). The prior term is 0, since alpha(1) = 0.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: the process.
        keys: `[B]` typed random keys.
        x0: int `[B, ...]` symbols of the data.
        i: int `[B]` indices of the steps, in 0 .. T - 1, uniform for the bound.
        steps: number T of steps, at least 1.

    Returns:
        The estimate, float32 `[B]` in nats per example.

    Raises:
        ValueError: if steps is below 1 or the process is a metric path, and under the conditions of `noised`.

    The paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", eq. 1 and 4.
    """
    if steps < 1:
        raise ValueError(f"discrete_time_bound: steps = {steps}. Valid: at least 1")
    check_bounded("discrete_time_bound", process)
    t, s = (i + 1) / steps, i / steps
    x_t = noised(process, keys, x0, t)
    data = process.posterior(x_t, jax.nn.one_hot(x0, process.size), t, s)
    model = process.posterior(x_t, jnp.exp(check_normalised(predict(x_t, t))), t, s)
    log_data = jnp.log(jnp.where(data > 0, data, 1.0))
    terms = jnp.where(data > 0, data * (log_data - jnp.log(jnp.maximum(model, TINY))), 0.0)
    return steps * over_positions(terms)


def check_bounded(name: str, process: AnyPath) -> None:
    """Refuses a metric path for the bound or objective with this name.

    Raises:
        ValueError: if the process is a metric path.
    """
    if not hasattr(process, "posterior"):
        raise ValueError(f"{name}: a metric path has no bound. Valid: a process, or discrete_flow_matching")


def check_ratios(name: str, process: AnyPath) -> None:
    """Refuses a process without ratios for the bound or objective with this name.

    Raises:
        ValueError: if the process is a metric path or token masks.
    """
    check_bounded(name, process)
    if not hasattr(process, "ratios"):
        raise ValueError(f"{name}: token_masks has no ratios. Valid: masked_diffusion, which has a bound for it")
