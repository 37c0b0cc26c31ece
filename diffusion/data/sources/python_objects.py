"""Python objects as sources: sequences, iterables, and the datasets of Hugging Face's library."""

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.data.sources import sequences, splits, table_records
from diffusion.data.sources.columns import Columns, PictureFile
from diffusion.data.sources.iterated import Iterated, is_iterable
from diffusion.data.sources.spec import Source
from diffusion.data.sources.stream_values import Mappings, Stored
from diffusion.data.sources.streams import Stream
from diffusion.io import limits


def source_of(data: Any, num_classes: int = 0, split: str = "train") -> Source | Stream:
    """The source that reads a Python object.

    Args:
        data: a source; a sequence of records; an iterable of records, or a function that returns an iterable, see
            `streams`; or a dataset of Hugging Face's library, see `huggingface`.
        num_classes: number of classes of the labels in a sequence or an iterable; 0 if there are no labels.
        split: the split as which a run uses the records.

    Raises:
        ValueError: if the object is of another kind, or its records have another form.
    """
    if hasattr(data, "spec") and hasattr(data, "fingerprint"):
        return data
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return huggingface(data, split)
    if isinstance(data, Mapping):
        raise ValueError(
            f"the data is a mapping of {', '.join(map(repr, list(data)[:5]))}. Valid: a sequence of records, each a "
            'mapping of one example: [{"x": x[0]}, {"x": x[1]}, ...]'
        )
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return sequences.Records(data, num_classes, split)
    if is_iterable(data):
        return Iterated(data, Mappings(num_classes, split))
    raise ValueError(f"the data is {limits.kind(data)}. Valid: a source, a sequence of records, or an iterable of them")


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
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> "table_records.Records | Stream":
    """The source of a `datasets.Dataset`, with random access, or of a `datasets.IterableDataset`, as a stream.

    The library is not imported: any object with the attributes of a dataset is accepted.

    Args:
        dataset: the object, e.g. `datasets.load_dataset(..., streaming=True)["train"]`.
        split: the split as which a run uses the dataset, or a part: "train[:90%]" of a Dataset, "train[1000:]" of a
            stream.
        x, label, condition, caption: the columns of the example, the label, the condition and the text, as in
            `columns.Columns`.
        classes: the names of the labels; () for the names in the dataset's own `ClassLabel`.
        side: height and width of the squares that pictures become; 0 for pictures of one size.
        varied: (H, W) of the samples if pictures keep their sizes; () if all pictures have one size.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        ValueError: if a column does not exist, the classes of a stream's labels are not known, or a stream has pictures
            of several sizes or is opened with `varied`.
    """
    dataset = _encoded(dataset)
    features = dataset.features or {}
    names_of = lambda label: classes or tuple(getattr(features.get(label), "names", None) or ())
    parts = {"x": x, "condition": condition, "caption": caption, "side": side, "varied": varied, "viewed": viewed}
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        table = HuggingFace(dataset)
        label = Columns(table.where, table.columns, label=label, **parts).label
        return table_records.Records(table, split, label=label, classes=names_of(label), **parts)
    where = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
    if varied:
        raise ValueError(
            f"{where} is a stream, so its pictures must all have one size. Valid: side = N, or a Dataset with random "
            "access"
        )
    columns = Columns(where, dataset.column_names or tuple(next(iter(dataset))), label=label, **parts)
    read = [name for name in (*columns.wanted, columns.label, columns.text) if name]
    dataset = dataset.select_columns(list(dict.fromkeys(read))) if dataset.column_names else dataset
    _, *ends = splits.parse(split)
    first, last = splits.numbers(ends, split)
    dataset = dataset if last is None else dataset.take(last)
    dataset = dataset.skip(first) if first else dataset
    return Iterated(dataset, _Rows(columns, names_of(columns.label), split), where)


class _Rows(Stored):
    """The rows of a stream, whose pictures may be files that the dataset names."""

    def record(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return super().record({name: _with_file(item) for name, item in value.items()})


def _with_file(value: Any) -> Any:
    """A stored value; a `PictureFile` if the dataset, an object that the user passed, names a file instead of bytes."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"} and value["bytes"] is None and value["path"]:
        return PictureFile(pathlib.Path(value["path"]))
    return value


class HuggingFace:
    """The rows of a `datasets.Dataset` as a table."""

    def __init__(self, dataset: Any):
        self._dataset = dataset
        info = getattr(dataset, "info", None)
        self.name = getattr(info, "dataset_name", None) or type(dataset).__qualname__
        self.where = f"{type(dataset).__module__}.{type(dataset).__qualname__} {self.name!r}"
        self.identity = str(getattr(dataset, "_fingerprint", ""))  # "" for an object that states no fingerprint
        self.columns = tuple(dataset.column_names)
        self._views: dict[tuple[str, ...], Any] = {}  # {columns that are read: the dataset of them}

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        names = tuple(columns)
        if names not in self._views:
            self._views[names] = self._dataset.select_columns(list(names))
        values = self._views[names][list(rows)]
        return [{name: _with_file(values[name][k]) for name in names} for k in range(len(rows))]

    def place(self, row: int) -> str:
        return f"{self.where}, row {row}"

    def column(self, name: str) -> Sequence[Any]:
        return list(self._dataset[name])

    def stamp(self) -> Any:
        return [self.name, len(self), str(getattr(self._dataset, "_fingerprint", ""))]


def _encoded(dataset: Any) -> Any:
    """The dataset with pictures that are still encoded, for decoders of this package, and plain values otherwise."""
    for name, feature in (dataset.features or {}).items():
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            stored = copy.copy(feature)
            stored.decode = False
            dataset = dataset.cast_column(name, stored)
    return dataset.with_format(None)
