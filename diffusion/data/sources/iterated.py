"""The records of a Python iterable as a stream.

The methods of the iterable, and the comparison of two readings, show what the stream can promise when a run is resumed.
"""

import base64
import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np

from diffusion.data import fingerprints
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.stream_values import Mappings, Values
from diffusion.data.sources.streams import Stream
from diffusion.io import limits

SAMPLED = 8  # number of records that identify a pass, or the stream of a later start


class Iterated(Stream):
    """The records of an iterable. A raw record is (its number in the pass, the value that the iterable yields)."""

    def __init__(self, records: Any, values: Values | None = None, where: str = "memory", name: str = ""):
        """Wraps an iterable, and reads its first records.

        Args:
            records: an iterable, an iterator, or a function without arguments that returns one of them and is called
                for each pass.
            values: the reader of the iterable's values; None for records without classes, see `stream_values.Mappings`.
            where: the place from which the records come, for messages.
            name: the name of the stream; "" for the name of the iterable.

        Raises:
            ValueError: if `records` is not iterable, yields nothing, or yields values that are no records.
            DamagedRecord: if none of the first records is sound.
        """
        self.where = where
        self._values = values or Mappings()
        self.name = name or getattr(records, "name", "") or type(records).__qualname__
        if callable(records) and not hasattr(records, "__iter__"):
            self.name = name or getattr(records, "__qualname__", self.name)
            records = _Factory(cast(Callable[[], Iterable[Any]], records))
        if not hasattr(records, "__iter__"):
            raise ValueError(f"the data is {limits.kind(records)}. Valid: a source, a sequence, or an iterable")
        self._records: Any = records
        self._described = False
        self.repeatable = True
        self.first, self.resume = self._begun()
        if not self.first:
            raise ValueError(f"{self.name} yields no records: there is nothing to train on")
        self.spec = self._values.described(self._first_sound(), self.name)
        self._described = True

    def _first_sound(self) -> Mapping[str, Any]:
        damaged = None
        for raw in self.first:
            try:
                return self.decode(raw)
            except DamagedRecord as error:
                damaged = damaged or error
        assert damaged is not None
        raise damaged

    def _begun(self) -> tuple[list[Any], str]:
        """The first records, and the promise that the stream can keep, see `streams`."""
        some = lambda iterator: list(enumerate(itertools.islice(iterator, SAMPLED)))
        if _has_state(self._records) and not _buffered(self._records):
            return some(iter(_apart(self._records))), "state"
        iterator = iter(self._records)
        self.repeatable = iterator is not self._records and iter(self._records) is not iterator
        if hasattr(iterator, "get_state") and hasattr(iterator, "set_state"):
            before = iterator.get_state()
            first = some(iterator)
            if not self.repeatable:
                iterator.set_state(before)
            return first, "state"
        first = some(iterator)
        if not self.repeatable:
            self._records = itertools.chain([value for _, value in first], iterator)
            return first, "anew"
        same = list(map(self.digest, first)) == list(map(self.digest, some(iter(self._records))))
        return first, "skip" if same else "anew"

    def digest(self, raw: Any) -> bytes:
        """The sha256 of a record; b"damaged" for a damaged one."""
        try:
            return digest_of(self.decode(raw))
        except DamagedRecord:
            return b"damaged"

    def fingerprint(self) -> dict[str, Any]:
        sampled = {"sha256": fingerprints.digest(map(self.digest, self.first))}
        return {"stream": self.name} | ({} if self.resume == "anew" else sampled) | self._values.pixels()

    def cursor(self, state: Mapping[str, Any] | None = None) -> "_Cursor":
        return _Cursor(self, state)

    def opened(self, epoch: int, state: Any = None) -> Iterator[Any]:
        """A pass over the iterable, from an earlier state of its iterator; from the beginning if the state is None."""
        records = self._records
        if hasattr(records, "set_epoch") or _has_state(records):
            records = _apart(records)
        if hasattr(records, "set_epoch"):
            records.set_epoch(epoch)
        if _has_state(records) and self.resume == "state":
            return _Stateful(records, state)
        iterator = iter(records)
        if state is not None:
            iterator.set_state(state)
        return iterator

    def decode(self, raw: Any) -> Mapping[str, Any]:
        with self.blamed(raw):
            record = self._values.record(raw[1])
            if self._described:
                self._values.check(record, self.spec)
            return record

    def place(self, raw: Any) -> str:
        return self._values.place(raw[1], raw[0], self.name)

    def metadata(self, raw: Any) -> Mapping[str, Any]:
        with self.blamed(raw):
            return self._values.metadata(raw[1])

    def caption(self, raw: Any) -> str:
        return self._values.caption(raw[1])


