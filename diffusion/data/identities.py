"""The identities of a source's records: numbers that do not depend on how the source is cut into splits.

A source states them by `identities() -> int64 [N, 3] | None`: for each record, the set of stored records to which it
belongs, the part of that set, and the record's number in the part.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffusion.data import fingerprints


def numbered(stored: Any, part: Any, numbers: Iterable[int] | np.ndarray) -> np.ndarray:
    """The identities of records of one part of a set, int64 `[N, 3]`.

    Args:
        stored: the name of the set, any value that JSON can hold; it is the same wherever the set is opened, and no
            other set has it.
        part: the name of the part, any value that JSON can hold.
        numbers: the numbers of the records in the part, int `[N]`.
    """
    numbers = np.fromiter(numbers, np.int64) if not isinstance(numbers, np.ndarray) else numbers.astype(np.int64)
    return np.stack([np.full_like(numbers, _digest(stored)), np.full_like(numbers, _digest(part)), numbers], axis=1)


def stated(source: Any) -> np.ndarray | None:
    """The identities `[N, 3]` that a source states; None if it has no such method, or does not know them.

    Args:
        source: any sequence of records, such as a `data.sources.Source`.
    """
    method = getattr(source, "identities", None)
    return method() if method else None


def names_of(source: Any) -> list[str] | None:
    """The names of a source's records, which do not change if their folder moves; None if it states none.

    Args:
        source: any sequence of records; it states names by `record_names() -> list[str] | None`.
    """
    method = getattr(source, "record_names", None)
    return method() if method else None


def order_of(source: Any) -> str | None:
    """A digest of a source's records in their order: that of their names, else that of `content_of`, else None."""
    names = names_of(source)
    if names is None:
        return content_of(source)
    return fingerprints.digest(name.encode("utf-8", "surrogatepass") for name in names)


def content_of(source: Any) -> str | None:
    """A digest of some of a source's stored examples; None if the source states none.

    Args:
        source: any sequence of records; it states the digest by `sampled_content() -> str | None`.
    """
    method = getattr(source, "sampled_content", None)
    return method() if method else None


def have_changed(noted: str | None, now: str | None) -> bool:
    """Whether two digests of records, e.g. by `order_of`, differ; False if one of them is not known."""
    return noted is not None and now is not None and noted != now


def lengths_of(source: Any) -> list[int] | None:
    """The sizes of each record's files in bytes, which most edits of a picture change; None if a source states none.

    Args:
        source: any sequence of records; it states lengths by `record_lengths() -> list[int] | None`.
    """
    method = getattr(source, "record_lengths", None)
    return method() if method else None


def _digest(value: Any) -> int:
    text = json.dumps(value, sort_keys=True, default=str)
    return int(fingerprints.digest([text.encode()])[:15], 16)  # 60 bits


def have_common_set(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether two lists of identities `[N, 3]` and `[M, 3]` have a set in common; only then do they compare."""
    return bool(np.isin(np.unique(some[:, 0]), others[:, 0]).any())


def count_common(some: np.ndarray, others: np.ndarray) -> int:
    """The number of identities in `some` `[N, 3]` that are also in `others` `[M, 3]`."""
    values, known = (_as_values(identities) for identities in (some, others))
    known = np.unique(known)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return int((known[at] == values).sum())


def _as_values(identities: np.ndarray) -> np.ndarray:
    """Each row as one value, which can be sorted and compared."""
    fields = np.dtype([("set", np.int64), ("part", np.int64), ("number", np.int64)])
    return np.ascontiguousarray(identities, np.int64).view(fields)[:, 0]
