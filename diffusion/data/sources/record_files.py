"""ArrayRecord files, whose records are bytes that a parser turns into named values.

    array_records("shards", parse=my_parser)        # bytes -> {"x": array, "label": int}

Without a parser the first bytes say what a record is: an encoded picture, a .npz, a .npy, or a JSON object. Datasets
of TFDS, whose records are features, are read by `tfds_records`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data.sources import splits
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import limits, npy, npz, opener, pictures

Parser = Callable[[bytes], Mapping[str, Any]]
"""The stored bytes of a record -> its values by name."""


def array_records(
    path: str,
    split: str = "train",
    *,
    parse: Parser | None = None,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> Records:
    """Opens the ArrayRecord files in a folder, or the files that a pattern matches.

    Args:
        path: a folder, a file, or a pattern.
        split: the split, or a part such as "train[:90%]"; a file belongs to the split that its name begins with.
        parse: bytes -> {column: value}; None for `by_its_first_bytes`. A config names a parser that a file of --extend
            has added to `names.PARSERS`.
        x, label, classes, condition, caption: the columns of the example, the label, the condition and the text, and
            the names of the classes, as in `table_records.Records`.
        side: height and width of the squares that pictures become; 0 for pictures of one size.
        varied: (H, W) of the samples, where pictures keep their sizes; () where all have one.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is damaged, or its first record cannot be parsed.
    """
    table = ArrayRecords(path, split, parse or by_its_first_bytes)
    columns = {"x": x, "label": label, "classes": classes, "condition": condition, "caption": caption}
    return Records(table, split, side=side, varied=varied, viewed=viewed, **columns)


class ArrayRecords:
    """The records of ArrayRecord files as a table."""

    def __init__(self, path: str, split: str, parse: Parser):
        from array_record.python.array_record_module import ArrayRecordReader  # imported here: one format of many

        suffixes = (".array_record", ".arrayrecord")
        self._paths, self.where, self.name = splits.files_at(path, suffixes, splits.parse(split).base)
        self._parse = parse
        self._readers = []
        for file in self._paths:
            place = opener.check(file, within=splits.within(self.where))
            reader = ArrayRecordReader(str(place))
            if not reader.ok():  # it then has no records, and says nothing
                raise ValueError(f"{file} is truncated, or is not an ArrayRecord file. Copy it again.")
            self._readers.append(reader)
        self._starts = np.cumsum([0, *(reader.num_records() for reader in self._readers)])
        if not len(self):
            raise ValueError(f"{self.where} holds no records.")
        try:
            self.columns = tuple(self._values(0))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.place(0)} cannot be read: {error}") from error

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _at(self, row: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, row, "right")) - 1
        return file, row - int(self._starts[file])

    def place(self, row: int) -> str:
        file, number = self._at(row)
        return f"{self._paths[file]}, record {number}"

    def _values(self, row: int) -> Mapping[str, Any]:
        file, number = self._at(row)
        return self._parse(self._readers[file].read([number])[0])

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        records = []
        stored: dict[int, bytes] = {}
        for file in {self._at(row)[0] for row in rows}:  # all of a file at once, which the reader does in parallel
            mine = [row for row in rows if self._at(row)[0] == file]
            try:
                stored |= zip(mine, self._readers[file].read([self._at(row)[1] for row in mine]))
            except RuntimeError as error:  # of all that is wrong in a file
                raise ValueError(str(error)) from error
        for values in (self._parse(stored[row]) for row in rows):
            if missing := [name for name in columns if name not in values]:
                raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(values)}")
            records.append({name: values[name] for name in columns})
        return records

    def column(self, name: str) -> Sequence[Any]:
        values = []
        for row in range(len(self)):
            try:
                values.append(self._values(row)[name])
            except (RuntimeError, ValueError, KeyError) as error:
                why = f"it has no {name}" if isinstance(error, KeyError) else error
                raise ValueError(f"{self.place(row)} cannot be used: {why}") from error
        return values

    def stamp(self) -> Any:
        return stamp_of(self._paths)


def by_its_first_bytes(record: bytes) -> Mapping[str, Any]:
    """The values of a record, whose first bytes tell its form: .npz, .npy ("x"), JSON object, or picture ("image").

    Raises:
        ValueError: if it is of no such kind.
    """
    if record[:2] == b"PK":
        return npz.decoded(record, "it")
    if record[:6] == b"\x93NUMPY":
        return {"x": npy.decoded(record, "it")}
    if record[:1] == b"{":
        return limits.parse_json(record, "it")
    if pictures.format_of(record) in pictures.FORMATS:
        return {"image": record}
    raise ValueError(
        f"a record begins with {record[:8]!r}, which is neither a picture, .npz, .npy nor JSON. Say how to read it by "
        "parse=FUNCTION, bytes -> {column: value}"
    )
