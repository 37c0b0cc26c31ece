"""Likelihoods for large vocabularies in chunks of positions, without an array of all positions and symbols.

    bound = discrete.masked_bound_of(discrete.in_chunks(states, head, mask, chunk=256), process, keys, x0, t)

For 126,464 symbols and 4,096 positions, the logits take 2 GB in float32, and their gradient another 2 GB. In chunks of
256 positions each array takes 130 MB, at the cost of a second product with the head in the backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.discrete.bounds import LogLikelihood


def in_chunks(states: Callable[[Array, Array], Array], head: Array, mask: int, chunk: int) -> LogLikelihood:
    """The likelihood of the data under the logits `states @ head`, among all symbols except the mask.

    Each chunk's logits are computed again in the backward pass.

    Args:
        states: a function (x_t, t) -> states of the positions, float `[B, ..., D]`: a network without its last layer.
        head: weights of the last layer, float `[D, K]`.
        mask: the mask symbol.
        chunk: number of positions in a chunk, at least 1; the last chunk is padded.

    Returns:
        A function (x_t, t, x_0) -> log p(x_0 | x_t) of the data at each position, float32 of the shape of x_0.

    Raises:
        ValueError: if chunk is below 1.
    """
    return states_in_chunks(lambda x_t, t: (states(x_t, t), head, None), mask, chunk)


def states_in_chunks(
    states: Callable[[Array, Array], tuple[Array, Array, Array | None]], mask: int, chunk: int
) -> LogLikelihood:
    """`in_chunks` for a network that returns its last layer with the states, such as `SymbolTransformer` with `states`.

    Args:
        states: a function (x_t, t) -> (states, float `[B, ..., D]`; kernel `[D, K]` of the last layer; its bias `[K]`,
            or None).
        mask: the mask symbol.
        chunk: number of positions in a chunk, at least 1.

    Raises:
        ValueError: if chunk is below 1.
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
