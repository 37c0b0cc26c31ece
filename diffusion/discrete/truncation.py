"""Sharper predictions, by a temperature, top-k truncation or nucleus truncation.

Each function maps log-probabilities to log-probabilities. Apply it between predictor and sampler:

    predict_sharp = lambda x, t: discrete.nucleus(predict(x, t), 0.9)

A row with a NaN becomes NaN, so that samplers leave its symbol out. `tempered` and `top_k` also take logits, which they
normalise; `nucleus` sums probabilities and does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.discrete.predictions import check_normalised, only_normalised


def tempered(log_x0: Array, temperature: ArrayLike) -> Array:
    """Log-probabilities of the distribution proportional to p^(1 / temperature).

    Args:
        log_x0: float `[..., K]` log-probabilities, -inf where a symbol is impossible.
        temperature: temperature, > 0, which may be traced; below 1, likely symbols become likelier.

    Returns:
        `[..., K]` log-probabilities.

    Raises:
        ValueError: if temperature is not positive.
    """
    if not isinstance(temperature, Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(f"tempered: temperature = {temperature}. Valid: a number above 0")
    possible = log_x0 != -jnp.inf  # -inf / temperature has no derivative in the temperature
    return jax.nn.log_softmax(jnp.where(possible, jnp.where(possible, log_x0, 0) / temperature, -jnp.inf))


def top_k(log_x0: Array, number: int) -> Array:
    """Keeps only the `number` likeliest symbols, renormalised.

    Args:
        log_x0: float `[..., K]` log-probabilities, -inf where a symbol is impossible.
        number: how many symbols remain, in 1 .. K; symbols that tie with the last of them also remain.

    Returns:
        `[..., K]` log-probabilities.

    Raises:
        ValueError: if number is not in 1 .. K.

    The paper: Fan et al. 2018, "Hierarchical Neural Story Generation".
    """
    if not 1 <= number <= log_x0.shape[-1]:
        raise ValueError(f"top_k: number = {number}. Valid: 1 .. {log_x0.shape[-1]}, the number of symbols")
    least = jax.lax.top_k(log_x0, number)[0][..., -1:]
    return _only(log_x0, log_x0 >= least)


def nucleus(log_x0: Array, share: ArrayLike) -> Array:
    """Keeps the smallest set of likeliest symbols with a total probability of at least `share`, renormalised.

    Args:
        log_x0: float `[..., K]` log-probabilities, -inf where a symbol is impossible.
        share: total probability, in (0, 1], which may be traced; symbols that tie with the last of the set also remain.

    Returns:
        `[..., K]` log-probabilities.

    Raises:
        ValueError: if share is not in (0, 1], or probabilities do not sum to 1; traced, a row of such numbers is NaN.

    The paper: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    if not isinstance(share, Tracer) and not (np.all(np.asarray(share) > 0) and np.all(np.asarray(share) <= 1)):
        raise ValueError(f"nucleus: share = {share}. Valid: a share of the probability in (0, 1], e.g. 0.9")
    log_x0 = only_normalised(check_normalised(log_x0))  # sums of other numbers, such as logits, are no shares
    ordered = -jnp.sort(-log_x0, axis=-1)
    p = jnp.exp(ordered)
    needed = (jnp.cumsum(p, -1) - p < share) | (jnp.asarray(share) >= 1)  # rounding may reach 1 before the last
    least = jnp.min(jnp.where(needed, ordered, jnp.inf), -1, keepdims=True)
    return _only(log_x0, log_x0 >= least)


def _only(log_x0: Array, kept: Array) -> Array:
    return jax.nn.log_softmax(jnp.where(kept | jnp.isnan(log_x0), log_x0, -jnp.inf))
