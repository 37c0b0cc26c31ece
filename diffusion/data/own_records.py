"""A sequence of records of one's own as a source: {"image": uint8 [H, W, C], "label": int}, or "x" of any shape."""

__all__ = ["Records", "describe"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data import fingerprints
from diffusion.data.sources import DataSpec


class Records:
    """Records that are in memory, or are read one by one; a `pipeline.Source`."""

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return dict(self._records[row])

    def fingerprint(self) -> dict[str, int | str]:
        """How many records there are, and a digest of some of them."""
        sampled = fingerprints.digest(map(self._stored, fingerprints.rows(len(self))))
        return {"records": len(self), "sha256": sampled}

    def _stored(self, row: int) -> bytes:
        record = self[row]
        return fingerprints.digest(np.asarray(record[key]).tobytes() for key in sorted(record)).encode()


def describe(records: Sequence[Mapping[str, Any]], num_classes: int = 0, split: str = "train") -> DataSpec:
    """What such records are, by the first of them.

    Args:
        records: at least one.
        num_classes: of their labels; 0 where there are none.
        split: what they are to a run.

    Raises:
        ValueError: if there is no record, or it holds neither "image" nor "x", of its type.
    """
    if not len(records):
        raise ValueError("the data has no records: there is nothing to train on")
    first = records[0]
    entry = "image" if "image" in first else "x"
    if entry not in first or (num_classes and "label" not in first):
        needed = f'"image" or "x"{" and a label" if num_classes else ""}'
        raise ValueError(f"a record of the data holds {', '.join(sorted(first))}. Valid: {needed}")
    example = np.asarray(first[entry])
    dtype = "uint8" if entry == "image" else "float32"
    if example.dtype != dtype:
        raise ValueError(f'the data\'s "{entry}" is {example.dtype}. Valid: {dtype}')
    return DataSpec(type(records).__qualname__, split, example.shape, num_classes, len(records), dtype=dtype)
