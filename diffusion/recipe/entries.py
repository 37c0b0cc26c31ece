"""Tables from names to functions, and calls of the function that an entry of a config names.

An entry is {"name": ..., **arguments}; a look-up in a table accepts any value that a config may have.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from diffusion.recipe import fields
from diffusion.recipe.config_errors import ConfigError, unknown
from diffusion.recipe.values import plain

OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *arguments, which an entry cannot name
HIDDEN = {"parent", "name"}  # arguments of Linen modules that are not ours to set


def table(*functions: Callable) -> dict[Any, Callable]:
    """The functions by their own names."""
    return {function.__name__: function for function in functions}


def constants(**values: Any) -> dict[Any, Callable]:
    """Functions that return these values: an entry of a config gives them no arguments."""
    return {name: functools.partial(lambda value: value, value) for name, value in values.items()}


def require_plain_names(value: Any, path: str) -> None:
    """Refuses an entry whose name is a mapping, in a part of a config as `values.plain` returns it.

    Raises:
        ConfigError: with the path of the name.
    """
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), Mapping):
            raise ConfigError(f"{path}.name = {value['name']!r} is a mapping. Valid: text, the name of a function.")
        for field, part in value.items():
            require_plain_names(part, f"{path}.{field}")
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            require_plain_names(part, f"{path}[{number}]")


def call(
    table: Mapping[str, Callable],
    spec: Mapping,
    path: str,
    kind: str,
    nested: Mapping[str, Callable[[Any, str], Any]] = types.MappingProxyType({}),
    **supplied: Any,
) -> Any:
    """Calls the function that an entry {"name": ..., **arguments} names.

    Args:
        table: the names that are allowed, and their functions.
        spec: the entry.
        path: the path of the entry, e.g. `config.schedule`.
        kind: a noun for what the table holds, e.g. "schedule".
        nested: the function (spec, path) that resolves an argument, for each argument that is an entry itself.
        **supplied: arguments that do not come from the entry; an argument that the function does not take is left out.
            The entry may give those among `nested` instead.

    Returns:
        What the function returns.

    Raises:
        ConfigError: for a name or argument that is not known (with the nearest valid one), an argument that is missing
            or of the wrong type, and whatever ValueError the function raises, each with its path.
    """
    spec = plain(spec, path)
    if not isinstance(spec, dict) or "name" not in spec:
        raise ConfigError(
            f'{path} = {spec!r}. Valid: {{"name": ..., arguments}}, where the name of the {kind} is one of '
            f"{', '.join(sorted(table))}."
        )
    require_plain_names({"name": spec["name"]}, path)
    name = spec.pop("name")
    if name not in table:
        raise ConfigError(
            f"{unknown(f'{path}.name', name, table, kind)} To add one of your own: --extend=FILE, see docs/extend.md."
        )
    parameters = {
        argument: parameter
        for argument, parameter in inspect.signature(table[name], eval_str=True).parameters.items()
        if argument not in HIDDEN and parameter.kind not in OPEN
    }
    supplied = {argument: value for argument, value in supplied.items() if argument in parameters}
    free = parameters.keys() - (supplied.keys() - nested.keys())
    arguments = {}
    for argument, value in spec.items():
        if argument not in free:
            hint = (
                f' To replace the whole entry: --{path}=\'{{"name": "{name}"}}\'.' if name and "[" not in path else ""
            )
            raise ConfigError(f"{unknown(path, argument, free, f'argument of {name or kind}')}{hint}")
        if value is None and NoneType in typing.get_args(parameters[argument].annotation):
            arguments[argument] = None
        elif argument in nested:
            arguments[argument] = nested[argument](value, f"{path}.{argument}")
        elif isinstance(value, dict) and "name" in value and not _takes_mappings(parameters[argument].annotation):
            raise ConfigError(
                f"{path}.{argument} = {value!r}: this argument of {name or kind} is no entry. Valid: a value; or give "
                "the argument a name or a type that makes it an entry, see docs/extend.md."
            )
        else:
            _check_annotation(f"{path}.{argument}", value, parameters[argument].annotation)
            arguments[argument] = value
    missing = [
        argument
        for argument in parameters
        if argument in free
        and argument not in supplied | arguments
        and parameters[argument].default is inspect.Parameter.empty
    ]
    if missing:
        named = f"{kind} {name!r}" if name else kind
        raise ConfigError(f"{path}: {named} needs {', '.join(missing)}, e.g. --{path}.{missing[0]}=...")
    try:
        return table[name](**supplied | arguments)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def applied(function: Callable, settings: Mapping, path: str, what: str, **supplied: Any) -> Any:
    """Calls a function with the arguments in a config's entry that has no name. Errors as in `call`."""
    fields.check_type(path, plain(settings, path), dict)
    return call({"": function}, {"name": "", **settings}, path, what, **supplied)


