"""Parameters of the mathematics: plain numbers, or values that JAX traces to compile, map or differentiate."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def traced(*values: Any) -> bool:
    """Whether JAX traces one of the values; such a value has no number yet, so that its range cannot be checked."""
    return any(isinstance(value, Tracer) for value in values)


def functions_of(*values: Any) -> Any:
    """The module with log, exp, sin and others for these values: `math`, in float64, or `jax.numpy` if one is traced.

    Args:
        values: scalar parameters.
    """
    return jnp if traced(*values) else math


def is_number(value: Any, number: float) -> bool:
    """Whether a parameter is this number, at which a function has a simpler form; a traced value never is.

    Args:
        value: scalar parameter.
        number: the number.
    """
    return not traced(value) and np.ndim(value) == 0 and bool(value == number)
