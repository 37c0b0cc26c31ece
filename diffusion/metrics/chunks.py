"""A network applied to any number of pictures, in calls of one size, as the small networks of the metrics need it."""

__all__ = ["applied"]

from collections.abc import Callable

import jax
import numpy as np


def applied(network: Callable[[np.ndarray], jax.Array], images: np.ndarray, size: int) -> np.ndarray:
    """The network's output for all pictures; zeros fill the last call, so that all calls have one shape.

    Args:
        network: [size, ...] -> [size, ...], each row from that row alone; jitted, it is compiled once.
        images: [N, ...], any dtype.
        size: pictures in one call.

    Returns:
        [N, ...], of the network's dtype.
    """
    shape = jax.eval_shape(network, jax.ShapeDtypeStruct((size, *images.shape[1:]), images.dtype))
    parts = [np.zeros((0, *shape.shape[1:]), shape.dtype)]
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        filled = np.concatenate([chunk, np.zeros((size - len(chunk), *chunk.shape[1:]), chunk.dtype)])
        parts.append(np.asarray(network(filled))[: len(chunk)])
    return np.concatenate(parts)
