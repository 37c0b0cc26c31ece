"""Text as windows of characters, each a symbol: the prose of installed packages, and a file of the user's."""

import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from diffusion.data import english_prose, identities
from diffusion.data.sources import splits
from diffusion.data.sources.sequences import SPLITS, Records, Rows
from diffusion.data.sources.spec import DataSpec
from diffusion.io import opener

LETTERS = english_prose.SYMBOLS
LARGEST = 2**30  # bytes of a file of text


class Windows(Rows):
    """Records {"x": int32 [length]} of a text, one after another without overlap; a rest is not used."""

    def __init__(self, symbols: np.ndarray, length: int):
        if not 1 <= length <= len(symbols):
            raise ValueError(f"length = {length}. Valid: 1 .. {len(symbols)}, the number of characters of the text")
        number = len(symbols) // length
        self.x = symbols[: number * length].reshape(number, length).astype(np.int32)


class TextRecords(Records):
    """The windows of a text as a source, with its vocabulary in the description."""

    def __init__(self, windows: Windows, spec: DataSpec, where: str, part: str, rows: np.ndarray | None = None):
        """Wraps windows.

        Args:
            windows: the windows of the whole part.
            spec: the name, the split, the version and the vocabulary of the source.
            where: the place that they come from, for messages.
            part: the name of the part of the text.
            rows: the windows of the split, int [n]; None for all of the part.
        """
        self._numbers = np.arange(len(windows)) if rows is None else rows
        self._part = part
        windows.x = windows.x[self._numbers]
        super().__init__(windows, 0, spec.split, where)
        self.spec = spec._replace(shape=self.spec.shape, size=self.spec.size, dtype=self.spec.dtype)

    def identities(self) -> np.ndarray:
        """The windows by their numbers in their part of the text, cut to windows of this length."""
        stored = [self.spec.name, self.spec.version, *self.spec.shape]
        return identities.numbered(stored, self._part, self._numbers)


def prose(split: str = "train", *, length: int = 128, packages: Sequence[str] = english_prose.PACKAGES) -> TextRecords:
    """English prose that is on this computer already: documentation strings as 26 letters and the space.

    Args:
        split: "train", or "test", one paragraph in ten, chosen by a hash of its letters.
        length: characters of a window, at least 1.
        packages: names of installed distributions whose folder has their name.

    Raises:
        ValueError: for another split, a length out of range, or a package that is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"the prose has no split {split!r}. Valid: train, test")
    text = english_prose.read(packages)
    versions = ", ".join(f"{package} {version}" for package, version in text.versions.items())
    spec = DataSpec("prose", split, (length,), 0, -1, versions, vocabulary=tuple(LETTERS))
    windows = Windows(text.train if split == "train" else text.held_out, length)
    return TextRecords(windows, spec, "documentation strings of installed packages", split)


def text_file(path: str, split: str = "train", *, length: int = 128, alphabet: str = LETTERS) -> TextRecords:
    """The characters of a text file in UTF-8; a line break is a character.

    Args:
        path: the file.
        split: "train", or a part of its windows such as "train[:90%]", a fair sample of them in a fixed order.
        length: characters of a window, at least 1.
        alphabet: the characters that the text may have, in the order of their symbols.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: for a character outside of the alphabet, with its line; for another split, or a length out of range.
    """
    part = splits.parse(split)
    if part.base != "train":
        raise ValueError(f"{path} has no split {split!r}. Valid: train, or parts such as train[:90%] and train[90%:]")
    if len(set(alphabet)) != len(alphabet) or len(alphabet) < 2:
        raise ValueError(f"alphabet = {alphabet!r}. Valid: at least two characters, each once")
    text = opener.read_text(pathlib.Path(path).expanduser(), most=LARGEST)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(alphabet.encode("utf-32-le"), np.uint32)
    order = np.argsort(known)
    symbols = order[np.minimum(np.searchsorted(known[order], points), len(known) - 1)]
    if len(wrong := np.flatnonzero(known[symbols] != points)):
        line = text.count("\n", 0, int(wrong[0])) + 1
        raise ValueError(
            f"{path} has the character {text[wrong[0]]!r} in line {line}, which the alphabet lacks. Valid: an "
            f"alphabet with all characters of the text, e.g. {''.join(sorted(set(text)))!r}"
        )
    name, version = pathlib.Path(path).name, hashlib.sha256(text.encode()).hexdigest()[:12]
    spec = DataSpec(name, split, (length,), 0, -1, version, vocabulary=tuple(alphabet))
    windows = Windows(symbols, length)
    return TextRecords(windows, spec, path, part.base, part.rows(len(windows)))
