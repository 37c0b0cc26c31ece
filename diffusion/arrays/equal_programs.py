"""Whether two functions are one program, so that their values need not be compiled to be compared."""

__all__ = ["same_program"]

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion.arrays.parameters import traced
from diffusion.package import public


def same_program(one: Callable[..., Any], other: Callable[..., Any], *arguments: Any) -> bool:
    """Whether two functions have the same operations and constants for the same arguments.

    Functions of equal values may be different programs. Traced constants count as different.

    Args:
        one: a function of arrays.
        other: the function that is compared with it.
        *arguments: arrays, of which only the shapes and dtypes count.
    """
    first, second = (jax.make_jaxpr(function)(*arguments) for function in (one, other))
    if str(first.jaxpr) != str(second.jaxpr) or len(first.consts) != len(second.consts):
        return False
    return not traced(*first.consts, *second.consts) and all(map(np.array_equal, first.consts, second.consts))


public.declare(__name__)
