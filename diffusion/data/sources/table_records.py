"""Formats with random access as sources: a `Table` has rows of named columns, and `Records` reads any table.

`Records` decodes pictures, numbers classes, slices splits, and names damaged records.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from diffusion.data import fingerprints, identities
from diffusion.data.sources import splits
from diffusion.data.sources.columns import Columns, class_numbers, encoded, opened, stored_bytes
from diffusion.data.sources.spec import DamagedRecord, RandomAccess, blame
from diffusion.io import failures


class Table(Protocol):
    """Rows of named columns.

    Values are bytes or a `columns.PictureFile` for encoded pictures, {"bytes": bytes} as Hugging Face stores them,
    text, numbers, arrays, and lists of numbers.

    Attributes:
        name: the name of the data, for people.
        where: the folder or file.
        columns: the names of the columns.
    """

    name: str
    where: str
    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """The values of some rows. `Records` turns an error of the format into a `DamagedRecord`."""
        ...

    def place(self, row: int) -> str:
        """The name of a row in messages: its file, and the position there."""
        ...

    def column(self, name: str) -> Sequence[Any]:
        """The values of all rows in a column of numbers or texts."""
        ...

    def stamp(self) -> Any:
        """The names, lengths and times of change of the files, as JSON."""
        ...


class Records(RandomAccess):
    """The records of a table; a `Source`. Records of a small table stay in memory once they have been read."""

    _mend = "Mend or remove it"

    def __init__(
        self,
        table: Table,
        split: str = "train",
        *,
        x: str | Sequence[str] = "",
        label: str | None = None,
        classes: Sequence[str] = (),
        condition: str | Sequence[str] = (),
        caption: str = "",
        side: int = 0,
        varied: tuple[int, ...] = (),
        viewed: bool = False,
        together: int = 1,
    ):
        """Describes the records by the first sound one, and numbers the classes of all labels.

        Args:
            table: the rows of the split that `split` names, before its part is taken.
            split: the split, or a part of it in the notation of `splits.parse`.
            classes: the names of the labels, in the order of their numbers; () for all that occur, sorted.
            x, label, condition, caption: the columns of the example, the label, the condition and the text, as in
                `columns.Columns`.
            side: height and width of the squares that pictures become; 0 for pictures of one size.
            varied: (H, W) of the samples, where pictures keep their sizes; () where all have one.
            viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.
            together: number of consecutive rows that no part divides, as in `splits.Split.rows`.

        Raises:
            ValueError: for a column that is not there, labels that are no classes, or records that cannot be batched.
        """
        super().__init__()
        self._table = table
        self.where = table.where
        base = splits.parse(split)
        if not len(table):
            raise ValueError(f"{table.where} holds no records.")
        self._base = base.base
        self._rows = base.rows(len(table), together)
        self._columns = Columns(
            *(table.where, table.columns),
            **{"x": x, "label": label, "condition": condition, "caption": caption, "side": side, "varied": varied},
            viewed=viewed,
        )
        self._about = [split, side, str(self._columns.example), *(["viewed"] if viewed else [])]
        self._classes: tuple[str, ...] = ()
        self._numbers = None
        if name := self._columns.label:
            labels = f"{self.where}: the labels in column {name!r}"
            self._classes, self._numbers = class_numbers(list(table.column(name)), tuple(classes), table.place, labels)
        self._columns.channels = self._channels_of_first()
        self.spec = self._columns.described(self._first_sound(), table.name, split, self._classes, len(self))
        self._keep = bool(self._columns.channels) and not varied and self._fits_memory()

    def _channels_of_first(self) -> int:
        """The channels of the first sound picture; 0 where the example is no picture.

        Where it is grey, but one of the pictures evenly between the first and the last is in colour, they are 3.
        """
        if not isinstance(self._columns.example, str):
            return 0
        first: Exception | None = None
        for row in range(min(len(self), 100)):
            try:
                channels = self._channels(row)
                return 3 if channels == 1 and self._columns.viewed and self._some_in_colour() else channels
            except (ValueError, OSError) as error:
                if failures.is_machine_failure(error):
                    raise
                first = first or error
        raise ValueError(f"{self._table.place(int(self._rows[0]))} and the records after it cannot be used: {first}")

    def _channels(self, row: int) -> int:
        value = self._table.read([int(self._rows[row])], [str(self._columns.example)])[0][str(self._columns.example)]
        return self._columns.channels_of(value)

    def _some_in_colour(self) -> bool:
        """Whether a picture is in colour among those whose content the fingerprint holds."""
        for row in fingerprints.rows(len(self)):
            with contextlib.suppress(ValueError, OSError):  # a damaged one is named where it is read
                if self._channels(row) > 1:
                    return True
        return False

    def _first_sound(self) -> dict[str, Any]:
        error = None
        for row in range(min(len(self), 100)):
            try:
                (stored,) = self._read([row])
                with self._blamed(row):
                    return self._columns.record(stored, self._number(row))
            except DamagedRecord as damaged:
                error = error or damaged
        assert error is not None
        raise error

    # ==== The records ====

    def __len__(self) -> int:
        return len(self._rows)

    def _place(self, row: int) -> str:
        return f"{self._table.place(int(self._rows[row]))} (record {row})"

    def _stored(self, rows: list[int]) -> list[dict[str, Any]]:
        return self._table.read([int(self._rows[row]) for row in rows], self._columns.wanted)

    def _record(self, row: int, stored: dict[str, Any]) -> dict[str, Any]:
        record = self._columns.record(stored, self._number(row))
        self._columns.check(record, self.spec)
        return record

    def _number(self, row: int) -> int | None:
        return None if self._numbers is None else int(self._numbers[self._rows[row]])

    def _bytes(self, stored: Any) -> bytes:
        return fingerprints.digest(stored_bytes(stored[name]) for name in sorted(stored)).encode()

    # ==== What else a run asks of a source ====

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return self._table.columns

    def column(self, name: str) -> list[Any]:
        """The values of this split's records, in their order, in a column of texts or numbers."""
        self._columns.known(name, "it")
        values = self._table.column(name)
        return [values[int(row)] for row in self._rows]

    def captions(self) -> list[str]:
        """The text of each record: the column `caption`, or the first of `columns.CAPTION` that the table has.

        Raises:
            ValueError: if there is no such column, which lists the columns; or if it holds no texts, which names the
                place.
        """
        name = self._columns.caption
        texts = []
        for row, value in enumerate(self.column(name)):
            try:
                texts.append(self._columns.text_of({name: value}))
            except ValueError as error:
                raise ValueError(f"{self._table.place(int(self._rows[row]))}: {error}.") from None
        return texts

    def metadata(self, row: int, columns: Sequence[str] = ()) -> dict[str, Any]:
        """The stored values of a record without its example, so that a filter decodes no picture.

        Raises:
            ValueError: if a name is not a column, or if the record cannot be read; the message names the record.
        """
        self._columns.known(columns, "metadata")
        names = columns or [name for name in self._table.columns if name != self._columns.example]
        try:
            values = self._table.read([int(self._rows[row])], names)[0]
        except Exception as error:  # the type of the error depends on the format and on the place of the damage
            raise blame(self._place(row), error, self._mend) from error
        return values | ({} if self._numbers is None else {"label": self._number(row)})

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """The heights and widths of the pictures of many rows, int64 [n, 2], read only from their headers.

        Raises:
            DamagedRecord: if a record does not begin as a picture does.
        """
        header = lambda value: opened(encoded(value))  # type: ignore[arg-type]
        return self._sizes(rows, str(self._columns.example), header, self._columns.viewed)

    def identities(self) -> np.ndarray | None:
        """The identities of the rows in their table, see `data.identities`; another split's files are another table."""
        named = getattr(self._table, "identity", self.where)
        return identities.numbered([named, self._base, len(self._table)], "rows", self._rows) if named else None

    def record_names(self) -> list[str] | None:
        """The names of the records, see `identities.names_of`; None for a table without `record_name(row) -> str`."""
        name = getattr(self._table, "record_name", None)
        return None if name is None else [name(int(row)) for row in self._rows]

    def record_lengths(self) -> list[int] | None:
        """The lengths of the records' files, see `identities.lengths_of`; None for a table without `record_length`."""
        length = getattr(self._table, "record_length", None)
        return None if length is None else [length(int(row)) for row in self._rows]

    def sampled_content(self) -> str:
        """A digest of some of the examples as they are stored, see `identities.content_of`."""
        columns = [self._columns.example] if isinstance(self._columns.example, str) else self._columns.example
        return self._sampled(
            lambda stored: fingerprints.digest(stored_bytes(stored[name]) for name in columns).encode()
        )

    def stamp(self) -> str:
        """sha256 of the table's stamp and of the choice of rows; reads no record."""
        return hashlib.sha256(json.dumps([self._table.stamp(), *self._about], default=str).encode()).hexdigest()

    def fingerprint(self) -> dict[str, int | str]:
        """The number of records, a digest of some of them as they are stored, and how pictures are read."""
        labels = {} if self._numbers is None else {"labels": fingerprints.digest([self._numbers[self._rows].tobytes()])}
        return {"records": len(self), "sha256": self._sampled(), **labels, **self._columns.pixels()}


def stamp_of(paths: Sequence[str | os.PathLike]) -> list[tuple[str, int, int]]:
    """Name, length and time of change of files, as a `Table.stamp` has them."""
    stats = ((pathlib.Path(path).name, os.stat(path)) for path in paths)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
