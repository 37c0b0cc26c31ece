"""Splits of a source of files: "train", or a part of it such as "train[:90%]", a fair sample in a fixed order."""

import os
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.io import limits

NAMES = ("train", "training", "test", "validation", "val", "valid", "dev", "eval")  # words for splits in file names
_FORM = re.compile(r"(?P<base>[\w.-]+)(\[(?P<first>\d+%?)?:(?P<last>\d+%?)?\])?")
_ORDER = 2**63 + 1  # the seed of the permutation that parts are cut from


class Split(NamedTuple):
    """The name of a split, and the chosen part of it.

    Attributes:
        base: the name of the split, e.g. "train".
        first, last: beginning and end of the part, "10%" or "500"; "" for the ends of the split.
    """

    base: str
    first: str = ""
    last: str = ""

    def ends(self, size: int) -> tuple[int, int]:
        """The beginning and the end of the part among `size` records, in the order that parts are cut from."""
        first = _number(self.first, size) if self.first else 0
        return first, _number(self.last, size) if self.last else size

    def rows(self, size: int, together: int = 1) -> np.ndarray:
        """The rows of the part, ascending, int64 [n].

        Parts are cut from a fixed permutation, so that a part of a folder of classes has all classes. Neighbouring
        parts, "train[:90%]" and "train[90%:]", have no record in common and leave none out.

        Args:
            size: number of records of the split.
            together: number of consecutive rows that no part divides; shares and numbers then count such groups.

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
            raise ValueError(f"the part [{self.first}:{self.last}] of {size} records is empty.")
        return rows


def parse(split: str) -> Split:
    """Reads "train", "train[:90%]" or "train[500:]".

    Raises:
        ValueError: for another form.
    """
    match = _FORM.fullmatch(split)
    if not match:
        raise ValueError(f'split {split!r} is not of the form "train", "train[:90%]" or "train[500:]".')
    return Split(match["base"], match["first"] or "", match["last"] or "")


def numbers(ends: Sequence[str], split: str) -> tuple[int, int | None]:
    """The beginning and the end of a part of a stream, as numbers of records; None for the end of the stream.

    Args:
        ends: first and last, as in `Split`.
        split: the split as the user wrote it, for messages.

    Raises:
        ValueError: for shares, since a stream does not know how many records it has, or a part without records.
    """
    if any(end.endswith("%") for end in ends):
        raise ValueError(
            f"split = {split!r} is a share of the records, but a stream does not know how many it has. Valid: numbers "
            "of records, e.g. 'train[:1000]' to compare with and 'train[1000:]' to train on"
        )
    first, last = (int(end) if end else None for end in ends)
    if last is not None and last <= (first or 0):
        raise ValueError(f"split = {split!r} is empty")
    return first or 0, last


def _number(end: str, size: int) -> int:
    return round(size * int(end[:-1]) / 100) if end.endswith("%") else int(end)


def split_of(name: str) -> str:
    """The split that a file's name or one of its folders names; "" where none does."""
    word = re.split(r"[-_.]", name.split("/")[-1])[0]
    return split_of_folders(name) or (word if word in NAMES else "")


def split_of_folders(name: str) -> str:
    """The split that one of a file's folders names; "" where none does."""
    return next((folder for folder in name.split("/")[:-1] if folder in NAMES), "")


def class_of(name: str) -> str:
    """The class of a file: its first folder that names no split; "" where there is none."""
    return next((folder for folder in name.split("/")[:-1] if folder not in NAMES), "")


def class_files(path: str, suffixes: tuple[str, ...], base: str) -> tuple[list[pathlib.Path], list[str], str, str]:
    """The files of a split, in which each file holds one or more records, with the classes that their folders name.

    The files are FOLDER/CLASS/file, FOLDER/train/CLASS/file or FOLDER/CLASS/train/file, or without classes FOLDER/file
    or FOLDER/train/file. A file's own name says neither: "train_1.obj" may be the mesh of a train.

    Args:
        path, suffixes, base: the folder, the endings of its files and the split, as in `files_at`.

    Returns:
        (files, their classes or [], the folder that holds them, their name for people).

    Raises:
        FileNotFoundError, ValueError: as `files_at`, or if files lie beside folders of classes.
    """
    files, where, name = files_at(path, suffixes, base, split_of_folders)
    root = pathlib.Path(where)
    classes = [class_of(file.relative_to(root).as_posix()) for file in files] if root.is_dir() else []
    if any(classes) and not all(classes):
        loose = files[classes.index("")]
        raise ValueError(
            f"{root} holds {loose.name} beside folders of classes. Valid: all files in class folders, or none."
        )
    return files, classes if any(classes) else [], where, name


