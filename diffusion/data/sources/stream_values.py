"""The values that an iterable yields: complete records, or the stored columns of a record."""

from collections.abc import Mapping
from typing import Any, Protocol

from diffusion.data.sources import sequences
from diffusion.data.sources.columns import ClassTable, Columns
from diffusion.data.sources.spec import DataSpec


class Values(Protocol):
    """The protocol for readers of the values that an iterable yields, one for each record."""

    def record(self, value: Any) -> dict[str, Any]:
        """The record of a value; raises the errors of its decoder."""
        ...

    def described(self, record: Mapping[str, Any], name: str) -> DataSpec:
        """The description of records like this one, in a stream called `name`."""
        ...

    def check(self, record: Mapping[str, Any], spec: DataSpec) -> None:
        """Refuses a record that does not fit the description."""
        ...

    def place(self, value: Any, number: int, name: str) -> str:
        """The name for messages of a record, by its number in a pass over the stream."""
        ...

    def metadata(self, value: Any) -> Mapping[str, Any]:
        """All columns but the example."""
        ...

    def caption(self, value: Any) -> str:
        """The text of a record."""
        ...

    def pixels(self) -> dict[str, str]:
        """The entries of the stream's fingerprint about its pictures, as in `columns.Columns.pixels`."""
        ...


class Mappings:
    """A reader of records in the form of `Recipe(data=...)`, {"image" or "x", "label", "condition", "caption"}."""

    def __init__(self, num_classes: int = 0, split: str = "train"):
        self._num_classes, self._split = num_classes, split

    def record(self, value: Any) -> dict[str, Any]:
        return sequences.plain(value)

    def described(self, record: Mapping[str, Any], name: str) -> DataSpec:
        return sequences.describe_record(record, name, self._num_classes, self._split)

    def check(self, record: Mapping[str, Any], spec: DataSpec) -> None:
        sequences.check(record, spec)

    def place(self, value: Any, number: int, name: str) -> str:
        return f"{name}, record {number}"

    def metadata(self, value: Any) -> Mapping[str, Any]:
        return {key: entry for key, entry in value.items() if key not in ("image", "x")}

    def caption(self, value: Any) -> str:
        return sequences.caption(value)

    def pixels(self) -> dict[str, str]:
        return {}


class Stored:
    """A reader of stored columns, {column: value}; the first undamaged picture sets the number of channels for all."""

    def __init__(self, columns: Columns, classes: tuple[str, ...], split: str):
        """Sets how columns are read.

        Args:
            columns: the roles of the columns.
            classes: the names of the classes.
            split: the split of the stream.

        Raises:
            ValueError: if there is a column of labels, but no classes, or a class is named twice.
        """
        if columns.label and not classes:
            raise ValueError(
                f"{columns.where} is a stream, so the classes of its column {columns.label!r} are not known in "
                'advance. Valid: classes = ("cat", "dog", ...), or label = "" for no classes'
            )
        self._columns, self._split = columns, split
        self._classes = ClassTable(classes if columns.label else (), columns.where)

    def record(self, value: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns
        if missing := [name for name in columns.wanted if name not in value]:
            raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(value)}")
        if not columns.channels and isinstance(columns.example, str):
            columns.channels = columns.channels_of(value[columns.example])
        return columns.record(value, self._number(value))

    def _number(self, value: Mapping[str, Any]) -> int | None:
        """The number of a record's class; None without classes."""
        columns = self._columns
        if not columns.label:
            return None
        if columns.label not in value:
            raise ValueError(f"it has no {columns.label}, only {', '.join(value)}")
        return int(self._classes.numbers([value[columns.label]], lambda row: "it")[0])

    def described(self, record: Mapping[str, Any], name: str) -> DataSpec:
        return self._columns.described(record, name, self._split, self._classes.names, -1)

    def check(self, record: Mapping[str, Any], spec: DataSpec) -> None:
        self._columns.check(record, spec)

    def place(self, value: Mapping[str, Any], number: int, name: str) -> str:
        return f"{self._columns.where}, row {number}"

    def pixels(self) -> dict[str, str]:
        return self._columns.pixels()

    def metadata(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        number = self._number(value)
        rest = {key: entry for key, entry in value.items() if key != self._columns.example}
        return rest if number is None else rest | {"label": number}

    def caption(self, value: Mapping[str, Any]) -> str:
        return self._columns.text_of(value)
