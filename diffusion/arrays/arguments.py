"""Checks of arguments that would otherwise give wrong results without an error.

The checks read only types, dtypes and shapes, which are known while JAX traces: they add nothing to a compiled program.
"""

__all__ = [
    "described",
    "fits",
    "is_count",
    "require",
    "require_floats",
    "require_function",
    "require_keys",
    "require_mask",
    "require_network",
    "require_shape",
]

import inspect
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.package import public


def require(value: Any, kind: type | tuple[type, ...], argument: str, valid: str) -> None:
    """Refuses a value of another type.

    Args:
        value: the value that the caller passed.
        kind: the type that it must have, or several types of which it must have one.
        argument: the name of the argument.
        valid: the valid values in words, with an article and an example.

    Raises:
        TypeError: for another type; the message says the valid values and the value.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {valid}; got {described(value)}")


def require_function(value: Any, argument: str, valid: str) -> None:
    """Refuses a value that cannot be called; otherwise as `require`."""
    if not callable(value):
        raise TypeError(f"{argument} must be {valid}; got {described(value)}")


def require_network(value: Any, valid: str = "a function (x, clock, condition) -> output") -> None:
    """Refuses a value that is no function, or one of fewer than three positional arguments; otherwise as `require`."""
    require_function(value, "network", valid)
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # some compiled functions state no arguments
        return
    takes = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(takes) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(
            f"network must be {valid}; got {name}({', '.join(takes)}), which does not take these three arguments; a "
            "network without conditions receives None as the third"
        )


def require_mask(mask: Any, argument: str) -> None:
    """Refuses a mask that is not Bool: shares and numbers of bytes mean nothing where a value is taken or left."""
    if not jnp.issubdtype(jnp.asarray(mask).dtype, jnp.bool_):
        raise TypeError(f"{argument} must be Bool; got {described(mask)}. Valid: e.g. {argument} > 0.5")


def described(value: Any) -> str:
    """A value in words: arrays by their dtype and shape, functions by their names, all else by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of {value.dtype}, shape {tuple(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}; if it makes the value, call it: {value.__name__}()"
    return f"a value of type {type(value).__name__}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON or a config has a type, in the sense of JSON.

    Args:
        value: a number, a text, None, or sequences and mappings of such values.
        kind: a type, a union of types, or `Sequence[...]` of such. An integer is also a float, True is no integer, and
            NaN and infinity are no numbers.
    """
    if isinstance(kind, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is Sequence:
        return isinstance(value, (list, tuple)) and all(fits(one, typing.get_args(kind)[0]) for one in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def is_count(value: Any) -> bool:
    """Whether a value is an integer of at least 1, also one of NumPy; True is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def require_floats(x: Any, argument: str) -> None:
    """Refuses anything but an array of floating-point numbers, such as images of bytes.

    Raises:
        TypeError: naming what was passed.
    """
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(
            f"{argument} must be an array of floating-point numbers, images scaled to [-1, 1]; got {described(x)}"
        )


def require_keys(keys: Any, size: int, user: str) -> None:
    """Refuses a value that is not one typed key for each of `size` examples.

    Args:
        keys: the value that the caller passed.
        size: how many examples there are.
        user: who needs the keys and for what, the beginning of the sentence.

    Raises:
        ValueError: saying whether the keys are raw, a single one, or of another number.
    """
    if not (hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)):
        raise ValueError(
            f"{user}: typed ones `[{size}]`, jax.random.split(jax.random.key(seed), {size}). Got "
            f"{described(keys)}; raw keys, which jax.random.PRNGKey makes, become typed by "
            "jax.random.wrap_key_data(keys)"
        )
    if keys.shape != (size,):
        raise ValueError(
            f"{user}; got {'a single key' if keys.shape == () else f'keys of shape {keys.shape}'}. Make "
            f"them with jax.random.split(key, {size})"
        )


def require_shape(value: Array, shape: tuple[int, ...], what: str) -> None:
    """Refuses an array of another shape, which would be broadcast.

    Args:
        value: an array.
        shape: the shape that it must have.
        what: the array's name, and why it has this shape; the beginning of the sentence.

    Raises:
        ValueError: naming both shapes.
    """
    if jnp.shape(value) != tuple(shape):
        raise ValueError(f"{what} must have the shape {tuple(shape)}, but has {jnp.shape(value)}")


public.declare(__name__)
