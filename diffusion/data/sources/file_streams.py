"""Tar shards and Parquet files read from their beginning to their end, as streams: for files that are compressed, or
that lie where random access is slow. Their order is shuffled, and their iterators keep their state.

An epoch visits the files in an order of its own, and the records in windows, each in an order of its own. A run that
goes on reads its window again, and the part of the file before it.
"""

__all__ = ["FileStream", "Raw", "parquet_records", "parquet_stream", "tar_records", "tar_stream"]

import functools
import pathlib
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from diffusion.data.sources import splits, tar_files
from diffusion.data.sources.columns import Columns
from diffusion.data.sources.of_python import Decoder
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.streams import Stream
from diffusion.io import failures

Raw = tuple[str, Mapping[str, Any]]
"""What to call a record, and its stored values by column."""

_USE = 3  # of the random words of a seed, see `data.pipeline`


def tar_stream(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    side: int = 0,
    window: int = 1000,
    seed: int = 0,
) -> Stream:
    """Streams the tar files of a folder, or those that a pattern names; .tar.gz and .tgz too.

    Args:
        path: a folder, a file, or a pattern.
        split: files are of the split that their names begin with; a stream has no parts.
        x, label, condition, side: as in `columns.Columns`; columns are the suffixes of members.
        classes: the names of the labels, in the order of their numbers; a stream does not know them.
        window: records that are shuffled together, and held in memory; 1 keeps their order.
        seed: of the order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the first is no tar archive, or labels have no classes.
    """
    order = _Order(path, split, (".tar", ".tar.gz", ".tgz"), tar_records, window, seed)
    return _stream(order, classes, x=x, label=label, condition=condition, side=side)


def parquet_stream(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    side: int = 0,
    window: int = 1000,
    seed: int = 0,
) -> Stream:
    """Streams the Parquet files of a folder, or those that a pattern names; arguments and errors as `tar_stream`."""
    order = _Order(path, split, (".parquet", ".parq"), parquet_records, window, seed)
    return _stream(order, classes, x=x, label=label, condition=condition, side=side)


def _stream(order: "_Order", classes: tuple[str, ...], **parts: Any) -> Stream:
    first = next(order.read(order.paths[0], 0), None)
    if first is None:
        raise ValueError(f"{order.paths[0]} holds no records.")
    columns = Columns(order.where, tuple(first[1]), **parts)
    decode = functools.partial(_decoded, Decoder(columns, classes))
    describe = lambda record, name: columns.described(record, order.name, order.split, classes, -1)
    return Stream(FileStream(order), decode=decode, describe=describe, where=order.where)


def _decoded(decode: Callable[[Mapping[str, Any]], Mapping[str, Any]], raw: Raw) -> Mapping[str, Any]:
    """The record of stored values; errors name its file and place."""
    place, stored = raw
    try:
        return decode(stored)
    except Exception as error:  # Pillow's errors are of many kinds, SyntaxError among them
        if failures.of_machine(error):
            raise failures.Unreadable(f"{place} could not be read: {error}. It may be sound.") from error
        raise DamagedRecord(f"{place} cannot be used: {error}. Mend or remove it.") from error


class _Order:
    """The files of a stream, how one is read, and how their records are shuffled."""

    def __init__(
        self,
        path: str,
        split: str,
        suffixes: tuple[str, ...],
        read: Callable[[pathlib.Path, int], Iterator[Raw]],
        window: int,
        seed: int,
    ):
        base, first, last = splits.parse(split)
        if first or last:
            raise ValueError(f"a stream has no parts, and split = {split!r} is one. Valid: {base!r}")
        if window < 1:
            raise ValueError(f"window = {window}. Valid: at least 1 record")
        self.paths, self.where, self.name = splits.files_at(path, suffixes, base)
        self.split, self.read, self.window, self.seed = split, read, window, seed

    def permutation(self, size: int, epoch: int, part: int) -> np.ndarray:
        """The order of files (part 0) or of a window's records, int64 [size]."""
        if self.window == 1:
            return np.arange(size)
        words = np.random.Philox(
            key=np.array([self.seed, _USE], np.uint64), counter=np.array([0, epoch, part, 0], np.uint64)
        )
        return np.argsort(words.random_raw(size), kind="stable")


