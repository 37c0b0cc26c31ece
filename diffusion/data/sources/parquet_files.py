"""Parquet files in the layout of Hugging Face: data/train-00000-of-00002.parquet, pictures as {"bytes": ...}.

Rows have random access once the columns that a run reads are in memory (up to `IN_MEMORY` bytes), or as an Arrow file
in DIFFUSION_CACHE, which is mapped. pyarrow comes with tensorflow-datasets.
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.data.sources import splits
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import failures, files, limits, parquet_batches

IN_MEMORY = 2**30


def parquet(
    path: str,
    split: str = "train",
    *,
    x: str | tuple[str, ...] = "",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> Records:
    """Opens the Parquet files in a folder, or the files that a pattern matches.

    Args:
        path: a folder, a file, or a pattern.
        split: the split, or a part such as "train[:90%]"; a file belongs to the split that its name begins with.
        x, label, condition, caption: the columns of the example, the label, the condition and the text, as in
            `table_records.Records`.
        classes: the names of the classes, in the order of their numbers; () for the names in Hugging Face's metadata,
            or without them for all labels that occur, sorted.
        side: height and width of the squares that pictures become; 0 for pictures of one size.
        varied: (H, W) of the samples, where pictures keep their sizes; () where all have one.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is damaged or has other columns than the first, or a column does not exist.
    """
    table = Parquet(path, split)
    names = classes or table.classes(label)
    columns = {"x": x, "label": label, "classes": names, "condition": condition, "caption": caption}
    return Records(table, split, side=side, varied=varied, viewed=viewed, **columns)


class Parquet:
    """The rows of Parquet files as a table."""

    def __init__(self, path: str, split: str):
        self._paths, self.where, self.name = splits.files_at(path, (".parquet", ".parq"), splits.parse(split).base)
        self._within = splits.within(self.where)
        metadata = [parquet_batches.metadata(file, self._within) for file in self._paths]
        self._schema = _schema(metadata[0], self._paths[0])
        self.columns = tuple(self._schema.names)
        for file, content in zip(self._paths, metadata):
            names = _schema(content, file).names
            if set(names) != set(self.columns):
                raise ValueError(
                    f"{file} has the columns {', '.join(names)}, but {self._paths[0].name} has "
                    f"{', '.join(self.columns)}. All files must have the same columns."
                )
        self._starts = np.cumsum([0, *(content.num_rows for content in metadata)])
        self._tables: dict[str, Any] = {}  # {column: its values}
        self._damaged: dict[str, ValueError] = {}  # {column: why it cannot be read}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, row: int) -> str:
        file = int(np.searchsorted(self._starts, row, "right")) - 1
        return f"{self._paths[file]}, row {row - int(self._starts[file])}"

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        values = {name: self._column(name) for name in columns}
        return [{name: values[name][row].as_py() for name in columns} for row in rows]

    def column(self, name: str) -> Sequence[Any]:
        return self._column(name).to_pylist()

    def stamp(self) -> Any:
        return stamp_of(self._paths)

    def classes(self, label: str | None) -> tuple[str, ...]:
        """The names of the classes of a column, from Hugging Face's metadata; () where it has none."""
        try:
            content = limits.parse_json((self._schema.metadata or {})[b"huggingface"], "its metadata")
            return tuple(content["info"]["features"][label or "label"]["names"])
        except (KeyError, TypeError, ValueError):
            return ()

    def _column(self, name: str) -> Any:
        """A column of all files, with random access."""
        if name in self._damaged:  # no other row reads it again
            raise self._damaged[name]
        if name not in self._tables:
            try:
                size = sum(parquet_batches.unpacked(file, name, self._within) for file in self._paths)
                column = self._whole(name) if size <= IN_MEMORY else None
                column = self._mapped(name) if column is None else column
                if len(column) != len(self):
                    raise ValueError(f"it has {len(column)} rows instead of {len(self)}")
                self._tables[name] = column
            except (ValueError, OSError) as error:
                if failures.is_machine_failure(error):
                    raise
                self._damaged[name] = ValueError(f"{self.where}: column {name!r} cannot be read: {error}")
                raise self._damaged[name] from error
        return self._tables[name]

    def _whole(self, name: str) -> Any:
        """The column in memory; None where it takes more than `IN_MEMORY`."""
        import pyarrow as pa

        chunks: list[Any] = []
        size = 0
        for file in self._paths:
            for batch in parquet_batches.batches(file, [name], within=self._within):
                size += batch.nbytes
                if size > IN_MEMORY:
                    return None
                chunks.append(batch.column(name))
                if chunks[-1].type != chunks[0].type:
                    raise ValueError(
                        f"{self._paths[0].name} holds {chunks[0].type}, but {file.name} {chunks[-1].type}. Valid: one "
                        "type in all files"
                    )
        return pa.chunked_array(chunks, None if chunks else self._schema.field(name).type)

    def _mapped(self, name: str) -> Any:
        import pyarrow as pa

        text = json.dumps([[str(file) for file in self._paths], self.stamp(), name])
        place = files.cache("parquet") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.arrow"
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            print(f"{self.where}: column {name!r} is written once as {place}, for random access", flush=True)
            schema = pa.schema([self._schema.field(name)])
            with files.atomic(place) as out, pa.ipc.new_file(out, schema) as writer:
                for file in self._paths:
                    for batch in parquet_batches.batches(file, [name], within=self._within):
                        writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)
        return pa.ipc.open_file(pa.memory_map(str(place))).read_all()[name]


def _schema(metadata: Any, file: pathlib.Path) -> Any:
    """The columns of a file."""
    import pyarrow as pa

    try:
        return metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{file} is not an intact Parquet file: {limits.reason(error)}") from error
