"""Streams: records that come one after another, out of any Python iterable, and what each can promise on resume.

Its `resume` is

- "state", and a run that goes on does so exactly: iterators with get_state and set_state, as Grain's have, and datasets
  with state_dict and load_state_dict, as Hugging Face's have;
- "skip", and the run goes on exactly after all records before were read again: what can be iterated again, and is then
  the same, which is seen by the first records, and by the last one before the run goes on;
- "anew", and the run begins the stream anew: what can be iterated once, or is never the same.

Every process of a run reads the whole stream and decodes the records of its own rows, so that a run is the same on any
number of processes.
"""

__all__ = ["Cursor", "Stream", "digest_of", "is_stream"]

import base64
import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from diffusion.data import fingerprints
from diffusion.data.sources import sequences
from diffusion.data.sources.spec import DataSpec

SAMPLED = 8  # records by which two passes are compared, and the stream of a later start
PROMISES = {
    "state": "a run that goes on does so exactly: the stream keeps where it is",
    "skip": "a run that goes on does so exactly, and reads again all records that came before",
    "anew": "a run that goes on begins the stream anew, so that it cannot be repeated",
}


class Stream:
    """The records of an iterable, over and over; a source without random access.

    Attributes:
        spec: what the records are; of size -1.
        where: they come from.
        resume: "state", "skip" or "anew", see the module.
    """

    def __init__(
        self,
        records: Any,
        num_classes: int = 0,
        split: str = "train",
        *,
        decode: Callable[[Any], Mapping[str, Any]] = sequences.plain,
        describe: Callable[[Mapping[str, Any], str], DataSpec] | None = None,
        where: str = "memory",
    ):
        """Wraps an iterable, and reads its first records.

        Args:
            records: an iterable, an iterator, or a function without arguments that returns one, which is called for
                each pass.
            num_classes: of the labels; 0 where there are none.
            split: what the records are to a run.
            decode: from what the iterable yields to a record; the identity, for mappings.
            describe: (first record, name) -> what the records are; None: as `sequences.of_record`.
            where: they come from.

        Raises:
            ValueError: if it is no iterable, yields nothing, or its records are none.
        """
        self.where = where
        self._decode = decode
        self.name = getattr(records, "name", "") or type(records).__qualname__
        if callable(records) and not hasattr(records, "__iter__"):
            self.name = getattr(records, "__qualname__", self.name)
            records = _Factory(cast(Callable[[], Iterable[Any]], records))
        if not hasattr(records, "__iter__"):
            raise ValueError(f"the data is a {type(records).__name__}. Valid: a source, a sequence, or an iterable")
        self._records: Any = records
        first, self.resume = self._first()
        if not first:
            raise ValueError(f"{self.name} yields no records: there is nothing to train on")
        self._sampled = fingerprints.digest(map(digest_of, first))
        describe = describe or (lambda record, name: sequences.of_record(record, name, num_classes, split))
        self.spec = describe(first[0], self.name)

    def _first(self) -> tuple[list[Mapping[str, Any]], str]:
        """The first records, and what the stream can promise."""
        some = lambda iterator: [self._decode(raw) for raw in itertools.islice(iterator, SAMPLED)]
        if _has_state(self._records) and not _buffered(self._records):
            return some(iter(copy.copy(self._records))), "state"
        iterator = iter(self._records)
        again = iterator is not self._records and iter(self._records) is not iterator
        if _keeps_state(iterator):
            before = iterator.get_state()
            first = some(iterator)
            if not again:
                iterator.set_state(before)
            return first, "state"
        raw = list(itertools.islice(iterator, SAMPLED))
        first = [self._decode(each) for each in raw]
        if not again:
            self._records = itertools.chain(raw, iterator)
            return first, "anew"
        same = list(map(digest_of, first)) == list(map(digest_of, some(iter(self._records))))
        return first, "skip" if same else "anew"

    @property
    def promise(self) -> str:
        """What becomes of the stream when a run goes on, in a sentence."""
        return PROMISES[self.resume]

    def fingerprint(self) -> dict[str, Any]:
        """Its name, and a digest of its first records where they are always the same."""
        return {"stream": self.name} | ({} if self.resume == "anew" else {"sha256": self._sampled})

    def take(self, number: int) -> list[Mapping[str, Any]]:
        """The first records, decoded, of a pass of its own.

        Raises:
            ValueError: of a stream that can be read once.
        """
        if self.resume == "anew":
            raise ValueError(f"{self.name} is a stream that can be read once. Valid: conditions of your own, labels=")
        cursor = Cursor(self)
        return [self.decode(cursor.next()) for _ in range(number)]

    def opened(self, epoch: int, state: Any = None) -> Iterator[Any]:
        """A pass over the iterable, from a state that `state_of` told; None from the start."""
        records = self._records
        if hasattr(records, "set_epoch"):
            records = copy.copy(records)
            records.set_epoch(epoch)
        if _has_state(records) and self.resume == "state":
            return _Stateful(copy.copy(records), state)
        iterator = iter(records)
        if state is not None:
            iterator.set_state(state)
        return iterator

    def decode(self, raw: Any) -> Mapping[str, Any]:
        """The record of what the iterable yields."""
        return self._decode(raw)


