"""The look-up of a name in a table of choices, with one error message for every misspelling."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffusion.io import limits
from diffusion.package import public

Choice = TypeVar("Choice")


def look_up(table: Mapping[str, Choice], name: str, field: str, alike: float = 0.5) -> Choice:
    """Returns the entry of `table` called `name`.

    Args:
        table: the choices by name.
        name: the requested name.
        field: the name of the choice, for the error ("attention", "norm", ...).
        alike: least similarity to `name`, in [0, 1], at which the nearest name is suggested.

    Returns:
        `table[name]`.

    Raises:
        ValueError: if `name` is not in the table; lists the valid names and the nearest one.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    nearest = public.nearest(name, table, alike)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    raise ValueError(f"{field}={limits.short(name)} is not known. Valid: {', '.join(map(repr, table))}{hint}")


def sizes(network: Callable[..., Choice], table: Mapping[str, Mapping[str, Any]]) -> Callable[..., Choice]:
    """A function `preset(name, **options)`: the network of a published size, with other fields of the caller's.

    The function raises ValueError for an unknown name, and as the network.

    Args:
        network: the network's class.
        table: the fields of each published size.
    """

    def preset(name: str, **options: Any) -> Choice:
        return network(**look_up(table, name, "size"), **options)

    preset.__doc__ = f"A {getattr(network, '__name__', 'network')} of a published size, a name in PRESETS."
    return preset
