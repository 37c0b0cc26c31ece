"""Streams of tar shards and Parquet files, which are read from beginning to end.

They serve files that are compressed, or whose storage makes random access slow. An epoch visits the files in a random
order, and shuffles the records of a window at a time. An iterator has a state: a run that continues reads its window
again, and the part of the file before the window.
"""

import functools
import itertools
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.sources import splits, tar_files
from diffusion.data.sources.columns import Columns
from diffusion.data.sources.iterated import Iterated
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.stream_values import Stored
from diffusion.io import budgets, failures, opener, parquet_batches

Raw = tuple[str, Mapping[str, Any]]
"""A record's name in messages, and its stored content: the values of its columns, or the members of a tar."""

_USE = 3  # the number of this module's random words among the uses of a seed, see `data.pipeline`


def tar_stream(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    window: int = 1000,
    seed: int = 0,
    viewed: bool = True,
) -> Iterated:
    """Streams the tar files (.tar, .tar.gz or .tgz) in a folder, or the files that match a pattern.

    Args:
        path: a folder, a file, or a pattern.
        split: the split; names of its files begin with its name. "train[:1000]" selects the first 1000 records of these
            files, in their order, and "train[1000:]" the others.
        x, label, condition, caption: the columns of the example, the label, the condition and the text, as in
            `columns.Columns`; the columns are the suffixes of the members' names.
        classes: the names of the classes in the order of their numbers, which a stream cannot find itself.
        side: height and width of the squares to which pictures are cropped and scaled; 0 for pictures of one size.
        window: number of records that are held in memory and shuffled together; 1 for no shuffling.
        seed: the seed of the order.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there are labels but no classes, a column does not exist, or a stream cannot select the split.
        DamagedRecord: if the first file is not a tar archive.
    """
    order = _Order(path, split, (".tar", ".tar.gz", ".tgz"), tar_records, _member_columns, window, seed)
    columns = {"x": x, "label": label, "condition": condition, "caption": caption, "side": side, "viewed": viewed}
    return _stream(order, split, classes, columns)


def parquet_stream(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    window: int = 1000,
    seed: int = 0,
    viewed: bool = True,
) -> Iterated:
    """Streams the Parquet files in a folder, or the files that match a pattern.

    The arguments and errors are those of `tar_stream`, except that the columns are the files' columns.
    """
    order = _Order(path, split, (".parquet", ".parq"), parquet_records, dict, window, seed)
    columns = {"x": x, "label": label, "condition": condition, "caption": caption, "side": side, "viewed": viewed}
    return _stream(order, split, classes, columns)


def _stream(order: "_Order", split: str, classes: tuple[str, ...], columns: Mapping[str, Any]) -> Iterated:
    """The source of a stream of files. The first record is read at once, since all records have its columns."""
    first = next(order.read(order.parts[0].file, order.parts[0].first), None)
    if first is None:
        raise ValueError(f"{order.parts[0].file} holds no records.")
    place, stored = first
    try:
        names = tuple(order.columns(stored))
    except ValueError as error:
        raise DamagedRecord(f"{place} cannot be used: {error}. Repair it, or remove it.") from error
    read = _Read(Columns(order.where, names, **columns), classes, split, order.columns)
    return Iterated(FileStream(order), read, order.where)


class _Read(Stored):
    """A reader of named records; `of` is a function from a record's stored content to its columns."""

    def __init__(self, columns: Columns, classes: tuple[str, ...], split: str, of: Callable[[Any], Mapping[str, Any]]):
        super().__init__(columns, classes, split)
        self._of = of

    def record(self, value: Raw) -> dict[str, Any]:
        return super().record(self._of(value[1]))

    def place(self, value: Raw, number: int, name: str) -> str:
        return value[0]

    def metadata(self, value: Raw) -> Mapping[str, Any]:
        return super().metadata(self._of(value[1]))

    def caption(self, value: Raw) -> str:
        return super().caption(self._of(value[1]))


class _Part(NamedTuple):
    """The range of a file's records that belongs to a split."""

    file: pathlib.Path
    first: int = 0
    end: int | None = None  # the record after the last one; None for the end of the file


class _Order:
    """The files of a stream, their reader, and the shuffled order of their records."""

    def __init__(
        self,
        path: str,
        split: str,
        suffixes: tuple[str, ...],
        read: Callable[..., Iterator[Raw]],
        columns: Callable[[Any], Mapping[str, Any]],
        window: int,
        seed: int,
    ):
        base, *ends = splits.parse(split)
        if window < 1:
            raise ValueError(f"window = {window}. Valid: at least 1 record")
        paths, self.where, self.name = splits.files_at(path, suffixes, base)
        self.read = functools.partial(read, within=splits.within(self.where))
        self.columns, self.window, self.seed = columns, window, seed
        first, last = splits.numbers(ends, split)
        self.parts = list(self._parts(paths, first, last))
        if not self.parts:
            raise ValueError(f"{self.where} ({split}) holds no records.")

    def _parts(self, paths: Sequence[pathlib.Path], first: int, last: int | None) -> Iterator[_Part]:
        """The parts of files with the records `first` to `last` - 1; earlier files are read to count their records."""
        before = 0
        for path in paths:
            if last is not None and before >= last:
                return
            if before >= first and last is None:
                yield _Part(path)
                continue
            wanted = (first if last is None else last) - before
            there = sum(1 for _ in itertools.islice(self.read(path, 0), max(wanted, 0) + 1))
            begin, end = max(first - before, 0), None if last is None else min(last - before, there)
            if begin < (there if end is None else end):
                yield _Part(path, begin, end)
            before += there

    def permutation(self, size: int, epoch: int, part: int) -> np.ndarray:
        """The order of the files (part 0), or of the records in a window (part 1, 2, ...), int64 [size]."""
        if self.window == 1:
            return np.arange(size)
        words = np.random.Philox(
            key=np.array([self.seed, _USE], np.uint64), counter=np.array([0, epoch, part, 0], np.uint64)
        )
        return np.argsort(words.random_raw(size), kind="stable")


