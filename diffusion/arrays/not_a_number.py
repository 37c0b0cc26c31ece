"""NaN in place of values that may not be used, in a form that a compiler keeps.

XLA's exponential for CPUs converts its argument to an integer, which is undefined for NaN. Where the NaN is a constant
of the program, as in `exp(jnp.where(valid, x, jnp.nan))`, the compiler sees this and leaves the result out: the output
holds whatever lay in memory. So the NaN of `nan_unless` is the result of a division whose operands the compiler does
not know, and `exponential` takes arguments that may be such constants, as those from a user's function.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def nan_unless(condition: ArrayLike, x: Array) -> Array:
    """The values x where a condition holds, and NaN elsewhere.

    It has the derivative of `jnp.where(condition, x, jnp.nan)`.

    Args:
        condition: bool, of a shape that broadcasts with x.
        x: float, any shape.

    Returns:
        An array of x's dtype, of the shape of both together.
    """
    finite = jax.lax.stop_gradient(jnp.where(jnp.isfinite(x), x, 0))
    zero = finite - finite
    return jnp.where(condition, x, zero / jnp.where(condition, 1, 0).astype(x.dtype))


def exponential(x: Array) -> Array:
    """The exponential function, exp x, and NaN where x is NaN.

    Args:
        x: float, any shape.

    Returns:
        An array of x's dtype and shape, whose derivative is 0 where x is NaN.
    """
    lost = jnp.isnan(x)
    return jnp.where(lost, jnp.nan, jnp.exp(jnp.where(lost, 0, x)))


def table_rows(table: Array, indices: Array) -> Array:
    """Rows of a table, with NaN for an index that it does not have.

    Args:
        table: float `[N, ...]`.
        indices: int, any shape, in [0, N). A negative index has no row.

    Returns:
        `[*indices.shape, ...]`, of the table's dtype.
    """
    chosen = jnp.asarray(table).at[indices].get(mode="clip", wrap_negative_indices=False)
    return nan_outside(indices, len(table), chosen)


def nan_outside(indices: Array, size: int, rows: Array) -> Array:
    """Replaces rows by NaN where their index lies outside [0, size).

    Args:
        indices: int, any shape.
        size: the number of valid indices.
        rows: float `[*indices.shape, ...]`.

    Returns:
        An array of the rows' dtype and shape.
    """
    valid = (indices >= 0) & (indices < size)
    return nan_unless(jnp.expand_dims(valid, tuple(range(valid.ndim, rows.ndim))), rows)