class Cursor:
    """Where a stream is: what the iterable yields, pass after pass, from a state on."""

    def __init__(self, stream: Stream, state: Mapping[str, Any] | None = None):
        """Goes to where a state says.

        Args:
            stream: that is read.
            state: of `state`, of an earlier cursor; None for the start.

        Raises:
            ValueError: if the stream ends before that, or its records are not those of before.
        """
        self._stream = stream
        self._epoch = self._read = 0
        self._last: Any = None
        self.read_again = 0
        if state is None or stream.resume == "anew":
            self._iterator: Any = stream.opened(0)
            return
        self._epoch = state["epoch"]
        if stream.resume == "state":
            self._read = state["read"]
            self._iterator = stream.opened(self._epoch, _decoded(state["at"]))
            return
        self._iterator = stream.opened(self._epoch)
        for _ in range(state["read"]):
            self._last = next(self._iterator, _END)
            self._read += 1
            if self._last is _END:
                raise ValueError(
                    f"{stream.name} now ends after {self._read - 1:,} records; the run had {state['read']:,}"
                )
        self.read_again = state["read"]
        if self._read and self._digest() != state["last"]:
            raise ValueError(
                f"{stream.name} is not the stream that the run was trained on: its record {self._read - 1:,} differs. "
                "Valid: an iterable that yields the same at every pass; or one with get_state and set_state"
            )

    def next(self) -> Any:
        """What the iterable yields next; at its end it is begun again.

        Raises:
            ValueError: if there is nothing more.
        """
        raw = next(self._iterator, _END)
        if raw is _END:
            if not self._read:
                raise ValueError(f"{self._stream.name} yields nothing when it is begun again")
            self._epoch, self._read = self._epoch + 1, 0
            self._iterator = self._stream.opened(self._epoch)
            raw = next(self._iterator, _END)
            if raw is _END:
                raise ValueError(
                    f"{self._stream.name} has ended, and yields nothing when it is begun again. Valid: a function that "
                    "returns a new iterator for each pass, or fewer steps"
                )
        self._read += 1
        self._last = raw
        return raw

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON."""
        state = {"epoch": self._epoch, "read": self._read}
        if self._stream.resume == "state":
            return state | {"at": _encoded(self._iterator.get_state())}
        return state | ({"last": self._digest()} if self._stream.resume == "skip" else {})

    def _digest(self) -> str:
        return "" if self._last is None else digest_of(self._stream.decode(self._last)).decode()


_END = object()


class _Factory:
    """A function that returns iterators, as an iterable."""

    def __init__(self, function: Callable[[], Iterable[Any]]):
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())


class _Stateful:
    """The iterator of a dataset that keeps its state itself, as Hugging Face's do."""

    def __init__(self, dataset: Any, state: Any):
        self._dataset = dataset
        if state is not None:
            dataset.load_state_dict(state)
        self._iterator = iter(dataset)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def get_state(self) -> Any:
        return self._dataset.state_dict()


def is_stream(data: Any) -> bool:
    """Whether data have no random access: an iterable, or a function that returns one."""
    return not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) and (
        hasattr(data, "__iter__") or callable(data)
    )


def digest_of(record: Mapping[str, Any]) -> bytes:
    """sha256 of the arrays and texts of a record."""
    leaves = (leaf for key in sorted(record) for leaf in jax.tree.leaves(record[key]))
    return fingerprints.digest(
        str(x).encode() if isinstance(x, str) else np.asarray(x).tobytes() for x in leaves
    ).encode()


def _has_state(records: Any) -> bool:
    return hasattr(records, "state_dict") and hasattr(records, "load_state_dict")


def _keeps_state(iterator: Any) -> bool:
    return hasattr(iterator, "get_state") and hasattr(iterator, "set_state")


def _buffered(records: Any) -> bool:
    """Whether a dataset of Hugging Face has a buffer for shuffling, whose content its state leaves out."""
    inner = getattr(records, "_ex_iterable", None)
    while inner is not None:
        if hasattr(inner, "buffer_size"):
            return True
        inner = getattr(inner, "ex_iterable", None)
    return False


def _encoded(state: Any) -> Any:
    """A state as JSON."""
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    try:
        return json.loads(json.dumps(state))
    except TypeError as error:
        raise ValueError(f"the stream's state cannot be saved: {error}. Valid: bytes, or what JSON holds") from None


def _decoded(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"base64"}:
        return base64.b64decode(state["base64"])
    return state
