"""Predictions of the clean symbols: the conversion of a network's output to log p(x_0 | x_t)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import require_function, require_network, require_shape
from diffusion.arrays.not_a_number import nan_unless
from diffusion.arrays.parameters import traced
from diffusion.discrete.categorical import log_probabilities
from diffusion.discrete.metric_paths import AnyPath, check_path
from diffusion.discrete.processes import Process
from diffusion.discrete.rate_processes import AnyProcess, RateProcess
from diffusion.schedules import left_broadcast
from diffusion.schedules.noise_schedule import as_float

Predictor = Callable[[Array, Array], Array]
"""A function (x_t int `[B, ...]`, t `[B]`) -> log p(x_0 | x_t), float32 `[B, ..., K]`: each position's marginal."""
Reading = Callable[[Any, Array, Array, Array], Array]
"""The meaning of a network's output, as a function (process, output `[B, ..., K]`, x_t, t) -> log p(x_0 | x_t)."""

ROUNDING = 0.1  # the largest accepted |log sum| of probabilities, whose logarithms may be rounded to bfloat16


def predictor(
    network: Callable[[Array, Array, Any], Array], process: AnyPath, read: Reading, condition: Any = None
) -> Predictor:
    """Turns a network into a predictor, (x_t, t) -> log p(x_0 | x_t).

    If the network also accepts probabilities `[B, ..., K]` in place of symbols, the predictor accepts them too, and
    `read` receives the likeliest symbols as x_t.

    Args:
        network: a function (x_t, t, condition) -> output `[B, ..., K]`.
        process: the process.
        read: meaning of the output, a function (process, output, x_t, t) -> log p(x_0 | x_t), such as `from_logits`,
            `from_context`, `from_ratios`, `from_scaled_ratios` or `from_rates`.
        condition: the condition, a pytree of arrays `[B, ...]`, or None.

    Returns:
        A function (x_t int `[B, ...]`, t `[]` or `[B]`) -> log p(x_0 | x_t), float32 `[B, ..., K]`. It raises a
        ValueError if the network's output has another shape.
    """
    require_network(network, "a function (x, t, condition) -> output")
    check_path(process)
    require_function(read, "read", "a function (process, output, x_t, t) -> log p, such as discrete.from_logits")

    def predict(x_t: Array, t: Array) -> Array:
        output = network(x_t, t, condition)
        symbols = jnp.argmax(x_t, -1) if jnp.issubdtype(x_t.dtype, jnp.floating) else x_t
        require_shape(output, (*symbols.shape, process.size), "the output of the network, a number for each symbol,")
        return read(process, output, symbols, t)

    return predict


def from_logits(process: AnyPath, logits: Array, x_t: Array, t: Array) -> Array:
    """Reads the output as logits of x_0, with the SUBS rules for a masked process.

    The rules are that the mask is never predicted, and that an unmasked symbol is the clean symbol.

    Args:
        process: the process.
        logits: the network's output, float `[B, ..., K]`.
        x_t: int `[B, ...]` symbols at time t.
        t: times, which are not used.

    Returns:
        log p(x_0 | x_t), float32 `[B, ..., K]`, whose exponentials sum to 1; -inf for impossible symbols.

    Paper: Sahoo et al. 2024, "Simple and Effective Masked Diffusion Language Models", the rules called SUBS.
    """
    del t
    logits = as_float(logits)
    if process.mask is None:
        return jax.nn.log_softmax(logits)
    symbols = jnp.arange(process.size)
    shown = jnp.where(symbols == x_t[..., None].astype(symbols.dtype), 0.0, -jnp.inf)
    unmasked = jax.nn.log_softmax(jnp.where(symbols == process.mask, -jnp.inf, logits))
    return jnp.where((x_t == process.mask)[..., None], unmasked, shown)


def from_context(process: AnyPath, logits: Array, x_t: Array, t: Array) -> Array:
    """Reads the output as logits of x_0 given only the other positions.

        p(x_0 = a | x_t) = p(a) q(x_t | a) / sum over b of p(b) q(x_t | b),    p = softmax(logits)

    Bayes' rule adds the information of the symbol at the position, so the network need not learn the probability that a
    symbol has been replaced by time t. Equal logits give ratios of 1, for which `score_entropy_bound` is log K per
    symbol. With `from_logits` and a process without a mask, the same network has an infinite bound, because near t = 0
    it assumes as many replaced symbols as at t = 1. For masks with one schedule, both readings agree.

    Args:
        process: the process.
        logits: the network's output, float `[B, ..., K]`.
        x_t: int `[B, ...]` symbols at time t.
        t: times in (0, 1], `[B]`.

    Returns:
        log p(x_0 | x_t), float32 `[B, ..., K]`, whose exponentials sum to 1; -inf for impossible symbols.

    Papers: Schiff et al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion Models", where the reversed process
    of uniform noise has the ratios of q(x_t | p); Sun et al. 2023, "Score-based Continuous-time Discrete Diffusion
    Models", on the distribution of a position given the others.
    """
    if isinstance(process, Process) and process.mask is not None:
        return from_logits(process, logits, x_t, t)
    logits = as_float(logits)
    if process.mask is not None:
        logits = jnp.where(jnp.arange(process.size) == process.mask, -jnp.inf, logits)
    return jax.nn.log_softmax(logits + log_probabilities(process.likelihood(x_t, t)))


