"""Encodes the pictures of a run with frozen networks once, into a cache of latents for each entry, WORKDIR/seen.

The networks are an image encoder, for the training pictures, and the autoencoder of the base, for controls. In a cache,
tokens [N, D] are stored as latents of one row, and a vector [D] as a latent of one pixel, as in `data.feature_cache`.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import latent_cache, pipeline, sources
from diffusion.data.sources.spec import Derived, ManyAtOnce, OneForOne
from diffusion.io import npz
from diffusion.training.runtime import progress

FOLDER = "seen"
EARLIER = ("controls.npz", "seen.npz")  # files beside it in runs of earlier versions: the entries of all records
IDENTITY = "identity"  # an array in such a file, the bytes of JSON that identify its pictures and its network
BATCH = 8  # pictures that are encoded at once


class Sight(NamedTuple):
    """An entry of a record's condition that a frozen network computes from a picture of the record.

    Attributes:
        see: a function from pictures, uint8 [H, W, C] each, to float32 [number, *shape].
        shape: the shape of the entry, with one to three axes.
        column: the entry of the condition that holds the picture; "" for the picture of the record itself.
        facts: the facts that the entry depends on besides the pictures, as JSON values.
    """

    see: Callable[[Sequence[np.ndarray]], np.ndarray]
    shape: tuple[int, ...]
    column: str
    facts: Mapping[str, Any]

    @property
    def latent(self) -> tuple[int, int, int]:
        """The shape in a cache, (h, w, D)."""
        height, width, channels = (1, 1, *self.shape)[-3:]
        return height, width, channels


class Pictures(OneForOne, ManyAtOnce):
    """The pictures that a `Sight` reads, as records."""

    def __init__(self, source: sources.Source, column: str):
        """Takes one column of a source's records; their own pictures if `column` is ""."""
        super().__init__(source)
        self._column, spec = column, source.spec
        shape = spec.condition[column].shape if column else spec.shape
        self.spec = spec._replace(shape=shape, num_classes=0, classes=(), condition=None)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        records = pipeline.fetch(self._of, np.asarray(rows))
        return [{"image": one["condition"][self._column] if self._column else one["image"]} for one in records]


class Rows:
    """Entries that an earlier version computed, disguised as pictures, so that a cache can be written from them."""

    def __init__(self, rows: np.ndarray, sight: Sight, spec: sources.DataSpec):
        """Takes the entries float32 [number, *shape] of the records that a spec describes."""
        self._rows = np.ascontiguousarray(rows, np.float32).reshape(-1, *sight.latent).view(np.uint8)
        self.spec = spec._replace(shape=self._rows.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record."""
        return {"image": self._rows[row]}

    @staticmethod
    def see(images: Sequence[np.ndarray]) -> np.ndarray:
        """The entries, back from the records of `Rows`."""
        return np.stack(images).view(np.float32)


def _earlier(sight: Sight, source: sources.Source, folder: pathlib.Path) -> np.ndarray | None:
    """The entries that an earlier version wrote beside the folder of the caches; None if there are none."""
    wanted = json.loads(json.dumps({"pictures": source.fingerprint(), **sight.facts}, default=str))
    for path in (folder.parent.parent / name for name in EARLIER):
        if not path.is_file() or not {folder.name, IDENTITY} <= npz.names(path):
            continue
        identity = json.loads(npz.load(path, (IDENTITY,))[IDENTITY].tobytes())
        identity.get("source", {}).pop("path", None)  # the pictures may have moved
        if identity == wanted:
            return npz.load(path, (folder.name,))[folder.name]
    return None


def write(sight: Sight, source: sources.Source, folder: pathlib.Path, threads: int = 2) -> None:
    """Computes the entries that the cache lacks, and writes them.

    Args:
        sight: the entry.
        source: the records.
        folder: the folder of the cache, whose name is the name of the entry.
        threads: the number of threads that read pictures in advance.

    Raises:
        CacheError: if the folder holds entries of other pictures or another network.
        DamagedRecord: if a picture cannot be read.
    """
    from diffusion.data import latent_writer  # imported here: array_record takes a while

    shown = Pictures(source, sight.column)
    spec = shown.spec
    digest = lambda value: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
    name = latent_cache.named(folder, spec.name)
    known = spec._replace(name=name, version=digest(shown.fingerprint())[:16], size=len(shown))
    description = latent_cache.Description(
        dataset=latent_cache.dataset_of(known),
        autoencoder={"family": "", "config": dict(sight.facts), "sha256": digest(sight.facts)},
        shape=sight.latent,
        kind="mean",
        views=latent_cache.VIEWS[:1],
        dtype="float32",
        scale=1.0,
        shift=0.0,
    )
    see = sight.see
    rows = None if (folder / latent_cache.INDEX).is_file() else _earlier(sight, source, folder)
    if rows is not None:
        shown = Rows(rows, sight, spec)
        spec, see = shown.spec, shown.see
    encode = lambda pictures: np.asarray(see(list(pictures))).reshape(-1, 1, *sight.latent)
    with progress.bar("seeing", len(shown), "pictures") as advance:
        latent_writer.write(
            folder,
            shown,
            spec,
            description,
            encode,
            batch_size=min(BATCH, len(shown)),
            threads=threads,
            begin=lambda records: advance,
        )


class Seen(Derived, ManyAtOnce):
    """Records with an entry that a network computed from their pictures added to the condition."""

    def __init__(self, source: sources.Source, name: str, sight: Sight, folder: pathlib.Path):
        """Adds the entry `name` to the records of a source, from the cache that `write` wrote."""
        super().__init__(source)
        self._name, self._shape = name, sight.shape
        self._entries, _ = latent_cache.open_cache(folder)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records."""
        records, entries = (pipeline.fetch(source, np.asarray(rows)) for source in (self._of, self._entries))
        named = lambda entry: {self._name: entry["x"][0, 0].reshape(self._shape)}
        return [
            record | {"condition": {**record.get("condition", {}), **named(entry)}}
            for record, entry in zip(records, entries)
        ]
