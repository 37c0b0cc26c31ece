"""The identities of a source's records: numbers that stay the same however the source is cut.

A source states them by `identities() -> int64 [N, 3] | None`: for each record the set of stored records that it belongs
to, the part of that set, and its number there.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffusion.data import fingerprints


def numbered(stored: Any, part: Any, numbers: Iterable[int] | np.ndarray) -> np.ndarray:
    """The identities of records of one part of a set, int64 `[N, 3]`.

    Args:
        stored: the name of the set, as JSON: the same wherever it is opened, and no other set's.
        part: the name of the part, as JSON.
        numbers: the numbers of the records in the part, int `[N]`.
    """
    numbers = np.fromiter(numbers, np.int64) if not isinstance(numbers, np.ndarray) else numbers.astype(np.int64)
    return np.stack([np.full_like(numbers, _digest(stored)), np.full_like(numbers, _digest(part)), numbers], axis=1)


def stated(source: Any) -> np.ndarray | None:
    """The identities `[N, 3]` that a source states; None where it has no such method, or does not know them.

    Args:
        source: any sequence of records, such as a `data.sources.Source`.
    """
    method = getattr(source, "identities", None)
    return method() if method else None


def names_of(source: Any) -> list[str] | None:
    """The names of a source's records, which stay the same where their folder moves; None where it states none.

    Args:
        source: any sequence of records; it states names by `record_names() -> list[str] | None`.
    """
    method = getattr(source, "record_names", None)
    return method() if method else None


def order_of(source: Any) -> str | None:
    """A digest of a source's records in their order: of their names, or else as `content_of`; None without both."""
    names = names_of(source)
    if names is None:
        return content_of(source)
    return fingerprints.digest(name.encode("utf-8", "surrogatepass") for name in names)


def content_of(source: Any) -> str | None:
    """A digest of some of a source's stored examples, whatever else is read of the records; None without one.

    Args:
        source: any sequence of records; it states the digest by `sampled_content() -> str | None`.
    """
    method = getattr(source, "sampled_content", None)
    return method() if method else None


def have_changed(noted: str | None, now: str | None) -> bool:
    """Whether two digests of records, e.g. by `order_of`, differ; False where one of them is not known."""
    return noted is not None and now is not None and noted != now


def lengths_of(source: Any) -> list[int] | None:
    """The bytes of each record's files, which change with most edits of a picture; None where a source states none.

    Args:
        source: any sequence of records; it states lengths by `record_lengths() -> list[int] | None`.
    """
    method = getattr(source, "record_lengths", None)
    return method() if method else None


def _digest(value: Any) -> int:
    text = json.dumps(value, sort_keys=True, default=str)
    return int(fingerprints.digest([text.encode()])[:15], 16)  # 60 bits


def have_common_set(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether two lists of identities `[N, 3]`, `[M, 3]` have a set in common, so that they can be distinguished."""
    return bool(np.isin(np.unique(some[:, 0]), others[:, 0]).any())


def count_common(some: np.ndarray, others: np.ndarray) -> int:
    """How many of the identities `some` `[N, 3]` are among `others` `[M, 3]`."""
    values, known = (_as_values(identities) for identities in (some, others))
    known = np.unique(known)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return int((known[at] == values).sum())


def _as_values(identities: np.ndarray) -> np.ndarray:
    """Each row as one value, which can be sorted and compared."""
    fields = np.dtype([("set", np.int64), ("part", np.int64), ("number", np.int64)])
    return np.ascontiguousarray(identities, np.int64).view(fields)[:, 0]
