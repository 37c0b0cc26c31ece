"""A function of rows applied to any number of them, in calls of one size."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def applied(
    function: Callable[[Any], Any], rows: Any, size: int, done: Callable[[int], None] = lambda done: None
) -> Any:
    """The function's results for all rows; repeated rows fill the last call, so that all calls have one shape.

    Args:
        function: a pytree of [size, ...] -> a pytree of [size, ...], where a row depends only on that row; jitted, it
            is compiled once.
        rows: a pytree of arrays [N, ...], of any dtypes.
        size: rows in one call.
        done: called with the count of rows that are done.

    Returns:
        A pytree of numpy arrays [N, ...], of the function's dtypes.
    """
    number = len(jax.tree.leaves(rows)[0])
    if not number:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows)
        return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(function, shapes))
    results = []
    for i, part in enumerate(parts(function, rows, size), start=1):
        results.append(part)
        done(min(i * size, number))
    return jax.tree.map(lambda *few: np.concatenate(few), *results)


def parts(function: Callable[[Any], Any], rows: Any, size: int) -> Iterator[Any]:
    """Yields the function's results for the rows of one call after another; a call runs when its results are requested.

    Args:
        function: the function of `applied`.
        rows: a pytree of arrays [N, ...], of any dtypes.
        size: rows in one call.

    Yields:
        A pytree of numpy arrays [size, ...]; the last has the rows that are left.
    """
    number = len(jax.tree.leaves(rows)[0])
    if number == size:  # without a copy, for which each shape of jax arrays would need a program
        yield jax.tree.map(np.asarray, function(rows))
        return
    for begin in range(0, number, size):
        end = min(begin + size, number)
        filled = np.resize(np.arange(begin, end), size)
        results = function(jax.tree.map(functools.partial(_rows, filled=filled), rows))
        yield jax.tree.map(lambda leaf, count=end - begin: np.asarray(leaf)[:count], results)


def _rows(leaf: Any, filled: np.ndarray) -> Any:
    """Some rows of an array; of one of jax by a single program, where an index needs seven."""
    return jnp.take(leaf, filled, axis=0) if isinstance(leaf, jax.Array) else leaf[filled]
