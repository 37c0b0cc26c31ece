"""The records that two sources share: by their numbers, by the ends of their splits, or by their content."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from diffusion.data import identities
from diffusion.data.sources import splits
from diffusion.data.sources.spec import Source
from diffusion.data.sources.streams import Stream

BEYOND = 2**62  # records, more than any stream has


class Part(NamedTuple):
    """The records of a stream, by the ends of its split.

    Attributes:
        origin: the place that the stream comes from, and the name of the split whose part it is.
        first: the number of its first record.
        last: the number of its last record plus 1; `BEYOND` for a part without an end.
    """

    origin: tuple[str, str]
    first: int
    last: int


Known = np.ndarray | Part | None
"""Which stored records a source reads: `data.identities` `[N, 3]`; of a stream a part; None where it does not say."""


def identify(source: Source | Stream) -> Known:
    """The stored records that a source reads, as far as it says so."""
    if not isinstance(source, Stream):
        return identities.stated(source)
    try:
        part = splits.parse(source.spec.split)
        first, last = splits.numbers((part.first, part.last), source.spec.split)
    except ValueError:  # a split with a name of its own
        return None
    return Part((source.where, part.base), first, last or BEYOND)


def by_number(some: Known, others: Known) -> int | None:
    """How many records of a source are also records of another; None where their numbers do not say it.

    Numbers distinguish the records of one set of stored records: splits of a dataset, parts of the same files. Streams
    of the same files are distinguished by the ends of their splits, and the count is at most `BEYOND` where they have
    none.

    Args:
        some: the records that are looked for.
        others: the records among which they are looked for.
    """
    if isinstance(some, Part) and isinstance(others, Part) and some.origin == others.origin:
        return max(0, min(some.last, others.last) - max(some.first, others.first))
    if isinstance(some, np.ndarray) and isinstance(others, np.ndarray) and identities.have_common_set(some, others):
        return identities.count_common(some, others)
    return None


def by_content(examples: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> int:
    """How many examples equal one of `others` in shape, type and every bit; both are arrays, or read one by one."""
    known = set(map(_digest, others))
    return sum(_digest(example) in known for example in examples)


def _digest(example: np.ndarray) -> bytes:
    form = f"{example.dtype.str}{example.shape}".encode()
    return hashlib.blake2b(form + np.ascontiguousarray(example).tobytes(), digest_size=16).digest()
