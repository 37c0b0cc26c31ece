"""Likelihoods of large vocabularies, a few positions at a time: no array has all positions and all symbols.

    bound = discrete.masked_bound_of(discrete.in_chunks(states, head, mask, chunk=256), process, keys, x0, t)

A head of 126,464 symbols over 4,096 positions has logits of 2 GB in float32, and its gradient as many again. In chunks
of 256 positions they take 130 MB each, for one more product of the head in the backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.discrete.bounds import LogLikelihood


def in_chunks(states: Callable[[Array, Array], Array], head: Array, mask: int, chunk: int) -> LogLikelihood:
    """The likelihood of the data under logits `states @ head`, by the rule of masks that no mask is predicted.

    Each chunk's logits are computed again in the backward pass.

    Args:
        states: (x_t, t) -> states of the positions, float `[B, ..., D]`: a network without its last layer.
        head: float `[D, K]`, the last layer.
        mask: the symbol that is the mask.
        chunk: number of positions at once, at least 1; any, the last chunk is filled up.

    Raises:
        ValueError: for a chunk below 1.
    """
    return states_in_chunks(lambda x_t, t: (states(x_t, t), head, None), mask, chunk)


def states_in_chunks(
    states: Callable[[Array, Array], tuple[Array, Array, Array | None]], mask: int, chunk: int
) -> LogLikelihood:
    """`in_chunks` of a network that says its last layer with its states, such as `SymbolTransformer` with `states`.

    Args:
        states: (x_t, t) -> (states float `[B, ..., D]`, kernel `[D, K]`, bias `[K]` or None of the last layer).
        mask: the symbol that is the mask.
        chunk: number of positions at once, at least 1.

    Raises:
        ValueError: for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"in_chunks: chunk = {chunk}. Valid: at least 1 position")

    def log_likelihood(x_t: Array, t: Array, x0: Array) -> Array:
        h, kernel, bias = states(x_t, t)

        @jax.checkpoint
        def chunk_likelihood(states: Array, x0: Array) -> Array:
            logits = jnp.matmul(states, kernel, preferred_element_type=jnp.float32)
            logits = logits if bias is None else logits + bias
            logits = jnp.where(jnp.arange(logits.shape[-1]) == mask, -jnp.inf, logits)
            here = jnp.take_along_axis(logits, x0[:, None], -1)[:, 0]
            return here - jax.nn.logsumexp(logits, -1)

        flat, data = h.reshape(-1, h.shape[-1]), x0.reshape(-1)
        left = -len(data) % chunk
        flat, data = jnp.pad(flat, ((0, left), (0, 0))), jnp.pad(data, (0, left))
        chunks = (flat.reshape(-1, chunk, flat.shape[-1]), data.reshape(-1, chunk))
        log_p = jax.lax.map(lambda pair: chunk_likelihood(*pair), chunks).reshape(-1)
        return log_p[: x0.size].reshape(x0.shape)

    return log_likelihood
