"""Streams of other streams: records that pass a filter, mixtures by weight, and captions as a condition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion.data import fingerprints
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.streams import Cursor, Stream


class _Derived(Stream):
    """A stream that takes its raw records from another stream."""

    def __init__(self, of: Stream):
        self._of = of
        self.name, self.spec, self.where = of.name, of.spec, of.where
        self.resume, self.repeatable, self.first = of.resume, of.repeatable, of.first

    def cursor(self, state: Mapping[str, Any] | None = None) -> Cursor:
        return self._of.cursor(state)

    def decode(self, raw: Any) -> Mapping[str, Any]:
        return self._of.decode(raw)

    def place(self, raw: Any) -> str:
        return self._of.place(raw)

    def metadata(self, raw: Any) -> Mapping[str, Any]:
        return self._of.metadata(raw)

    def caption(self, raw: Any) -> str:
        return self._of.caption(raw)

    def fingerprint(self) -> dict[str, Any]:
        return self._of.fingerprint()


class FilteredStream(_Derived):
    """The records of a stream that pass a filter; every process applies it to all records."""

    def __init__(self, of: Stream, by: Callable[[Mapping[str, Any]], bool]):
        """Applies the filter to the first records.

        Args:
            of: the stream.
            by: record -> whether to keep it, as in `combined.filtered`.
        """
        super().__init__(of)
        self._by = by
        self._kept = [self.keeps(raw) for raw in of.first]
        self.first = [raw for raw, keep in zip(of.first, self._kept) if keep]

    def keeps(self, raw: Any) -> bool:
        """Whether a record is kept. A damaged one is, since the decoder then names it."""
        try:
            columns = self._of.metadata(raw)
        except DamagedRecord:
            return True
        return bool(self._by(columns))

    def cursor(self, state: Mapping[str, Any] | None = None) -> "_Kept":
        return _Kept(self, self._of.cursor(state))

    def fingerprint(self) -> dict[str, Any]:
        digest_of_kept = {} if self.resume == "anew" else {"kept": fingerprints.digest([bytes(self._kept)])}
        return super().fingerprint() | digest_of_kept


class _Kept:
    """A position in a filtered stream, which is a position in the stream below it."""

    def __init__(self, stream: FilteredStream, cursor: Cursor):
        self._stream, self._cursor = stream, cursor
        self.read_again = cursor.read_again
        self.state = cursor.state

    @property
    def passes(self) -> int:
        return self._cursor.passes

    def next(self) -> Any:
        before = self._cursor.passes
        while self._cursor.passes < before + 2:
            raw = self._cursor.next()
            if self._stream.keeps(raw):
                return raw
        raise ValueError(f"the filter keeps none of the records of {self._stream.name}")


class CaptionedStream(_Derived):
    """A stream that adds the inputs of a text encoder, {name: [...]}, to the "condition" of its records."""

    def __init__(self, of: Stream, read: Callable[[str], Mapping[str, np.ndarray]]):
        """Reads the captions of the first records.

        Args:
            of: the stream.
            read: caption -> the entries of the condition.

        Raises:
            ValueError: if the first record has no caption, or the stream's own condition has no names, or one of these.
            DamagedRecord: if none of the first records has a caption.
        """
        super().__init__(of)
        self._read = read
        self._conditions: list[Mapping[str, np.ndarray]] = []
        damaged = None
        for raw in of.first[:1]:
            of.caption(raw)  # raises where the column is missing, which is no damage
        for raw in of.first:
            try:
                self._conditions.append(self._entries(raw))
            except DamagedRecord as error:
                damaged = damaged or error
        if damaged and not self._conditions:
            raise damaged

    def decode(self, raw: Any) -> Mapping[str, Any]:
        record = self._of.decode(raw)
        return {**record, "condition": {**record.get("condition", {}), **self._entries(raw)}}

    def _entries(self, raw: Any) -> Mapping[str, np.ndarray]:
        with self.blamed(raw):
            text = self._of.caption(raw).strip()
            if not text:
                raise ValueError("its caption is empty")
            return self._read(text)

    def fingerprint(self) -> dict[str, Any]:
        entries = (leaf.tobytes() for leaf in jax.tree.leaves(self._conditions))
        conditions = {} if self.resume == "anew" else {"conditions": fingerprints.digest(entries)}
        return super().fingerprint() | conditions


class MixedStream(Stream):
    """Several streams, each with its share of the records.

    A raw record is (the number of its stream, the raw record of that stream). The next record comes from the stream
    that is furthest behind its share, so that a stream has its share of any consecutive records, up to one record for
    every other stream. A stream that ends begins again, independently of the others.
    """

    def __init__(self, of: Sequence[Stream], shares: np.ndarray, name: str):
        """Mixes streams that fit each other.

        Args:
            of: the streams.
            shares: the share of every stream, above 0, float64 [K] with the sum 1.
            name: the name of the mixture.
        """
        self._of, self.shares = of, shares
        self.name = name
        self.spec = of[0].spec._replace(name=name)
        self.where = " and ".join(stream.where for stream in of)
        self.resume = max((stream.resume for stream in of), key=("state", "skip", "anew").index)
        self.repeatable = all(stream.repeatable for stream in of)
        self.first = [(part, raw) for part, stream in enumerate(of) for raw in stream.first]

    def cursor(self, state: Mapping[str, Any] | None = None) -> "_Mixed":
        return _Mixed(self._of, self.shares, None if self.resume == "anew" else state)

    def decode(self, raw: Any) -> Mapping[str, Any]:
        return self._of[raw[0]].decode(raw[1])

    def place(self, raw: Any) -> str:
        return self._of[raw[0]].place(raw[1])

    def metadata(self, raw: Any) -> Mapping[str, Any]:
        return self._of[raw[0]].metadata(raw[1])

    def caption(self, raw: Any) -> str:
        return self._of[raw[0]].caption(raw[1])

    def fingerprint(self) -> dict[str, Any]:
        shares = {"shares": self.shares.tolist(), "of": [stream.fingerprint() for stream in self._of]}
        return {"stream": self.name} | ({} if self.resume == "anew" else shares)


class _Mixed:
    """The positions in several streams, and the number of records that came from every one."""

    def __init__(self, of: Sequence[Stream], shares: np.ndarray, state: Mapping[str, Any] | None):
        states = [None] * len(of) if state is None else state["of"]
        self._shares = shares
        self._cursors = [stream.cursor(state_of_stream) for stream, state_of_stream in zip(of, states, strict=True)]
        self._taken = np.zeros(len(of), np.int64) if state is None else np.array(state["taken"], np.int64)
        self.read_again = sum(cursor.read_again for cursor in self._cursors)

    @property
    def passes(self) -> int:
        """The number of passes that all streams have ended."""
        return min(cursor.passes for cursor in self._cursors)

    def next(self) -> tuple[int, Any]:
        behind = self._shares * (self._taken.sum() + 1) - self._taken
        part = int(np.argmax(behind))
        self._taken[part] += 1
        return part, self._cursors[part].next()

    def state(self) -> dict[str, Any]:
        return {"taken": self._taken.tolist(), "of": [cursor.state() for cursor in self._cursors]}