class _Cursor:
    """A position in an iterable."""

    def __init__(self, stream: Iterated, state: Mapping[str, Any] | None = None):
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
        for number in range(state["read"]):
            value = next(self._iterator, _END)
            if value is _END:
                raise ValueError(f"{stream.name} now ends after {number:,} records; the run had {state['read']:,}")
            self._last = (number, value)
        self._read = self.read_again = state["read"]
        if self._read and self._digest() != state["last"]:
            raise ValueError(
                f"{stream.name} is not the stream that the run was trained on: its record {self._read - 1:,} differs. "
                "Valid: an iterable that yields the same records in every pass, or one with get_state and set_state"
            )

    @property
    def passes(self) -> int:
        return self._epoch

    def next(self) -> tuple[int, Any]:
        value = next(self._iterator, _END)
        if value is _END:
            if not self._read:
                raise ValueError(f"{self._stream.name} yields nothing on its second pass")
            self._epoch, self._read = self._epoch + 1, 0
            self._iterator = self._stream.opened(self._epoch)
            value = next(self._iterator, _END)
            if value is _END:
                raise ValueError(
                    f"{self._stream.name} has ended, and yields nothing on its second pass. Valid: a function that "
                    "returns a new iterator for each pass, or fewer steps"
                )
        self._last = (self._read, value)
        self._read += 1
        return self._last

    def state(self) -> dict[str, Any]:
        state = {"epoch": self._epoch, "read": self._read}
        if self._stream.resume == "state":
            return state | {"at": _encoded(self._iterator.get_state())}
        return state | ({"last": self._digest()} if self._stream.resume == "skip" else {})

    def _digest(self) -> str:
        return "" if self._last is None else self._stream.digest(self._last).decode()


_END = object()


class _Factory:
    """A function that returns iterators, as an iterable."""

    def __init__(self, function: Callable[[], Iterable[Any]]):
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        return iter(self._function())


class _Stateful:
    """The iterator of a dataset that keeps its own state, as the datasets of Hugging Face do."""

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


def is_iterable(data: Any) -> bool:
    """Whether data are an iterable without random access, or a function that may return an iterable."""
    return not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) and (
        hasattr(data, "__iter__") or callable(data)
    )


def digest_of(record: Mapping[str, Any]) -> bytes:
    """The sha256 of the arrays and texts of a record."""
    leaves = (leaf for key in sorted(record) for leaf in jax.tree.leaves(record[key]))
    return fingerprints.digest(
        str(x).encode() if isinstance(x, str) else np.asarray(x).tobytes() for x in leaves
    ).encode()


def _has_state(records: Any) -> bool:
    return hasattr(records, "state_dict") and hasattr(records, "load_state_dict")


def _apart(records: Any) -> Any:
    """A copy of a dataset that keeps its own position, so that an evaluation can read it while a run does."""
    apart = copy.copy(records)
    if hasattr(records, "_ex_iterable"):  # a copy of Hugging Face's shares all attributes, and would share the position
        apart.__dict__ = {**vars(records), "_ex_iterable": _examples_apart(records._ex_iterable)}
    return apart


def _examples_apart(examples: Any) -> Any:
    """A copy of the examples in which a dataset of Hugging Face keeps its position, and of those they are made of."""
    apart = copy.copy(examples)
    if hasattr(apart, "ex_iterable"):
        apart.ex_iterable = _examples_apart(apart.ex_iterable)
    if hasattr(apart, "ex_iterables"):
        apart.ex_iterables = list(map(_examples_apart, apart.ex_iterables))
    return apart


def _buffered(records: Any) -> bool:
    """Whether a dataset of Hugging Face has a buffer for shuffling, whose content its state leaves out."""
    inner = getattr(records, "_ex_iterable", None)
    while inner is not None:
        if hasattr(inner, "buffer_size"):
            return True
        inner = getattr(inner, "ex_iterable", None)
    return False


def _encoded(state: Any) -> Any:
    """A state as a value that JSON can hold."""
    if isinstance(state, bytes):
        return {"base64": base64.b64encode(state).decode()}
    try:
        return json.loads(json.dumps(state))
    except TypeError as error:
        raise ValueError(
            f"the stream's state cannot be saved: {error}. Valid: bytes, or values that JSON can hold"
        ) from None


def _decoded(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"base64"}:
        return base64.b64decode(state["base64"])
    return state
