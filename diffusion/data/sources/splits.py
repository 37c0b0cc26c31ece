"""Splits of a source of files: "train", or a part of it such as "train[:90%]", a fair sample in a fixed order."""

__all__ = [
    "Split",
    "class_files",
    "class_of",
    "files_at",
    "files_of",
    "numbers",
    "parse",
    "split_of",
    "split_of_folders",
    "within",
]

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

NAMES = ("train", "training", "test", "validation", "val", "valid", "dev", "eval")  # by which files and folders say it
_FORM = re.compile(r"(?P<base>[\w.-]+)(\[(?P<first>\d+%?)?:(?P<last>\d+%?)?\])?")
_ORDER = 2**63 + 1  # of the order that parts are cut from: every part holds something of everything


class Split(NamedTuple):
    """A split by its parts.

    Attributes:
        base: "train".
        first, last: "10%" or "500", where a part begins and ends; "" for the ends of the split.
    """

    base: str
    first: str = ""
    last: str = ""

    def ends(self, size: int) -> tuple[int, int]:
        """Where the part begins and ends among `size` records in the order that parts are cut from."""
        first = _number(self.first, size) if self.first else 0
        return first, _number(self.last, size) if self.last else size

    def rows(self, size: int, together: int = 1) -> np.ndarray:
        """The rows of the part, ascending, int64 [n].

        Parts are cut from a fixed permutation, so that one of a folder of classes has all classes; those that touch,
        "train[:90%]" and "train[90%:]", have no record in common and leave none out.

        Args:
            size: records of the split.
            together: so many rows, one after another, are in a part or not as one; parts are then counted in these.

        Raises:
            ValueError: if the part holds no record.
        """
        if not (self.first or self.last):
            return np.arange(size)
        number = size // together
        first, last = self.ends(number)
        order = np.argsort(np.random.Philox(key=np.array([_ORDER, 0], np.uint64)).random_raw(number), kind="stable")
        rows = (together * np.sort(order[first:last])[:, None] + np.arange(together)).reshape(-1)
        if not len(rows):
            raise ValueError(f"the part [{self.first}:{self.last}] of {size} records holds none.")
        return rows


def parse(split: str) -> Split:
    """Reads "train", "train[:90%]" or "train[500:]".

    Raises:
        ValueError: for another form.
    """
    found = _FORM.fullmatch(split)
    if not found:
        raise ValueError(f'split {split!r} is not of the form "train", "train[:90%]" or "train[500:]".')
    return Split(found["base"], found["first"] or "", found["last"] or "")


def numbers(ends: Sequence[str], split: str) -> tuple[int, int | None]:
    """Where a part of a stream begins and ends, by the records before; None for the end of the stream.

    Args:
        ends: first and last, as in `Split`.
        split: for messages.

    Raises:
        ValueError: for shares, since a stream does not know how many records it has, or a part without records.
    """
    if any(end.endswith("%") for end in ends):
        raise ValueError(
            f"a stream does not know how many records it has, and split = {split!r} is a share of them. Valid: numbers "
            "of records, e.g. 'train[:1000]' to compare with and 'train[1000:]' to train on"
        )
    first, last = (int(end) if end else None for end in ends)
    if last is not None and last <= (first or 0):
        raise ValueError(f"split = {split!r} holds no records")
    return first or 0, last


def _number(end: str, size: int) -> int:
    return round(size * int(end[:-1]) / 100) if end.endswith("%") else int(end)


def split_of(name: str) -> str:
    """The split that a file's name or one of its folders says; "" where none does."""
    word = re.split(r"[-_.]", name.split("/")[-1])[0]
    return split_of_folders(name) or (word if word in NAMES else "")


def split_of_folders(name: str) -> str:
    """The split that a file's folders say; "" where none does."""
    return next((folder for folder in name.split("/")[:-1] if folder in NAMES), "")


def class_of(name: str) -> str:
    """The class that a file's folders say, the first that is no split; "" where none does."""
    return next((folder for folder in name.split("/")[:-1] if folder not in NAMES), "")


def class_files(path: str, suffixes: tuple[str, ...], base: str) -> tuple[list[pathlib.Path], list[str], str, str]:
    """The files of a split where each is a record or several, with the classes that their folders say.

    FOLDER/CLASS/file, FOLDER/train/CLASS/file or FOLDER/CLASS/train/file; without classes FOLDER/file or
    FOLDER/train/file. A file's own name says neither: "train_1.obj" may be the mesh of a train.

    Args:
        path, suffixes, base: as in `files_at`.

    Returns:
        (files, their classes or [] where there are none, where they are, what to call them).

    Raises:
        FileNotFoundError, ValueError: as `files_at`, or if files lie beside folders of classes.
    """
    files, where, name = files_at(path, suffixes, base, split_of_folders)
    whole = pathlib.Path(where)
    classes = [class_of(file.relative_to(whole).as_posix()) for file in files] if whole.is_dir() else []
    if any(classes) and not all(classes):
        loose = files[classes.index("")]
        raise ValueError(f"{whole} holds {loose.name} beside folders of classes. Valid: all in class folders, or none.")
    return files, classes if any(classes) else [], where, name


def files_at(
    path: str, suffixes: tuple[str, ...], base: str, said: Callable[[str], str] = split_of
) -> tuple[list[pathlib.Path], str, str]:
    """The files of a split in a folder, of a pattern, or one file; where they are, and what to call them.

    Args:
        path: as the config names it.
        suffixes: that the files of a folder have, in small letters; capital ones in names count as these.
        base: the split.
        said: a file's name, from the folder on -> the split that it says, or "".

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the folder has no such split.
    """
    whole = pathlib.Path(path).expanduser()
    if whole.is_dir():
        found = sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.name.lower().endswith(suffixes))
        if not found:
            raise ValueError(f"{whole} holds no files that end in {' or '.join(suffixes)}.")
        return [whole / name for name in files_of(base, found, str(whole), said)], str(whole), whole.name
    found = [whole] if whole.exists() else sorted(whole.parent.glob(whole.name))
    if not found:
        raise FileNotFoundError(f"{whole}: there is no such file or folder.")
    if base != "train":
        files_of(base, ["a file"], str(whole))  # says that all of it is "train"
    return list(found), str(whole), whole.name


def within(where: str) -> pathlib.Path | None:
    """The folder that the files of a source must lie in, links followed; None for one file that the user named.

    Args:
        where: they are, as `files_at` returns it.
    """
    whole = pathlib.Path(where)
    if whole.is_dir():
        return whole
    return None if whole.exists() else whole.parent  # of a pattern


def files_of(base: str, names: Sequence[str], what: str, said: Callable[[str], str] = split_of) -> list[str]:
    """The files of a split, out of those of a folder, by how their names begin: "train-00000-of-00002.parquet".

    Args:
        base: the split.
        names: of all files, from the folder on.
        what: the folder, for messages.
        said: as in `files_at`.

    Returns:
        The names whose file, or first folder that is a split's, is of that split; all of them for "train" where no name
        is of a split.

    Raises:
        ValueError: if none is; the splits that there are stand in the message.
    """
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(said(name), []).append(name)
    if set(by_split) <= {""}:
        if base == "train":
            return list(names)
        raise ValueError(
            f"{what} has no split {base!r}: all of it is 'train'. Valid: a part, e.g. 'train[:90%]' to train on and "
            "'train[90%:]' to compare with."
        )
    if base not in by_split:
        raise ValueError(f"{what} has no split {base!r}; its splits are {', '.join(sorted(filter(None, by_split)))}.")
    return by_split[base]
