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
        kind: the type that it must have, or several types of which it must have one.
        argument: the name of the argument.
        valid: the valid values in words, with an article and an example.

    Raises:
        TypeError: for another type; the message says the valid values and the value.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {valid}; got {described(value)}")


def require_function(value: Any, argument: str, valid: str, takes: int | None = None) -> None:
    """Refuses a value that cannot be called, or does not take a number of arguments; otherwise as `require`.

    A function whose arguments all have defaults makes a value, as `weightings.p2` does, and is refused too.

    Args:
        value: the value that the caller passed.
        argument: the name of the argument.
        valid: the valid values in words, with an article and an example.
        takes: how many positional arguments it is called with; None for any number.
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
    """Refuses a value that is no function of three positional arguments; otherwise as `require`.

    A Flax module that holds no parameters, and its `apply`, are refused too.
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
    """A function in words, with its arguments: "snr()"."""
    return f"{getattr(value, '__name__', type(value).__name__)}({', '.join(p.name for p in parameters)})"


def _positional(value: Any) -> list[inspect.Parameter] | None:
    """The positional arguments of a function; None where it takes any number, or does not state them."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # some compiled functions state no arguments
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


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


def require_floats(x: Any, argument: str, more: str = ", images scaled to [-1, 1]") -> None:
    """Refuses anything but an array of floating-point numbers, such as images of bytes.

    Args:
        x: the value that the caller passed.
        argument: the name of the argument.
        more: further words on the valid numbers, for the message.

    Raises:
        TypeError: naming what was passed.
    """
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
        raise TypeError(f"{argument} must be an array of floating-point numbers{more}; got {described(x)}")


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


def require_rows(condition: Any, what: str, sizes: tuple[int, ...]) -> None:
    """Refuses a condition of another number of examples, which a network would broadcast, or mix with others.

    Args:
        condition: the condition, a pytree of arrays `[B, ...]`; numbers and arrays `[]` belong to all examples.
        what: the condition's name, the beginning of the sentence.
        sizes: the valid numbers of rows, first the number of examples.

    Raises:
        TypeError: for a list of numbers or texts, whose entries would be a condition each.
        ValueError: for another number of rows.
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
        shape: the shape that it must have.
        what: the array's name, and why it has this shape; the beginning of the sentence.

    Raises:
        ValueError: naming both shapes.
    """
    actual = getattr(value, "shape", () if np.isscalar(value) else None)
    if actual is None:
        raise ValueError(f"{what} must have the shape {tuple(shape)}; got {described(value)}")
    if actual != tuple(shape):
        raise ValueError(f"{what} must have the shape {tuple(shape)}, but has {actual}")


public.declare(__name__)
