"""English prose that is on this computer already: the documentation strings of installed packages, as 27 symbols.

A paragraph is prose if it has 80 characters or more, and nine of ten are letters, spaces, commas or full stops. It is
folded to a .. z and the space, as text8 is. One paragraph in ten is held out, by a hash of its letters: the same ones
whatever else is installed.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.io import opener

PACKAGES = ("numpy", "scipy")
"""The packages that are read by default."""
SYMBOLS = " abcdefghijklmnopqrstuvwxyz"
"""The character of each symbol, in order."""
LEAST = 80  # characters of a paragraph


class Prose(NamedTuple):
    """Text in two parts that share no paragraph.

    Attributes:
        train: int8 `[N]` symbols, 0 the space and 1 .. 26 the letters.
        held_out: int8 `[M]` symbols.
        versions: the packages that it comes from, with their versions.
    """

    train: np.ndarray
    held_out: np.ndarray
    versions: dict[str, str]


def read(packages: Sequence[str] = PACKAGES) -> Prose:
    """The prose of packages, in the order of their files; a paragraph that comes again is left out.

    Args:
        packages: names of installed distributions whose folder has their name.

    Raises:
        ValueError: if one is not installed as a package, or they have no prose.
    """
    return _read(tuple(packages))


@functools.lru_cache(maxsize=4)  # a run opens its data several times
def _read(packages: tuple[str, ...]) -> Prose:
    """The paragraphs of some packages, without repetitions, in two parts."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    texts = set()
    for package in packages:
        for text in paragraphs(package):
            if text not in texts:
                texts.add(text)
                parts[is_held_out(text)].append(text)
    if not texts:
        raise ValueError(f"the packages {', '.join(packages)} have no prose. Valid: for example {', '.join(PACKAGES)}")
    try:
        versions = {package: importlib.metadata.version(package) for package in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise _not_installed(str(error.name)) from error
    return Prose(encode(" ".join(parts[False])), encode(" ".join(parts[True])), versions)


def paragraphs(package: str) -> Iterator[str]:
    """The folded paragraphs of prose in the documentation strings of a package; nothing of it is imported or run.

    Raises:
        ValueError: if it is not installed as a package.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed(package)
    folder = pathlib.Path(spec.submodule_search_locations[0])
    for path in sorted(path for path in folder.rglob("*.py") if "tests" not in path.parts):
        for node in ast.walk(ast.parse(opener.read(path, within=folder))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    if is_prose(paragraph):
                        yield folded(paragraph)


def _not_installed(package: str) -> ValueError:
    return ValueError(f"{package} is not installed as a package. Valid: for example {', '.join(PACKAGES)}")


def is_prose(paragraph: str) -> bool:
    """Whether a text is long enough, and nine of ten characters occur in sentences."""
    plain = re.sub(r"[^A-Za-z ,.]", "", " ".join(paragraph.split()))
    return len(plain) >= LEAST and len(plain) >= 0.9 * len(" ".join(paragraph.split())) and ">>>" not in paragraph


def folded(text: str) -> str:
    """The text in lower-case letters and single spaces, without other characters."""
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def is_held_out(text: str) -> bool:
    """Whether a paragraph is one of the tenth that is held out."""
    return hashlib.sha256(text.encode()).digest()[0] < 26


def encode(text: str) -> np.ndarray:
    """int8 symbols of folded text."""
    letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int8)
    return np.where(letters == ord(" "), 0, letters - ord("a") + 1).astype(np.int8)


def decode(symbols: np.ndarray) -> str:
    """The text of symbols; an underscore stands for the mask."""
    return "".join((SYMBOLS + "_")[symbol] for symbol in symbols)
