"""Checks of arguments that would otherwise lead to wrong results without an error.

The checks read only types, dtypes and shapes, which are known while JAX traces, so that they add nothing to a compiled
program.
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
    "require_rows",
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
        kind: the type that the value must have, or several types of which it must have one.
        argument: the name of the argument.
        valid: the valid values in words, with an article and an example.

    Raises:
        TypeError: if the value has another type; the message describes the valid values and the value.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {valid}; got {described(value)}")


def require_function(value: Any, argument: str, valid: str, takes: int | None = None) -> None:
    """Refuses a value that cannot be called, or cannot be called with a given number of arguments.

    A function whose arguments all have defaults is refused too, because it makes the function that is meant, as
    `weightings.p2` does.

    Args:
        value: the value that the caller passed.
        argument: the name of the argument.
        valid: the valid values in words, with an article and an example.
        takes: the number of positional arguments with which the value will be called; None for any number.

    Raises:
        TypeError: if the value is refused; the message describes the valid values and the value.
    """
    if not callable(value):
        raise TypeError(f"{argument} must be {valid}; got {described(value)}")
    if takes is None:
        return
    parameters = _positional(value)
    if parameters is not None:
        needed = [p for p in parameters if p.default is p.empty]
        if not (needed and len(needed) <= takes <= len(parameters)):
            raise TypeError(
                f"{argument} must be {valid}; got {_called(value, parameters)}, which does not take these {takes} "
                "arguments; if it makes the function, call it"
            )


def require_network(value: Any, valid: str = "a function (x, clock, condition) -> output") -> None:
    """Refuses a value that cannot be called with three positional arguments.

    A Flax module without its parameters, and the method `apply` of such a module, are refused too.

    Args:
        value: the value that the caller passed.
        valid: the valid values in words, with an article.

    Raises:
        TypeError: if the value is refused; the message describes the valid values and the value.
    """
    require_function(value, "network", valid)
    module = getattr(value, "__self__", value)  # `module.apply` is a method of the module
    if not isinstance(module, type) and hasattr(module, "apply") and getattr(module, "scope", module) is None:
        raise TypeError(
            f"network must be {valid}; got the module {type(module).__name__} of Flax without its parameters. Valid: "
            "lambda x, clock, condition: module.apply(parameters, x, clock, condition)"
        )
    parameters = _positional(value)
    if parameters is None:
        return
    if len(parameters) < 3 or sum(p.default is p.empty for p in parameters) > 3:
        raise TypeError(
            f"network must be {valid}; got {_called(value, parameters)}, which does not take these three arguments; a "
            "network without conditions receives None as the third"
        )


def _called(value: Any, parameters: list[inspect.Parameter]) -> str:
    """A function's name with the names of its arguments, for example "snr(schedule, t)"."""
    return f"{getattr(value, '__name__', type(value).__name__)}({', '.join(p.name for p in parameters)})"


def _positional(value: Any) -> list[inspect.Parameter] | None:
    """The positional arguments of a function; None if it takes any number of them, or does not state them."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # some compiled functions state no arguments
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def require_mask(mask: Any, argument: str) -> None:
    """Refuses a mask that is not Bool, because each value is either selected or not, and other numbers mean neither."""
    if not jnp.issubdtype(jnp.asarray(mask).dtype, jnp.bool_):
        raise TypeError(f"{argument} must be Bool; got {described(mask)}. Valid: e.g. {argument} > 0.5")


def described(value: Any) -> str:
    """A value in words: an array by its dtype and shape, a function by its name, any other value by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of {value.dtype}, shape {tuple(value.shape)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}; if it makes the value, call it: {value.__name__}()"
    return f"a value of type {type(value).__name__}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON or a config has a type, in the sense of JSON.

    Args:
        value: a number, a text, None, or sequences and mappings of such values.
        kind: a type, a union of types, or `Sequence[...]` of one of these. An integer also fits float, True does not
            fit int, and NaN and infinity do not fit float.
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
    """Whether a value is an integer of Python or NumPy of at least 1; True is not an integer."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def require_floats(x: Any, argument: str, more: str = ", images scaled to [-1, 1]") -> None:
    """Refuses anything but an array of floating-point numbers, such as images of bytes.

    Args:
        x: the value that the caller passed.
        argument: the name of the argument.
        more: further words on the valid numbers, for the message.

    Raises:
        TypeError: if the value is something else; the message describes it.
    """
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{argument} must be an array of floating-point numbers{more}; got {described(x)}")


def require_keys(keys: Any, size: int, user: str) -> None:
    """Refuses a value that is not one typed key for each of `size` examples.

    Args:
        keys: the value that the caller passed.
        size: how many examples there are.
        user: the beginning of the message, which says who needs the keys and how many.

    Raises:
        ValueError: if the value is refused; the message says whether the keys are raw, a single key, or of a wrong
            number.
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


def require_rows(condition: Any, what: str, sizes: tuple[int, ...]) -> None:
    """Refuses a condition with a wrong number of rows, which a network would broadcast, or mix with those of others.

    Args:
        condition: the condition, a pytree of arrays `[B, ...]`; numbers and arrays `[]` belong to all examples.
        what: the name of the condition, with which the message begins.
        sizes: the valid numbers of rows, of which the first is the number of examples.

    Raises:
        TypeError: if the condition is a list of numbers or texts, since every entry would be a leaf.
        ValueError: if an array has another number of rows.
    """
    if isinstance(condition, list) and condition and all(isinstance(entry, (int, float, str)) for entry in condition):
        raise TypeError(f"{what} is a list of {type(condition[0]).__name__}. Valid: an array, jnp.array(labels)")
    for leaf in jax.tree.leaves(condition):
        shape = getattr(leaf, "shape", ())
        if shape and shape[0] not in sizes:
            raise ValueError(
                f"{what} has an array of shape {shape}, but x has {sizes[0]} examples. Valid: one row for each"
            )


def require_shape(value: Array, shape: tuple[int, ...], what: str) -> None:
    """Refuses an array of another shape, which would be broadcast.

    Args:
        value: an array.
        shape: the shape that the array must have.
        what: the beginning of the message: the name of the array, and why it must have this shape.

    Raises:
        ValueError: if the shape is another; the message names both shapes.
    """
    actual = getattr(value, "shape", () if np.isscalar(value) else None)
    if actual is None:
        raise ValueError(f"{what} must have the shape {tuple(shape)}; got {described(value)}")
    if actual != tuple(shape):
        raise ValueError(f"{what} must have the shape {tuple(shape)}, but has {actual}")


public.declare(__name__)
