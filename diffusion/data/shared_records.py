"""The records that two sources share: by their numbers, by the ends of their splits, or by their content."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from diffusion.data import identities
from diffusion.data.sources import splits
from diffusion.data.sources.spec import Source
from diffusion.data.sources.streams import Stream

BEYOND = 2**62  # the end of a stream without a known end; no stream has so many records


class Part(NamedTuple):
    """The records of a stream, by the ends of its split.

    Attributes:
        origin: the place from which the stream comes, and the name of the split of which this is a part.
        first: the number of the first record.
        last: the number of the last record plus 1; `BEYOND` for a part without an end.
    """

    origin: tuple[str, str]
    first: int
    last: int


Known = np.ndarray | Part | None
"""The stored records that a source reads: their `data.identities` `[N, 3]`; the part of a stream; None if not known."""


def identify(source: Source | Stream) -> Known:
    """The stored records that a source reads, as far as it says so."""
    if not isinstance(source, Stream):
        return identities.stated(source)
    try:
        part = splits.parse(source.spec.split)
        first, last = splits.numbers((part.first, part.last), source.spec.split)
    except ValueError:  # a split whose name does not say which records it has
        return None
    return Part((source.where, part.base), first, last or BEYOND)


def by_number(some: Known, others: Known) -> int | None:
    """The number of records of a source that are also records of another; None if their numbers do not show it.

    Numbers distinguish records of the same set, such as splits of a dataset or parts of the same files. Streams of the
    same files are compared by the ends of their splits; without ends, the count is at most `BEYOND`.

    Args:
        some: the records to look for.
        others: the records among which to look.
    """
    if isinstance(some, Part) and isinstance(others, Part) and some.origin == others.origin:
        return max(0, min(some.last, others.last) - max(some.first, others.first))
    if isinstance(some, np.ndarray) and isinstance(others, np.ndarray) and identities.have_common_set(some, others):
        return identities.count_common(some, others)
    return None


def by_content(examples: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> int:
    """The number of examples that equal one of `others` in shape, type and every bit.

    Args:
        examples: the examples to look for; an array, or an iterable that is read one by one.
        others: the examples among which to look, likewise.
    """
    known = set(map(_digest, others))
    return sum(_digest(example) in known for example in examples)


def _digest(example: np.ndarray) -> bytes:
    form = f"{example.dtype.str}{example.shape}".encode()
    return hashlib.blake2b(form + np.ascontiguousarray(example).tobytes(), digest_size=16).digest()
