"""The words of a command line, which are read before its flags are parsed."""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from diffusion.package import commands


def program() -> str:
    """The words that started this process, without its arguments: `diffusion train`, `python -m benchmarks.loop`."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:  # a file that was started by its path
        return pathlib.Path(sys.argv[0]).name
    module = spec.name.removesuffix(".__main__")
    return " ".join(commands.current(["python", "-m", module]))


def named(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag, before flags are parsed; None if it is absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", f"-{name}", dest="value")
    return parser.parse_known_args(argv[1:])[0].value


def names(*others: str) -> bool:
    """Whether the command line has one of these flags, before flags are parsed."""
    return any(named(sys.argv, name) is not None for name in others)


def help_is_requested(argv: list[str] | None = None) -> bool:
    """Whether a command line asks for help.

    Args:
        argv: the words of the command line, with the program first; None for this process.
    """
    words = ("help", "helpfull", "helpshort", "helpxml", "?")
    return any(arg.lstrip("-") in words for arg in (sys.argv if argv is None else argv)[1:])


def joined_paths(parts: Sequence[str]) -> list[str]:
    """The paths in a flag that was split at commas, although a path may hold commas, as folders of a sweep's runs do.

    Parts are joined as far as they give the shortest path that exists. Other parts stay as they are.

    Args:
        parts: the parts of the flag.
    """
    paths = []
    rest = list(parts)
    while rest:
        joined = [",".join(rest[:number]) for number in range(1, len(rest) + 1)]
        there = [pathlib.Path(path).expanduser().exists() for path in joined]
        number = there.index(True) if any(there) else 0
        paths.append(joined[number])
        rest = rest[number + 1 :]
    return paths


def with_home(argv: list[str]) -> list[str]:
    """The arguments, with the home folder in place of ~. A shell does not expand it in --workdir=~/runs/digits."""
    home = lambda word: os.path.expanduser(word) if word == "~" or word.startswith("~/") else word
    split = [arg.partition("=") if arg.startswith("-") else ("", "", arg) for arg in argv]
    return [f"{flag}{equals}{home(word)}" for flag, equals, word in split]
