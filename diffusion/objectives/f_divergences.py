"""Divergences D_f(p || q) = E_q[f(p / q)] as weights of a score difference, for `distribution_matching`.

For samples x of q that depend on parameters theta, and r = p / q,

    grad D_f = E_q[h(r) (score_q - score_p) dx / dtheta],    h(r) = f''(r) r^2

Each f is scaled so that h(1) = f''(1) = 1, so near the optimum all of them give the same gradient.

| name                | f(r), up to its scale              | h(r)          | character                              |
|---------------------|------------------------------------|---------------|----------------------------------------|
| reverse_kl          | -log r                             | 1             | seeks modes: DMD                       |
| softened_reverse_kl | (r + 1) log((1 + 1 / r) / 2)       | 2 / (1 + r)   | least weight where samples are too few |
| jensen_shannon      | r log r - (r + 1) log((r + 1) / 2) | 2 r / (1 + r) | bounded; no weight outside of the data |
| squared_hellinger   | 1 - sqrt r                         | sqrt r        | between the two directions of KL       |
| forward_kl          | r log r                            | r             | covers modes; of a high variance       |
| jeffreys            | (r - 1) log r                      | (1 + r) / 2   | the sum of the two directions of KL    |

The gradient is due to Xu et al. 2025, "One-step Diffusion Models with f-Divergence Distribution Matching". The weights
are those of the authors' code, up to scale.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Divergence = Callable[[Array], Array]
"""log r -> h(r), with h(1) = 1."""


def reverse_kl(log_ratio: Array) -> Array:
    """h(r) = 1 of KL(q || p), f = -log r."""
    return jnp.ones_like(log_ratio)


def softened_reverse_kl(log_ratio: Array) -> Array:
    """h(r) = 2 / (1 + r), f = 2 (r + 1) log((1 + 1 / r) / 2)."""
    return 2 * jax.nn.sigmoid(-log_ratio)


def jensen_shannon(log_ratio: Array) -> Array:
    """h(r) = 2 r / (1 + r), f = 2 r log r - 2 (r + 1) log((r + 1) / 2)."""
    return 2 * jax.nn.sigmoid(log_ratio)


def squared_hellinger(log_ratio: Array) -> Array:
    """h(r) = sqrt r, f = 4 (1 - sqrt r)."""
    return jnp.exp(log_ratio / 2)


def forward_kl(log_ratio: Array) -> Array:
    """h(r) = r of KL(p || q), f = r log r."""
    return jnp.exp(log_ratio)


def jeffreys(log_ratio: Array) -> Array:
    """h(r) = (1 + r) / 2 of KL(p || q) / 2 + KL(q || p) / 2, f = (r - 1) log r / 2."""
    return (1 + jnp.exp(log_ratio)) / 2
