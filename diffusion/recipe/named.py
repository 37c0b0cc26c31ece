"""Tables from names in a config to functions; a look-up accepts any value that a config may have."""

import functools
from collections.abc import Callable
from typing import Any


def table(*functions: Callable) -> dict[Any, Callable]:
    """The functions by their own names."""
    return {function.__name__: function for function in functions}


def values(**values: Any) -> dict[Any, Callable]:
    """Functions that return these values: an entry of a config gives them no arguments."""
    return {name: functools.partial(lambda value: value, value) for name, value in values.items()}
