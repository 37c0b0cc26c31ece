"""Splits of a source of files: "train", or a part of it such as "train[:90%]", a random sample with a fixed seed."""

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
_ORDER = 2**63 + 1  # the seed of the permutation from which parts are cut


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
        """The beginning and the end of the part among `size` records, in the permutation from which parts are cut."""
        first = _number(self.first, size) if self.first else 0
        return first, _number(self.last, size) if self.last else size

    def rows(self, size: int, together: int = 1) -> np.ndarray:
        """The rows of the part, int64 [n], ascending.

        Parts are cut from a fixed permutation, so that a part of a folder of classes has all classes. Neighbouring
        parts, "train[:90%]" and "train[90%:]", have no record in common and leave none out. A warning names the number
        of records of a part that goes beyond the split; runs of earlier versions may have such parts.

        Args:
            size: number of records of the split.
            together: number of consecutive rows that stay in one part, a group; shares and numbers then count groups.

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
        if last > number:
            units = "records" if together == 1 else f"groups of {together} records"
            warnings.warn(
                f"the part [{self.first}:{self.last}] goes beyond the {number:,} {units} of {self.base!r}, and has "
                f"{len(rows):,} records",
                stacklevel=2,
            )
        return rows


def parse(split: str) -> Split:
    """The split that a text such as "train", "train[:90%]" or "train[500:]" names.

    Raises:
        ValueError: if the text has another form.
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
        ValueError: if an end is a share, because the number of records of a stream is not known, or the part is empty.
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
    """The split that a file's name or one of the file's folders names; "" if none does."""
    word = re.split(r"[-_.]", name.split("/")[-1])[0]
    return split_of_folders(name) or (word if word in NAMES else "")


def split_of_folders(name: str) -> str:
    """The split that one of a file's folders names; "" if none does."""
    return next((folder for folder in name.split("/")[:-1] if folder in NAMES), "")


def class_of(name: str) -> str:
    """The class of a file: its first folder that names no split; "" if there is no such folder."""
    return next((folder for folder in name.split("/")[:-1] if folder not in NAMES), "")


def class_files(path: str, suffixes: tuple[str, ...], base: str) -> tuple[list[pathlib.Path], list[str], str, str]:
    """The files of a split and the classes that their folders name; a file holds one or more records.

    The files are FOLDER/CLASS/file, FOLDER/train/CLASS/file or FOLDER/CLASS/train/file, or without classes FOLDER/file
    or FOLDER/train/file. The name of a file states neither its split nor its class: "train_1.obj" may be the mesh of a
    train.

    Args:
        path, suffixes, base: the folder, the endings of its files and the split, as in `files_at`.

    Returns:
        (files, their classes or [], the folder that holds them, their name for people).

    Raises:
        FileNotFoundError, ValueError: under the conditions of `files_at`.
        ValueError: if files lie beside folders of classes.
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
        said: function from a file's name, with the folders below `path`, to the split that the name states, or "".

    Returns:
        (files, the folder that holds them, their name for people).

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if the folder has no such files or no such split.
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
    """The names of the files in a folder and below it, sorted, without hidden files and folders.

    A name includes the folders between `folder` and the file.

    Args:
        folder: the folder.
        suffixes: the endings of the files, in small letters; file names may have them in capitals.

    Raises:
        limits.Refused: at a link to a folder, because links are not followed and its files would be left out.
        OSError: if a folder cannot be read.
    """
    return sorted(entries_below(folder, suffixes))


def entries_below(folder: pathlib.Path, suffixes: tuple[str, ...] = ("",)) -> dict[str, bool]:
    """{name: whether it is a plain file, and no link, pipe or device} of the files of `files_below`, unsorted.

    Args:
        folder, suffixes: the folder and the endings, as in `files_below`.

    Raises:
        limits.Refused, OSError: under the conditions of `files_below`.
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
    """Whether an entry is a folder or a link to a folder; a circular link is neither."""
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
    """Warns of files of formats that are not read in the folder of a source, as `warn_of_others` does.

    Args:
        where: the folder, file or pattern of the source; only a folder can hold other files.
        what: the kind of the files, for the message.
        others: the endings of files of formats that are not read.
        read: the endings of files that are read.
    """
    folder = pathlib.Path(where)
    if folder.is_dir():
        warn_of_others(folder, what, files_below(folder, others), read)


def within(where: str) -> pathlib.Path | None:
    """The folder in which the files of a source must lie after links are followed; None for a file that the user named.

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
        names: the names of all files, with the folders below `what`.
        what: the folder, for messages.
        said: function from a file's name to its split, as in `files_at`.

    Returns:
        The names for which `said` returns the split; for "train" all names, if `said` returns "" for each of them. If
        some files belong to a split and others to none, a warning names the latter.

    Raises:
        ValueError: if the split has no files; the message lists the splits.
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