class FileStream:
    """An iterable over the records of the files, with a new order in each epoch."""

    def __init__(self, order: _Order):
        self.name = order.name
        self._order, self._epoch = order, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass."""
        self._epoch = epoch

    def __iter__(self) -> "_Pass":
        return _Pass(self._order, self._epoch)


class _Pass:
    """One pass over the files; its state is the beginning of the current window and the position in the window."""

    def __init__(self, order: _Order, epoch: int):
        self._order, self._epoch = order, epoch
        self._files = order.permutation(len(order.parts), epoch, 0)
        self.set_state({"window": 0, "file": 0, "record": 0, "at": 0})

    def get_state(self) -> dict[str, int]:
        return dict(self._start, at=self._at)

    def set_state(self, state: Mapping[str, int]) -> None:
        self._start, self._at = dict(state), state["at"]
        self._next = {"file": state["file"], "record": state["record"]}  # the next record to read
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
        """Reads the next window."""
        held: list[Raw] = []
        while len(held) < self._order.window and self._next["file"] < len(self._files):
            part = self._order.parts[self._files[self._next["file"]]]
            if self._reader is None:
                self._next["record"] = max(self._next["record"], part.first)
                self._reader = self._order.read(part.file, self._next["record"])
            raw = None if self._next["record"] == part.end else next(self._reader, None)
            if raw is None:
                self._next = {"file": self._next["file"] + 1, "record": 0}
                self._reader = None
                continue
            self._next["record"] += 1
            held.append(raw)
        self._held = held
        self._rows = self._order.permutation(len(held), self._epoch, 1 + self._start["window"])


def tar_records(file: pathlib.Path, first: int, within: pathlib.Path | None = None) -> Iterator[Raw]:
    """The records of a tar file, from number `first` on; consecutive members with the same stem make a record.

    Raises:
        DamagedRecord: if the file is not a tar archive, or is truncated; the message names the last complete record.
    """
    last, number, members, start = "none", -1, {}, 0
    try:
        with (
            opener.open_file(file, within=within) as content,
            tarfile.open(fileobj=content, mode="r|*", tarinfo=tar_files.Strict) as archive,
        ):
            size = budgets.unpacked(os.fstat(content.fileno()).st_size)
            budget = budgets.Budget(str(file), size)
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if member.isfile() and (key != last or number < 0):
                    if number >= first:
                        yield f"{file}, record {last!r} at byte {start:,}", members
                    last, number, members, start = key, number + 1, {}, member.offset
                    budget = budgets.Budget(str(file), size)  # a new budget for each record, which is held in memory
                budget.spend(member.size, members=1)
                if not (member.isfile() or member.isdir()) or (member.isfile() and suffix.lower() in members):
                    tar_files.warn_of_left_out(file, [member.name])
                if member.isfile() and number >= first:
                    members[suffix.lower()] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, *tar_files.DAMAGED, OSError) as error:
        if failures.is_machine_failure(error):
            raise
        raise DamagedRecord(
            f"{file} is not a complete tar archive: after record {last!r} at byte {start:,}: {error}. Copy it again."
        ) from error
    if number >= first:
        yield f"{file}, record {last!r} at byte {start:,}", members


def _member_columns(members: Mapping[str, bytes]) -> dict[str, Any]:
    """The columns of a record of a tar file."""
    values: dict[str, Any] = {}
    for suffix, content in members.items():
        value = tar_files.value_of(suffix, content)
        values |= {f"json.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {suffix: value}
    return values


def parquet_records(file: pathlib.Path, first: int, within: pathlib.Path | None = None) -> Iterator[Raw]:
    """The rows of a Parquet file, from number `first` on; a group of rows is read at a time.

    Raises:
        DamagedRecord: if the file is not an undamaged Parquet file; the message names the first unreadable row.
        failures.Unreadable: if this machine cannot read the file.
    """
    row = 0
    try:
        content = parquet_batches.metadata(file, within)
        for group in range(content.num_row_groups):
            rows = content.row_group(group).num_rows
            if row + rows <= first:
                row += rows
                continue
            for batch in parquet_batches.batches(file, None, [group], within):
                for values in batch.slice(max(first - row, 0)).to_pylist():
                    yield f"{file}, row {max(first, row)}", values
                    first = max(first, row) + 1
                row += batch.num_rows
    except (ValueError, OSError, OverflowError) as error:
        if failures.is_machine_failure(error):
            raise failures.Unreadable(f"{file} could not be read: {error}. The file itself may be intact.") from error
        raise DamagedRecord(f"{file} is damaged from row {max(first, row)} on: {error}.") from error
