"""An interpreter of pickles that calls no functions and imports no modules.

A pickle is a program. The interpreter runs it, but knows only lists, tuples, dictionaries, texts, bytes and numbers,
and refuses every name that the kind of file does not need (`torch_files`, `array_pickles`).
"""

import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, cast

from diffusion.io import limits

OPCODES = 10**6  # the most steps of a pickle; a state of 1,000 tensors takes 40,000
CONSTANTS = frozenset(  # the steps that push their argument
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE SHORT_BINSTRING BINSTRING SHORT_BINBYTES "
    "BINBYTES BINBYTES8 BYTEARRAY8".split()
)


class Name(NamedTuple):
    """A name that a pickle would import; it is not imported."""

    module: str
    name: str


class Kind(NamedTuple):
    """The names that a kind of pickle may hold, and the values that they represent.

    The functions raise a TypeError for arguments of an unexpected form.

    Attributes:
        allows: a function (module, name) -> whether such a file needs the name.
        make: a function (name, arguments) -> the value that a call represents.
        built: a function (value, state) -> None, which sets the state of a value in place.
        persistent: a function from a persistent identity to the value that it represents.
    """

    allows: Callable[[str, str], bool]
    make: Callable[[Name, tuple[Any, ...]], Any]
    built: Callable[[Any, Any], None]
    persistent: Callable[[Any], Any]


def run(file: BinaryIO, kind: Kind) -> Any:
    """The value that the next pickle of a stream describes.

    Args:
        file: the stream, at the beginning of a pickle.
        kind: the kind of file, which determines the valid names and their values.

    Returns:
        A value of lists, tuples, dictionaries, texts, numbers, bytes, and values that `kind` makes.

    Raises:
        limits.Refused: if the pickle has a name or a step that such a file does not need, or too many steps.
        ValueError, LookupError, TypeError, pickle.UnpicklingError: if the pickle is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    copied = 0

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        value = cast(Any, argument)
        if count > OPCODES:
            raise limits.Refused(f"its pickle takes more than {OPCODES} steps.")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case name if name in CONSTANTS:
                stack.append(value)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode.name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                only(list, stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                only(list, stack[-1]).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value = stack.pop()
                key = stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                _set(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(_name(kind, *value.split(" ", 1)))
            case "STACK_GLOBAL":
                name = stack.pop()
                module = stack.pop()
                stack.append(_name(kind, only(str, module), only(str, name)))
            case "BINPERSID":
                stack.append(kind.persistent(stack.pop()))
            case "NEWOBJ":
                stack.pop()
                only(Name, stack.pop())
                stack.append({})
            case "REDUCE":
                arguments = only(tuple, stack.pop())
                stack.append(kind.make(only(Name, stack.pop()), arguments))
            case "BUILD":
                state = stack.pop()
                copied += len(state) if isinstance(state, dict) else 1  # many objects may share one dictionary
                if copied > OPCODES:
                    raise limits.Refused(f"its pickle copies more than {OPCODES} entries.")
                kind.built(stack[-1], state)
            case other:
                raise limits.Refused(f"its pickle has the step {other}, which is not needed in such a file.")
    raise pickle.UnpicklingError("its pickle has no end")


def only(expected: type, value: Any) -> Any:
    """The value, after a check that it has exactly the expected type.

    Raises:
        TypeError: if it has another type.
    """
    if type(value) is not expected:
        raise TypeError(
            f"its pickle has a {type(value).__name__} where only a {expected.__name__.strip('_').lower()} is valid"
        )
    return value


def _set(target: Any, items: list[Any]) -> None:
    """Adds keys and values, which alternate in `items`, to a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):  # to hash deeply nested tuples could take forever
            raise TypeError(f"its pickle has a {type(key).__name__} as a key")
        only(dict, target)[key] = value


def _name(kind: Kind, module: str, name: str) -> Name:
    """The name, after a check that a file of this kind may hold it."""
    if kind.allows(module, name):
        return Name(module, name)
    raise limits.Refused(
        f"it names {f'{module}.{name}'[:100]!r}, which is not needed in such a file: it may be hostile."
    )