def _takes_mappings(annotation: Any) -> bool:
    """Whether an argument with that annotation may receive a mapping."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    return any((typing.get_origin(option) or option) in (Any, dict, Mapping) for option in options)


def _check_annotation(path: str, value: Any, annotation: Any) -> None:
    """Checks a value against an annotation that is made of the types that a config can hold; others pass."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    origins = tuple(typing.get_origin(option) or option for option in options)
    kinds = tuple(tuple if origin is Sequence else origin for origin in origins)
    if all(kind in fields.WORDS for kind in kinds):
        fields.check_type(path, value, kinds)
    elif np.ndarray in kinds and not (value is None and NoneType in kinds) and not _are_numbers(value):
        raise ConfigError(f"{path} = {value!r}. Valid: numbers.")
    if not isinstance(value, tuple):
        return
    item_types = next((typing.get_args(o) for o, origin in zip(options, origins) if origin in (Sequence, tuple)), ())
    if Sequence in origins or item_types[-1:] == (...,):
        item_types = item_types[:1] * len(value)
    if item_types and len(value) != len(item_types):
        raise ConfigError(f"{path} = {value!r} has {len(value)} entries. Valid: {len(item_types)}.")
    for i, (one, item_type) in enumerate(zip(value, item_types)):
        _check_annotation(f"{path}[{i}]", one, item_type)
        if tuples_of(item_type):
            _check_tuple(f"{path}[{i}]", one, item_type)


def _check_tuple(path: str, value: Any, kind: type) -> None:
    """Checks a value against the fields of a NamedTuple."""
    fields_of = typing.get_type_hints(kind)
    if not isinstance(value, tuple) or len(value) != len(fields_of):
        raise ConfigError(f"{path} = {value!r}. Valid: ({', '.join(fields_of)}).")
    for one, (field, hint) in zip(value, fields_of.items()):
        _check_annotation(f"{path}.{field}", one, hint)


def _are_numbers(value: Any) -> bool:
    """Whether a value is a number, an array, or rows of them, each as long as the others."""
    try:
        return np.issubdtype(np.asarray(value).dtype, np.number)
    except ValueError:  # rows of different lengths
        return False


def takes(function: Callable | None, argument: str) -> bool:
    """Whether a function has an argument of that name; None, of an unknown name, has any."""
    return function is None or argument in inspect.signature(function).parameters


def requires(function: Callable, argument: str) -> bool:
    """Whether a function has an argument of that name without a default."""
    parameter = inspect.signature(function).parameters.get(argument)
    return parameter is not None and parameter.default is inspect.Parameter.empty


def annotation(function: Callable | None, argument: str) -> Any:
    """How a function annotates its argument of that name; None where it does not, or has none."""
    parameters = inspect.signature(function, eval_str=True).parameters if function is not None else {}
    return parameters[argument].annotation if argument in parameters else None


def tuples_of(annotation: Any) -> list[type]:
    """The NamedTuples among the types of an annotation: such an argument is an entry of the tuple's fields."""
    kinds = [kind for kind in typing.get_args(annotation) or (annotation,) if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, tuple) and hasattr(kind, "_fields")]
