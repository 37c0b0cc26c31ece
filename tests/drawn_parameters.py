"""Parameters of a network, drawn by NumPy: its own initialisation takes longer to compile than most tests' programs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def drawn(init: Callable[..., Any], *arguments: Any, size: float = 0.3, seed: int = 0) -> Any:
    """Parameters of the shapes that `init` has: none is zero, as a new network's last layers are.

        theta ~ N(m, size^2),    m = 1 for what is named "scale", 0 for all else

    Args:
        init: a module's or a tuning's initialisation, of (key, *arguments).
        arguments: its arguments besides the key.
        size: the standard deviation.
        seed: the seed of NumPy's generator.
    """
    shapes = jax.eval_shape(init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(seed)
    mean = lambda path: float(jax.tree_util.keystr(path[-1:], simple=True) == "scale")
    return jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(mean(path) + size * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )
