"""What Python passes as data, as a source: sequences, iterables, and the datasets of Hugging Face's library."""

__all__ = ["Decoder", "HuggingFace", "huggingface", "source_of"]

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.data.sources import sequences, table_records
from diffusion.data.sources.columns import Columns, class_numbers
from diffusion.data.sources.spec import Source
from diffusion.data.sources.streams import Stream, is_stream


def source_of(data: Any, num_classes: int = 0, split: str = "train") -> Source | Stream:
    """The source of what Python passes as data.

    Args:
        data: a source; a sequence of records; an iterable of them, or a function that returns one, see `streams`; or a
            dataset of Hugging Face's library, see `huggingface`.
        num_classes: of the labels of a sequence or an iterable; 0 where there are none.
        split: what they are to a run.

    Raises:
        ValueError: for what is none of them, or records that are none.
    """
    if hasattr(data, "spec") and hasattr(data, "fingerprint"):
        return data
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return huggingface(data, split)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return sequences.Records(data, num_classes, split)
    if is_stream(data):
        return Stream(data, num_classes, split)
    raise ValueError(
        f"the data is a {type(data).__name__}. Valid: a source, a sequence of records, or an iterable of them"
    )


def huggingface(
    dataset: Any,
    split: str = "train",
    *,
    x: str | Sequence[str] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | Sequence[str] = (),
    caption: str = "",
    side: int = 0,
) -> "table_records.Records | Stream":
    """The source of a `datasets.Dataset`, with random access, or of a `datasets.IterableDataset`, as a stream.

    The library is not imported here: an object with its attributes will do.

    Args:
        dataset: the object, e.g. `datasets.load_dataset(..., streaming=True)["train"]`.
        split: what it is to a run; of a Dataset a part of it too, "train[:90%]".
        x, label, condition, caption, side: as in `columns.Columns`.
        classes: the names of the labels; () for those of the dataset's own `ClassLabel`.

    Raises:
        ValueError: for a column that is not there, or a stream with labels whose classes are not known.
    """
    dataset = _encoded(dataset)
    features = dataset.features or {}
    parts = {"x": x, "condition": condition, "caption": caption, "side": side}
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        table = HuggingFace(dataset)
        label = Columns(table.where, table.columns, label=label, **parts).label
        names = classes or tuple(getattr(features.get(label), "names", None) or ())
        return table_records.Records(table, split, label=label, classes=names, **parts)
    where = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
    columns = Columns(where, dataset.column_names or tuple(next(iter(dataset))), label=label, **parts)
    names = classes or tuple(getattr(features.get(columns.label), "names", None) or ())
    wanted = list(dict.fromkeys([*columns.wanted, *([columns.label] if columns.label else [])]))
    return Stream(
        dataset.select_columns(wanted) if dataset.column_names else dataset,
        split=split,
        decode=Decoder(columns, names),
        describe=lambda record, name: columns.described(record, name, split, names, -1),
        where=where,
    )


class Decoder:
    """From the values of a stream's columns to a record; the first says how many channels pictures have."""

    def __init__(self, columns: Columns, classes: tuple[str, ...]):
        """Makes the decoder of a stream.

        Raises:
            ValueError: if there are labels without classes.
        """
        if columns.label and not classes:
            raise ValueError(
                f"{columns.where} is a stream, and the classes of its column {columns.label!r} are not known. Valid: "
                'classes = ("cat", "dog", ...), or label = "" for none'
            )
        self._columns, self._classes = columns, classes
        self._spec: Any = None

    def __call__(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        columns = self._columns
        if self._spec is None and isinstance(columns.example, str):
            columns.channels = columns.channels_of(stored[columns.example])
        number = None
        if columns.label:
            value = [stored[columns.label]]
            number = int(class_numbers(value, self._classes, lambda row: columns.where, columns.where)[1][0])
        record = columns.record(stored, number)
        if self._spec is None:
            self._spec = columns.described(record, "", "", self._classes, -1)
        columns.check(record, self._spec)
        return record


class HuggingFace:
    """The rows of a `datasets.Dataset` as a table."""

    def __init__(self, dataset: Any):
        self._dataset = dataset
        about = getattr(dataset, "info", None)
        self.name = getattr(about, "dataset_name", None) or type(dataset).__qualname__
        self.where = f"{type(dataset).__module__}.{type(dataset).__qualname__} {self.name!r}"
        self.columns = tuple(dataset.column_names)
        self._views: dict[tuple[str, ...], Any] = {}  # by the columns that are read

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        names = tuple(columns)
        if names not in self._views:
            self._views[names] = self._dataset.select_columns(list(names))
        found = self._views[names][list(rows)]
        return [{name: found[name][k] for name in names} for k in range(len(rows))]

    def place(self, row: int) -> str:
        return f"{self.where}, row {row}"

    def column(self, name: str) -> Sequence[Any]:
        return list(self._dataset[name])

    def stamp(self) -> Any:
        return [self.name, len(self), str(getattr(self._dataset, "_fingerprint", ""))]


def _encoded(dataset: Any) -> Any:
    """The dataset with its pictures as they are stored, so that they are decoded here, and plain values of the rest."""
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            stored = copy.copy(feature)
            stored.decode = False
            dataset = dataset.cast_column(name, stored)
    return dataset.with_format(None)
