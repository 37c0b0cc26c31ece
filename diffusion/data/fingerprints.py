"""Fingerprints of a source's examples: a few words that change with them and are the same on every host."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffusion.io import limits

SAMPLED = 256  # records that are read, at most


def rows(count: int) -> list[int]:
    """The numbers of the records that are read of `count`: the first, the last, and others evenly between."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).round().astype(int)).tolist()


def digest(parts: Iterable[bytes]) -> str:
    """The sha256 of the parts and of their ends; its first 32 digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:32]


def changes(noted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries of a fingerprint that have changed since a file noted it, in words: "records 3 -> 4".

    An entry that only one of the two states is no change: earlier versions of the program stated fewer.

    Args:
        noted: the fingerprint in the file.
        now: the present fingerprint of the source.
    """
    read = json.loads(json.dumps(now, default=str))
    differing = [name for name in read if name in noted and read[name] != noted[name]]
    return [f"{name} {limits.short(noted[name])} -> {limits.short(read[name])}" for name in differing]
