"""From the columns of a format to the records of a source: which is the example, the label, the condition, the text.

A format is a `Table`: rows of named columns, as they are stored. `Records` reads them for all formats alike: it decodes
pictures, numbers classes, slices splits, and names what is damaged.
"""

__all__ = ["Records", "Table", "encoded", "numeric", "stamp_of", "stored_bytes"]

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from diffusion.data import fingerprints, packing, transforms
from diffusion.data.sources import splits
from diffusion.data.sources.spec import DamagedRecord, DataSpec, Leaf, number_type
from diffusion.data.sources.tfds_records import IMAGE_LIMIT, MEMORY_LIMIT
from diffusion.io import failures, pictures
from diffusion.public import nearest

MODES = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 3, "YCbCr": 3, "LA": 4}  # channels by Pillow's mode
EXAMPLE = (
    "image",
    "x",
    "images",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "img",
)  # columns that are the example, if none is named
LABEL = ("label", "labels", "cls")  # those that are the label


class Table(Protocol):
    """Rows of named columns.

    Values are bytes or a `pathlib.Path` for encoded pictures, {"bytes": bytes} as Hugging Face stores them, text,
    numbers, arrays, and lists of numbers.

    Attributes:
        name: of the data, for people.
        where: the folder or file.
        columns: their names.
    """

    name: str
    where: str
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The values of some rows; what an error of the format raises is turned into a `DamagedRecord`."""
        ...

    def place(self, row: int) -> str:
        """What to call a row in a message: its file, and where in it."""
        ...

    def column(self, name: str) -> Sequence[Any]:
        """A column of numbers or texts, of all rows."""
        ...

    def stamp(self) -> Any:
        """What the files are: names, lengths, times of change; as JSON."""
        ...


class Records:
    """The records of a table; a `Source`. Those of a small one stay in memory once they have been read."""

    def __init__(
        self,
        table: Table,
        split: str = "train",
        *,
        x: str | Sequence[str] = "",
        label: str | None = None,
        classes: Sequence[str] = (),
        condition: str | Sequence[str] = (),
        side: int = 0,
        varied: tuple[int, ...] = (),
    ):
        """Describes the records by the first that is sound, and the labels by all of them.

        Args:
            table: the rows of the split that `split` names, before its part is taken.
            split: as `splits.parse` reads it.
            x: the column of the example, or several, whose example is the pytree {column: array}; "" for the one of
                `EXAMPLE` that is there, or the only column.
            label: the column of the label; None for the one of `LABEL` that is there; "" for no labels.
            classes: their names, in the order of their numbers; () for all that occur, sorted.
            condition: the column that the network receives, or several, then as {column: array}.
            side: of the squares that pictures are made; 0 for pictures of one size.
            varied: as in `tfds_records.open_source`.

        Raises:
            ValueError: for a column that is not there, labels that are no classes, or records that cannot be batched.
        """
        self._table = table
        self.where = table.where
        base = splits.parse(split)
        if not len(table):
            raise ValueError(f"{table.where} holds no records.")
        self._rows = base.rows(len(table))
        self._example = self._example_columns(x)
        self._label = self._label_column(label)
        self._condition = self._known(condition, "condition")
        self._side, self._varied = side, varied
        self._damaged: dict[int, DamagedRecord] = {}
        self._kept: dict[int, dict[str, Any]] = {}
        self._classes, self._numbers = self._label_numbers(tuple(classes))
        self._channels = self._channels_of_first()
        self.spec = self._described(split)
        held = len(self._rows) * math.prod(packing.packed_shape(self.spec.shape))
        self._keep = self._decodes and not varied and held <= MEMORY_LIMIT

    # ==== Which columns ====

    def _known(self, names: str | Sequence[str], what: str) -> tuple[str, ...] | str:
        for name in (names,) if isinstance(names, str) else names:
            if name and name not in self._table.columns:
                near = nearest(name, self._table.columns, alike=0.6)
                hint = f" Did you mean {near!r}?" if near else ""
                raise ValueError(
                    f"{self.where} has no column {name!r} for {what}; its columns are "
                    f"{', '.join(self._table.columns)}.{hint}"
                )
        return names if isinstance(names, str) else tuple(names)

    def _example_columns(self, x: str | Sequence[str]) -> str | tuple[str, ...]:
        columns = self._table.columns
        if x:
            return self._known(x, "x")
        candidates = [name for name in EXAMPLE if name in columns] or list(columns if len(columns) == 1 else ())
        if not candidates:
            raise ValueError(
                f"{self.where} has the columns {', '.join(columns)}, none of which is called {', '.join(EXAMPLE)}: say "
                "which holds the example, x = COLUMN."
            )
        return candidates[0]

    def _label_column(self, label: str | None) -> str:
        if label:
            self._known(label, "label")
        free = [name for name in LABEL if name in self._table.columns and name != self._example]
        return (free[0] if free else "") if label is None else label

    # ==== Labels ====

    def _label_numbers(self, classes: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray | None]:
        """The names of the classes, and the number of each row of the table, int [N]; None without labels."""
        if not self._label:
            return (), None
        values = list(self._table.column(self._label))
        texts = any(isinstance(value, str) for value in values)
        if texts or classes:
            names = classes or tuple(sorted({str(value) for value in values}))
            number = {name: k for k, name in enumerate(names)} | ({} if texts else {k: k for k in range(len(names))})
            for row, value in enumerate(values):
                if (str(value) if texts else value) not in number:
                    near = nearest(value, names, alike=0.6)
                    hint = f" Did you mean {near!r}?" if near else ""
                    raise ValueError(
                        f"{self._table.place(row)}: its label is {value!r}, which is none of the {len(names)} classes "
                        f"{', '.join(names[:10])}{' ...' if len(names) > 10 else ''}.{hint}"
                    )
            return names, np.array([number[str(value) if texts else value] for value in values], np.int64)
        numbers = np.asarray(values)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iub":
            raise ValueError(
                f"{self.where}: the labels in column {self._label!r} are {numbers.dtype} {numbers.shape[1:]}. Valid: "
                "texts, or integers from 0 on; numbers of another kind are a condition."
            )
        if numbers.min() < 0:
            row = int(numbers.argmin())
            raise ValueError(f"{self._table.place(row)}: its label is {numbers[row]}. Valid: integers from 0 on.")
        return tuple(map(str, range(int(numbers.max()) + 1))), numbers.astype(np.int64)

    # ==== What the records are ====

    @property
    def _wanted(self) -> list[str]:
        """The columns that a record is made of, but for the label."""
        parts = (self._example, self._condition)
        return list(
            dict.fromkeys(name for part in parts for name in ((part,) if isinstance(part, str) else part) if name)
        )

    def _channels_of_first(self) -> int:
        """Of the first sound picture; 0 where the example is none."""
        self._decodes = False
        if not isinstance(self._example, str):
            return 0
        for row in range(min(len(self), 100)):
            try:
                value = self._table.read([int(self._rows[row])], [self._example])[0][self._example]
                data = encoded(value)
                if data is None:
                    return 0
                self._decodes = True
                with pictures.opened(data, "its image") as image:
                    if image.has_transparency_data:
                        return 4
                    return MODES.get(image.mode, 3)
            except (ValueError, OSError) as error:
                if failures.of_machine(error):
                    raise
                first = row or error
        raise ValueError(f"{self._table.place(int(self._rows[0]))} cannot be used, nor the records after it: {first}")

    def _described(self, split: str) -> DataSpec:
        record = self._first_sound()
        example = record["image"] if "image" in record else record["x"]
        shape = packing.shapes_of(example)
        dtype = "uint8" if "image" in record else "float32"
        if self._varied:
            shape = (*self._varied, shape[-1])
        condition = None
        if "condition" in record:
            condition = jax.tree.map(lambda leaf: Leaf(leaf.shape, str(leaf.dtype)), record["condition"])
        return DataSpec(
            self._table.name, split, shape, len(self._classes), len(self._rows), "", dtype, condition, self._classes
        )

    def _first_sound(self) -> dict[str, Any]:
        error = None
        for row in range(min(len(self), 100)):
            try:
                return self._record(row, self._read([row])[0])
            except DamagedRecord as damaged:
                error = error or damaged
        assert error is not None
        raise error

    # ==== The records ====

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record; see `__getitems__`."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records of many rows.

        Args:
            rows: each in 0..len - 1.

        Returns:
            For each {"image": uint8 [...], read-only} or {"x": float, or a pytree}, with "label" where there are
            classes, and "condition" where a column is one.

        Raises:
            IndexError: no such row.
            DamagedRecord: a record is damaged, or not as the others; the message names its file and place.
            failures.Unreadable: this machine could not read the file.
        """
        for row in rows:
            if not 0 <= row < len(self):
                raise IndexError(f"{self._table.name}: row {row} is not in 0..{len(self) - 1}.")
            if row in self._damaged:
                raise self._damaged[row]
        new = [row for row in dict.fromkeys(rows) if row not in self._kept]
        read = {row: self._checked(row, self._record(row, raw)) for row, raw in zip(new, self._read(new))}
        if self._keep:
            self._kept.update(read)
        return [read[row] if row in read else self._kept[row] for row in rows]

    def _read(self, rows: list[int]) -> list[dict[str, Any]]:
        """The stored values of rows; finds out which one it is if one cannot be read."""
        try:
            return self._table.read([int(self._rows[row]) for row in rows], self._wanted)
        except Exception as error:  # what a damaged file raises depends on the format and on where the damage is
            self._require_read(rows[0], error)
            if len(rows) == 1:
                raise self._unusable(rows[0], error) from error
            return [self._read([row])[0] for row in rows]

    def _record(self, row: int, raw: dict[str, Any]) -> dict[str, Any]:
        try:
            if isinstance(self._example, str):
                example = self._value(raw[self._example], self._channels)
                entry = "image" if number_type(example.dtype) == "uint8" else "x"
            else:
                example = {name: numeric(raw[name]) for name in self._example}
                entry = "x"
            record: dict[str, Any] = {entry: example}
            if self._condition:
                value = lambda name: self._value(raw[name], 0)
                several = not isinstance(self._condition, str)
                record["condition"] = (
                    {name: value(name) for name in self._condition} if several else value(self._condition)
                )
        except Exception as error:  # Pillow's errors are of many kinds, SyntaxError among them
            self._require_read(row, error)
            raise self._unusable(row, error) from error
        if self._numbers is not None:
            record["label"] = int(self._numbers[self._rows[row]])
        return record

    def _value(self, value: Any, channels: int) -> np.ndarray:
        data = encoded(value)
        if data is None:
            return numeric(value)
        if not channels:
            with pictures.opened(data, "its image") as image:
                channels = MODES.get(image.mode, 3)
        content = data.read_bytes() if isinstance(data, pathlib.Path) else data
        if self._side:
            picture = transforms.decode_square(content, self._side, channels, IMAGE_LIMIT)
        else:
            picture = transforms.decode_any(content, channels, IMAGE_LIMIT)
        picture.flags.writeable = False  # it may be handed out again
        return picture

    def _checked(self, row: int, record: dict[str, Any]) -> dict[str, Any]:
        """Refuses a record of another shape than the first."""
        example = record["image"] if "image" in record else record["x"]
        found = packing.shapes_of(example)
        if self._varied:
            return record
        if found != self.spec.shape or ("image" in record) != (self.spec.dtype == "uint8"):
            advice = "; set side = N to make squares of all" if self._decodes else ""
            raise self._unusable(row, f"its example is of shape {found}, and the first is of {self.spec.shape}{advice}")
        if self.spec.condition is not None:
            shapes = packing.shapes_of(record["condition"])
            first = jax.tree.map(lambda leaf: leaf.shape, self.spec.condition, is_leaf=lambda x: isinstance(x, Leaf))
            if shapes != first:
                raise self._unusable(row, f"its condition is of shape {shapes}, and the first is of {first}")
        return record

    def _require_read(self, row: int, error: Exception) -> None:
        """Raises `failures.Unreadable` for an error of the machine, not of the record."""
        if failures.of_machine(error):
            place = self._table.place(int(self._rows[row]))
            raise failures.Unreadable(f"{place} could not be read: {error}. It may be sound.") from error

    def _unusable(self, row: int, reason: Any) -> DamagedRecord:
        """Returns the error for a record that cannot be used, and remembers it."""
        self._damaged[row] = DamagedRecord(
            f"{self._table.place(int(self._rows[row]))} (record {row}) cannot be used: {reason}. Mend or remove it, or "
            "leave such records out by --config.data.damaged=skip."
        )
        return self._damaged[row]

    # ==== What else a run asks of a source ====

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return self._table.columns

    def column(self, name: str) -> list[Any]:
        """A column of texts or numbers, of the records of this split, in their order."""
        self._known(name, "it")
        values = self._table.column(name)
        return [values[int(row)] for row in self._rows]

    def about(self, row: int, columns: Sequence[str] = ()) -> dict[str, Any]:
        """The stored values of a record but for its example: what a filter may look at without decoding it."""
        names = columns or [name for name in self._table.columns if name != self._example]
        values = self._table.read([int(self._rows[row])], names)[0]
        return values | ({} if self._numbers is None else {"label": int(self._numbers[self._rows[row]])})

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """The heights and widths of the pictures of many rows, int64 [n, 2], of encoded ones from their headers alone.

        Raises:
            DamagedRecord: a record begins with no picture.
        """
        found = []
        for row in rows:
            try:
                value = self._table.read([int(self._rows[row])], [self._example])[0][self._example]  # type: ignore
                data = encoded(value)
                if data is None:
                    found.append(np.shape(value)[:2])
                    continue
                with pictures.opened(data, "its image") as image:
                    found.append((image.height, image.width))
            except ValueError as error:
                raise self._unusable(row, error) from error
        return np.array(found, np.int64).reshape(-1, 2)

    def stamp(self) -> str:
        """sha256 of what the files are and of which rows of them; reads no record."""
        text = json.dumps([self._table.stamp(), self.spec.split, self._side, str(self._example)], default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def fingerprint(self) -> dict[str, int | str]:
        """How many records there are, and a digest of some of them as they are stored."""
        sampled = fingerprints.digest(map(self._stored, fingerprints.rows(len(self))))
        labels = {} if self._numbers is None else {"labels": fingerprints.digest([self._numbers[self._rows].tobytes()])}
        return {"records": len(self), "sha256": sampled, **labels}

    def _stored(self, row: int) -> bytes:
        try:
            raw = self._read([row])[0]
            return fingerprints.digest(stored_bytes(raw[name]) for name in sorted(raw)).encode()
        except DamagedRecord:
            return b"damaged"


def encoded(value: Any) -> bytes | pathlib.Path | None:
    """The content or the file of an encoded picture; None for a value of another kind."""
    if isinstance(value, dict) and "bytes" in value:
        inner = value["bytes"]
        return inner if inner is not None else pathlib.Path(value["path"])
    return value if isinstance(value, (bytes, pathlib.Path)) else None


def numeric(value: Any) -> np.ndarray:
    """An array of numbers of a stored value.

    Raises:
        ValueError: for a text, a ragged list, or nothing.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"its value {str(value)[:40]!r} is no array of numbers")
    return array


def stored_bytes(value: Any) -> bytes:
    """A stored value as bytes, for a digest."""
    data = encoded(value)
    if isinstance(data, pathlib.Path):
        return data.read_bytes()
    if data is not None:
        return data
    return value.encode() if isinstance(value, str) else np.asarray(value).tobytes()


def stamp_of(paths: Sequence[str | os.PathLike]) -> list[tuple[str, int, int]]:
    """Name, length and time of change of files, as a `Table.stamp` has them."""
    stats = ((pathlib.Path(path).name, os.stat(path)) for path in paths)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