def from_ratios(process: AnyProcess, log_ratios: Array, x_t: Array, t: Array) -> Array:
    """Reads the output as the logarithm of the concrete score, log(p_t(y) / p_t(x_t)).

    Args:
        process: the process.
        log_ratios: the network's output, float `[B, ..., K]`; the number at y = x_t is ignored.
        x_t: int `[B, ...]` symbols at time t.
        t: times in (0, 1), `[B]`.

    Returns:
        log p(x_0 | x_t), float32 `[B, ..., K]`. A score that belongs to no distribution may give negative
        probabilities, which are set to 0 before normalisation.

    Raises:
        ValueError: if the process is `token_masks` or a metric path, which have no ratios.

    Paper: Lou et al. 2024, "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution".
    """
    _check_ratios("from_ratios", process)
    here = jax.nn.one_hot(x_t, process.size, dtype=bool)
    ratios = jnp.exp(jnp.where(here, 0.0, as_float(log_ratios)))
    x0 = jnp.maximum(process.x0_of_ratios(x_t, ratios, t), 0.0)
    return log_probabilities(x0) - jnp.log(jnp.sum(x0, -1, keepdims=True))


def from_scaled_ratios(process: AnyProcess, output: Array, x_t: Array, t: Array) -> Array:
    """Reads the output as the scaled logarithm of a masked process's concrete score, as for SEDD's networks.

        log p_t(y) / p_t(x_t) = output(y) - log((1 - alpha) / alpha) - log(K - 1)

    An output of 0 is then the score of equally likely symbols.

    Args:
        process: a masked process.
        output: the network's output, float `[B, ..., K]`; the number at y = x_t is ignored.
        x_t: int `[B, ...]` symbols at time t.
        t: times in (0, 1), `[B]`.

    Returns:
        log p(x_0 | x_t), float32 `[B, ..., K]`, as in `from_ratios`.

    Raises:
        ValueError: if the process has no mask.

    Paper: Lou et al. 2024, appendix on the scaled score, with the scaling of the authors' code.
    """
    if process.mask is None:
        raise ValueError("from_scaled_ratios: the process has no mask. Valid: absorbing, or from_ratios")
    scale = jnp.log(process.keeping.replaced(t)) - jnp.log(process.keeping.alpha(t)) + jnp.log(process.size - 1)
    return from_ratios(process, output - left_broadcast(scale, output), x_t, t)


def from_rates(process: AnyProcess, log_rates: Array, x_t: Array, t: Array) -> Array:
    """Reads the output as the logarithm of the rates at which the reversed process jumps from x_t to each symbol.

        rate(y) = R_t(y, x_t) p_t(y) / p_t(x_t),    the inverse of `Process.reverse_rates`

    where R_t(y, x_t) are the rates of the process: beta(t) pi(x_t), unless it is a `RateProcess`.

    Args:
        process: the process; a `RateProcess` must have positive rates between all symbols.
        log_rates: the network's output, float `[B, ..., K]`; the number at y = x_t is ignored.
        x_t: int `[B, ...]` symbols at time t.
        t: times in (0, 1), `[B]`.

    Returns:
        log p(x_0 | x_t), float32 `[B, ..., K]`, as in `from_ratios`.

    Raises:
        ValueError: if some rates of the process are 0, since they do not determine the ratios; also under the
            conditions of `from_ratios`.

    Paper: Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models", proposition 1.
    """
    _check_ratios("from_rates", process)
    if isinstance(process, RateProcess) and np.any((process.rates == 0) & ~np.eye(process.size, dtype=bool)):
        raise ValueError(
            "from_rates: some rates of this process are 0, and say nothing of the ratios there. Valid: rates above 0, "
            "or from_ratios"
        )
    into = process.rates_into(x_t, t)
    log_ratios = jnp.where(into > 0, log_rates - jnp.log(jnp.where(into > 0, into, 1.0)), -jnp.inf)
    return from_ratios(process, log_ratios, x_t, t)


def only_normalised(log_p: Array) -> Array:
    """The prediction, with NaN at positions whose probabilities do not sum to 1, as happens if it consists of logits.

    Args:
        log_p: log p(x_0 | x_t), float `[B, ..., K]`.
    """
    total = jax.nn.logsumexp(as_float(log_p), -1, keepdims=True)
    return nan_unless(jnp.abs(total) <= ROUNDING, log_p)


def check_normalised(log_p: Array) -> Array:
    """The prediction, after a check that the probabilities sum to 1 at every position without NaN.

    A traced prediction is not checked.

    Args:
        log_p: log p(x_0 | x_t), float `[B, ..., K]`.

    Raises:
        ValueError: if the probabilities of a position have another sum.
    """
    if not traced(log_p):
        wrong = np.asarray(jnp.isnan(only_normalised(log_p)).any(-1) & ~jnp.isnan(log_p).any(-1))
        if wrong.any():
            raise ValueError(
                "the prediction is not log p(x_0 | x_t): the probabilities of a position sum to "
                f"{float(jnp.exp(log_p[wrong][0]).sum()):g}. Valid: log-probabilities; discrete.predictor(network, "
                "process, discrete.from_logits) computes them from logits"
            )
    return log_p


def _check_ratios(name: str, process: AnyPath) -> None:
    """Refuses a process without ratios for the reading with this name."""
    if not hasattr(process, "x0_of_ratios"):
        raise ValueError(f"{name}: token_masks and a metric_path have no ratios. Valid: a process, or from_logits")