class FileStream:
    """The records of the files, pass after pass."""

    def __init__(self, order: _Order):
        self.name = order.name
        self._order, self._epoch = order, 0

    def set_epoch(self, epoch: int) -> None:
        """Of the next pass."""
        self._epoch = epoch

    def __iter__(self) -> "_Pass":
        return _Pass(self._order, self._epoch)


class _Pass:
    """One pass over the files; its state is where its window begins, and how far it is in it."""

    def __init__(self, order: _Order, epoch: int):
        self._order, self._epoch = order, epoch
        self._files = order.permutation(len(order.paths), epoch, 0)
        self.set_state({"window": 0, "file": 0, "record": 0, "at": 0})

    def get_state(self) -> dict[str, int]:
        return dict(self._start, at=self._at)

    def set_state(self, state: Mapping[str, int]) -> None:
        self._start, self._at = dict(state), state["at"]
        self._next = {"file": state["file"], "record": state["record"]}  # to be read
        self._reader: Iterator[Raw] | None = None
        self._held: list[Raw] = None  # type: ignore[assignment]

    def __iter__(self) -> "_Pass":
        return self

    def __next__(self) -> Raw:
        if self._held is None:
            self._fill()
        if self._at == len(self._held):
            self._start = {"window": self._start["window"] + 1, **self._next}
            self._at = 0
            self._fill()
        if not self._held:
            raise StopIteration
        self._at += 1
        return self._held[self._rows[self._at - 1]]

    def _fill(self) -> None:
        """Reads the window that begins here."""
        held: list[Raw] = []
        while len(held) < self._order.window and self._next["file"] < len(self._files):
            if self._reader is None:
                path = self._order.paths[self._files[self._next["file"]]]
                self._reader = self._order.read(path, self._next["record"])
            raw = next(self._reader, None)
            if raw is None:
                self._next = {"file": self._next["file"] + 1, "record": 0}
                self._reader = None
                continue
            self._next["record"] += 1
            held.append(raw)
        self._held = held
        self._rows = self._order.permutation(len(held), self._epoch, 1 + self._start["window"])


def tar_records(file: pathlib.Path, first: int) -> Iterator[Raw]:
    """The records of a tar file from one on: members of one stem that follow one another.

    Raises:
        DamagedRecord: if it is no tar archive, or is cut short; the last record that is whole.
    """
    last, number, members = "none", -1, {}
    try:
        with tarfile.open(file, "r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != last or number < 0:
                    if number >= first:
                        yield f"{file}, record {last!r}", _columns_of(members, file)
                    last, number, members = key, number + 1, {}
                if number >= first:
                    members[suffix.lower()] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.ReadError, EOFError) as error:
        raise DamagedRecord(
            f"{file} is no whole tar archive: after record {last!r}: {error}. Copy it again."
        ) from error
    if number >= first:
        yield f"{file}, record {last!r}", _columns_of(members, file)


def _columns_of(members: Mapping[str, bytes], file: pathlib.Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for suffix, content in members.items():
        value = tar_files.value_of(suffix, content, file)
        values |= {f"json.{key}": each for key, each in value.items()} if isinstance(value, dict) else {suffix: value}
    return values


def parquet_records(file: pathlib.Path, first: int) -> Iterator[Raw]:
    """The rows of a Parquet file from one on, a group of rows at a time.

    Raises:
        DamagedRecord: if it is no sound Parquet file, with the row from which on it is not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as content:
            for group in range(content.num_row_groups):
                rows = content.metadata.row_group(group).num_rows
                if row + rows > first:
                    for values in content.read_row_group(group).slice(max(first - row, 0)).to_pylist():
                        yield f"{file}, row {max(first, row)}", values
                        first = max(first, row) + 1
                row += rows
    except (pa.ArrowInvalid, OSError) as error:
        if failures.of_machine(error):
            raise failures.Unreadable(f"{file} could not be read: {error}. It may be sound.") from error
        raise DamagedRecord(f"{file}, from row {max(first, row)} on, is no sound Parquet file: {error}.") from error
