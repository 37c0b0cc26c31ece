"""Applies a function of rows to any number of rows, in calls of one size."""

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
        function: a function from a pytree of [size, ...] to a pytree of [size, ...], in which each row of the result
            depends only on that row of the input. A jitted function is compiled once.
        rows: a pytree of arrays [N, ...], of any dtypes.
        size: number of rows in one call.
        done: a function that is called with the number of rows done so far.

    Returns:
        A pytree of NumPy arrays [N, ...], with the dtypes of the function's results.
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
    """Yields the function's results call by call; a call runs only when its results are requested.

    Args:
        function: the function, as in `applied`.
        rows: a pytree of arrays [N, ...], of any dtypes.
        size: number of rows in one call.

    Yields:
        A pytree of NumPy arrays [size, ...]; the last may have fewer rows.
    """
    number = len(jax.tree.leaves(rows)[0])
    if number == size:  # no copy, since copying jax arrays would compile a program for each shape
        yield jax.tree.map(np.asarray, function(rows))
        return
    for begin in range(0, number, size):
        end = min(begin + size, number)
        filled = np.resize(np.arange(begin, end), size)
        results = function(jax.tree.map(functools.partial(_rows, filled=filled), rows))
        yield jax.tree.map(lambda leaf, count=end - begin: np.asarray(leaf)[:count], results)


def _rows(leaf: Any, filled: np.ndarray) -> Any:
    """Some rows of an array; for a jax array, `take` compiles a single program, where an index needs seven."""
    return jnp.take(leaf, filled, axis=0) if isinstance(leaf, jax.Array) else leaf[filled]