def files_at(
    path: str, suffixes: tuple[str, ...], base: str, said: Callable[[str], str] = split_of
) -> tuple[list[pathlib.Path], str, str]:
    """The files of a split in a folder, the files of a pattern, or one file.

    Args:
        path: the folder, file or pattern, as the config names it.
        suffixes: the endings of the files of a folder, in small letters; file names may have them in capitals.
        base: the split.
        said: file name from the folder on -> the split that it names, or "".

    Returns:
        (files, the folder that holds them, their name for people).

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the folder has no such split.
    """
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        matches = files_below(place, suffixes)
        if not matches:
            raise ValueError(f"{place} holds no files that end in {' or '.join(suffixes)}.")
        return [place / name for name in files_of(base, matches, str(place), said)], str(place), place.name
    matches = [place] if place.exists() else sorted(place.parent.glob(place.name))
    if not matches:
        raise FileNotFoundError(f"{place}: there is no such file or folder.")
    require_train(base, str(place))
    return list(matches), str(place), place.name


def files_below(folder: pathlib.Path, suffixes: tuple[str, ...] = ("",)) -> list[str]:
    """The files in a folder and below it, sorted by name, from the folder on; hidden files and folders are left out.

    Args:
        folder: the folder.
        suffixes: the endings of the files, in small letters; file names may have them in capitals.

    Raises:
        limits.Refused: for a link to a folder, which is not followed, so that its files would be left out.
        OSError: if a folder cannot be read.
    """
    return sorted(entries_below(folder, suffixes))


def entries_below(folder: pathlib.Path, suffixes: tuple[str, ...] = ("",)) -> dict[str, bool]:
    """The files of `files_below`, unsorted, and whether each is a plain file: no link, pipe or device.

    Args:
        folder, suffixes: the folder and the endings, as in `files_below`.

    Raises:
        limits.Refused, OSError: as `files_below`.
    """
    files = {}
    inside = [""]
    while inside:
        place = inside.pop()
        with os.scandir(folder / place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{place}/{entry.name}" if place else entry.name
                if _is_folder(entry):
                    if entry.is_symlink():
                        raise limits.Refused(
                            f"{entry.path} is a link to a folder, which is not followed. Valid: the folder itself in "
                            "its place (cp -rL copies links as files)."
                        )
                    inside.append(name)
                elif entry.name.lower().endswith(suffixes):
                    files[name] = entry.is_file(follow_symlinks=False)
    return files


def _is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; a circular link is not one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def warn_of_others(folder: pathlib.Path, what: str, others: Sequence[str], read: Sequence[str]) -> None:
    """Warns of files of formats that are not read, which are left out.

    Args:
        folder: the folder.
        what: the kind of the files, for the message.
        others: the names of such files, from the folder on.
        read: the endings of files that are read.
    """
    if others:
        warnings.warn(
            f"{folder}: {what} of other formats are left out ({len(others)}, e.g. {others[0]}). Only "
            f"{', '.join(read)} are read: convert the others",
            stacklevel=3,
        )


def warn_of_formats(where: str, what: str, others: tuple[str, ...], read: Sequence[str]) -> None:
    """Warns as `warn_of_others` of the files of a source.

    Args:
        where: the folder, file or pattern of the source; only a folder has others.
        what: the kind of the files, for the message.
        others: the endings of files of formats that are not read.
        read: the endings of files that are read.
    """
    folder = pathlib.Path(where)
    if folder.is_dir():
        warn_of_others(folder, what, files_below(folder, others), read)


def within(where: str) -> pathlib.Path | None:
    """The folder that the files of a source must lie in, links followed; None for one file that the user named.

    Args:
        where: the folder, file or pattern of the source, as `files_at` returns it.
    """
    place = pathlib.Path(where)
    if place.is_dir():
        return place
    return None if place.exists() else place.parent  # a pattern's folder


def require_train(base: str, what: str) -> None:
    """Refuses splits other than "train" for data without splits.

    Args:
        base: the split.
        what: the folder or file, for the message.

    Raises:
        ValueError: for another split.
    """
    if base != "train":
        raise ValueError(
            f"{what} has no split {base!r}: the only split is 'train'. Valid: parts of it, e.g. 'train[:90%]' to "
            "train on and 'train[90%:]' to compare with."
        )


def files_of(base: str, names: Sequence[str], what: str, said: Callable[[str], str] = split_of) -> list[str]:
    """The files of a split among the files of a folder, chosen by their names: "train-00000-of-00002.parquet".

    Args:
        base: the split.
        names: the names of all files, from the folder on.
        what: the folder, for messages.
        said: file name -> split, as in `files_at`.

    Returns:
        The names for which `said` returns the split; for "train" all names, where none names a split. A warning names
        files of no split beside those of splits.

    Raises:
        ValueError: if there are none; the message lists the splits.
    """
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(said(name), []).append(name)
    if set(by_split) <= {""}:
        require_train(base, what)
        return list(names)
    if base not in by_split:
        raise ValueError(f"{what} has no split {base!r}; its splits are {', '.join(sorted(filter(None, by_split)))}.")
    if loose := by_split.get("", []):
        warnings.warn(
            f"{what}: files that belong to no split are left out ({len(loose)}, e.g. {loose[0]}). Move them to "
            f"{base!r}, or to another split",
            stacklevel=2,
        )
    return by_split[base]
