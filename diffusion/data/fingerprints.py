"""Fingerprints of a source's examples: a few words that change with the examples and are the same on every host."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffusion.io import limits

SAMPLED = 256  # the most records that are read


def rows(count: int) -> list[int]:
    """The indices of the records to read out of `count`: the first, the last, and others evenly between them."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).round().astype(int)).tolist()


def digest(parts: Iterable[bytes]) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of the parts, each preceded by its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:32]


def changes(noted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries of a fingerprint that have changed since a file noted it, in words: "records 3 -> 4".

    An entry that only one of the two fingerprints has is no change, since earlier versions wrote fewer entries.

    Args:
        noted: the fingerprint in the file.
        now: the present fingerprint of the source.
    """
    read = json.loads(json.dumps(now, default=str))
    differing = [name for name in read if name in noted and read[name] != noted[name]]
    return [f"{name} {limits.short(noted[name])} -> {limits.short(read[name])}" for name in differing]
