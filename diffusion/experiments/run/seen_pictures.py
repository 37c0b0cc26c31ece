"""What frozen networks make of the pictures of a run's records, once: WORKDIR/seen.npz.

They are an image encoder, of the pictures that are learned, or the base's autoencoder, of controls beside them.
"""

__all__ = ["CONTROLS", "FILE", "Seen", "leaves", "read", "write"]

import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.adapters.tuning import Tuning
from diffusion.data import pipeline, sources
from diffusion.data.sources.spec import Leaf
from diffusion.io import files, npz
from diffusion.training.runtime import progress

FILE = "seen.npz"
CONTROLS = "controls.npz"  # latents of pictures beside the records' own
IDENTITY = "identity"  # bytes of JSON: of which pictures, by which encoder
BATCH = 8


def leaves(tuning: Tuning) -> dict[str, Leaf]:
    """The entries of a record's condition that a tuning makes of its picture."""
    return {name: Leaf(tuple(shape), "float32") for name, shape in tuning.sees.items()}


def write(
    names: Sequence[str],
    see: Callable[[list[dict[str, Any]]], Mapping[str, np.ndarray]],
    about: Mapping[str, Any],
    source: Any,
    path: pathlib.Path,
) -> None:
    """Computes entries of every record, unless the file has them.

    Args:
        names: of the entries.
        see: records -> the entries, {name: [number, ...]}.
        about: what they depend on beside the pictures, as JSON.
        source: of the records.
        path: of the file.
    """
    about = {"pictures": source.fingerprint(), **about}
    identity = np.frombuffer(json.dumps(about, sort_keys=True, default=str).encode(), np.uint8)
    if path.is_file() and np.array_equal(npz.load(path, (IDENTITY,))[IDENTITY], identity):
        return
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with progress.bar("seeing", len(source), "pictures") as advance:
        for start in range(0, len(source), BATCH):
            few = pipeline.fetch(source, np.arange(start, min(start + BATCH, len(source))))
            seen = see(few)
            for name in rows:
                rows[name].append(np.asarray(seen[name], np.float32))
            advance(start + len(few))
    memory = io.BytesIO()
    np.savez(memory, **{name: np.concatenate(parts) for name, parts in rows.items()}, **{IDENTITY: identity})
    with files.whole(path) as file:
        file.write(memory.getvalue())


def read(names: Sequence[str], path: pathlib.Path) -> dict[str, np.ndarray]:
    """The entries of every record, {name: [number, ...]}."""
    return npz.load(path, tuple(names))


class Seen:
    """Records with what was seen of their pictures in their condition."""

    def __init__(self, source: sources.Source, entries: Mapping[str, np.ndarray]):
        """Adds entries [number, ...] to the records of a source."""
        self._source, self._entries = source, entries
        self.spec = source.spec

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        records = pipeline.fetch(self._source, np.asarray(rows))
        own = lambda row: {name: leaf[row] for name, leaf in self._entries.items()}
        return [
            record | {"condition": {**record.get("condition", {}), **own(row)}} for record, row in zip(records, rows)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """Those of the records, which are of the same pictures."""
        return self._source.fingerprint()
