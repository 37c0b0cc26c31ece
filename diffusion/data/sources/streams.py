"""Streams: records that come one after another, and what each can promise on resume.

Its `resume` is

- "state", and a run that goes on does so exactly: iterators with get_state and set_state, as Grain's have, and datasets
  with state_dict and load_state_dict, as Hugging Face's have;
- "skip", and the run goes on exactly after all records before were read again: what can be iterated again, and is then
  the same, which is seen by the first records, and by the last one before the run goes on;
- "anew", and the run begins the stream anew: what can be iterated once, or is never the same.

Every process of a run reads the whole stream and decodes the records of its own rows, so that a run is the same on any
number of processes. What is read is *raw*: it is decoded by `Stream.decode`, in any thread.
"""

__all__ = ["Cursor", "Stream"]

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from diffusion.data.sources.spec import DamagedRecord, DataSpec, blame

PROMISES = {
    "state": "a run that goes on does so exactly: the stream keeps where it is",
    "skip": "a run that goes on does so exactly, and reads again all records that came before",
    "anew": "a run that goes on begins the stream anew, so that it cannot be repeated",
}


class Cursor(Protocol):
    """Where a stream is, pass after pass.

    Attributes:
        read_again: records that were read again to come to its state.
        passes: that have ended.
    """

    read_again: int

    @property
    def passes(self) -> int: ...

    def next(self) -> Any:
        """What comes next, raw; at its end the stream is begun again.

        Raises:
            ValueError: if there is nothing more.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON."""
        ...


class Stream:
    """A source without random access: its records, over and over.

    Attributes:
        name: of the stream.
        spec: what the records are; of size -1.
        where: they come from.
        resume: "state", "skip" or "anew", see the module.
        repeatable: whether it can be read beside the run, by a cursor of its own.
        first: the first raw records, a few.
    """

    name: str
    spec: DataSpec
    where: str
    resume: str
    repeatable: bool
    first: list[Any]

    # ==== What a kind of stream says ====

    def cursor(self, state: Mapping[str, Any] | None = None) -> Cursor:
        """Where the stream was when a cursor said so by its `state`; None for the start.

        Raises:
            ValueError: if the stream ends before that, or its records are not those of before.
        """
        raise NotImplementedError

    def decode(self, raw: Any) -> Mapping[str, Any]:
        """The record.

        Raises:
            DamagedRecord: if it cannot be used; the message names it.
        """
        raise NotImplementedError

    def place(self, raw: Any) -> str:
        """What to call a record in a message."""
        raise NotImplementedError

    def about(self, raw: Any) -> Mapping[str, Any]:
        """What a filter may look at: the columns of a record but its example, which is not decoded for it."""
        raise NotImplementedError

    def caption(self, raw: Any) -> str:
        """The text of a record.

        Raises:
            ValueError: if it has none.
        """
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """Its name, and a digest of its first records where they are always the same."""
        raise NotImplementedError

    # ==== What all of them share ====

    @property
    def promise(self) -> str:
        """What becomes of the stream when a run goes on, in a sentence."""
        return PROMISES[self.resume]

    def take(self, number: int) -> list[Mapping[str, Any]]:
        """The first records, decoded, of passes of its own.

        Raises:
            ValueError: of a stream that can be read once.
        """
        self.require_repeatable("conditions of your own, labels=")
        cursor = self.cursor()
        return [self.decode(cursor.next()) for _ in range(number)]

    def records(self, most: int, skip: bool = False) -> Iterator[Mapping[str, Any]]:
        """The records of one pass, decoded, but at most so many.

        Args:
            most: of them.
            skip: whether damaged ones are left out, with a warning each.

        Raises:
            ValueError: of a stream that can be read once.
        """
        self.require_repeatable("a function that returns an iterator, or records that can be indexed")
        cursor = self.cursor()
        for _ in range(most):
            raw = cursor.next()
            if cursor.passes:
                return
            try:
                yield self.decode(raw)
            except DamagedRecord as error:
                if not skip:
                    raise
                warnings.warn(f"left out: {error}", stacklevel=1)

    def require_repeatable(self, valid: str) -> None:
        """Refuses a stream that can be read once.

        Args:
            valid: in its place, for the message.

        Raises:
            ValueError: if it is one.
        """
        if self.resume == "anew" or not self.repeatable:
            raise ValueError(f"{self.name} is a stream that can be read once. Valid: {valid}")

    @contextlib.contextmanager
    def blamed(self, raw: Any) -> Iterator[None]:
        """Turns an error into that of the machine, or of the record."""
        try:
            yield
        except DamagedRecord:
            raise  # it is named already
        except Exception as error:  # Pillow's errors are of many kinds, SyntaxError among them
            raise blame(self.place(raw), error, "Mend or remove it") from error
