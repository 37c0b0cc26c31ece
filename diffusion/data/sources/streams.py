"""Streams: records that come one after another, and what a stream promises to a run that resumes.

Its `resume` is

- "state": the run continues exactly from the stored state. Iterators with get_state and set_state (Grain) and datasets
  with state_dict and load_state_dict (Hugging Face) can do this.
- "skip": the run continues exactly, after it has read all earlier records again. The iterable must yield the same
  records each time; the first records, and the last one before the run resumes, are compared.
- "anew": the run begins the stream again from its start. The iterable can be iterated only once, or differs each time.

Every process of a run reads the whole stream and decodes the records of its own rows, so that a run is the same on any
number of processes. A record is read *raw*; `Stream.decode` decodes it, in any thread.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from diffusion.data.sources.spec import DamagedRecord, DataSpec, blame

PROMISES = {
    "state": "a resumed run continues exactly, from the stored position of the stream",
    "skip": "a resumed run continues exactly, after it has read all earlier records again",
    "anew": "a resumed run begins the stream again, so no step can be repeated exactly",
}


class Cursor(Protocol):
    """A position in a stream that is read in passes, one after another.

    Attributes:
        read_again: number of records that were read again to reach its state.
        passes: number of passes that have ended.
    """

    read_again: int

    @property
    def passes(self) -> int: ...

    def next(self) -> Any:
        """The next record, raw; after the last one comes the first again.

        Raises:
            ValueError: if there is nothing more.
        """
        ...

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        ...


class Stream:
    """A source without random access: its records, over and over.

    Attributes:
        name: the name of the stream.
        spec: the description of its records, of size -1.
        where: the place that they come from, for messages.
        resume: the stream's promise to a run that resumes, see the module.
        repeatable: whether it can be read beside the run, by a cursor of its own.
        first: the first few records, raw.
    """

    name: str
    spec: DataSpec
    where: str
    resume: str
    repeatable: bool
    first: list[Any]

    # ==== What a kind of stream says ====

    def cursor(self, state: Mapping[str, Any] | None = None) -> Cursor:
        """A cursor at the position that `Cursor.state` returned earlier; None for the start.

        Raises:
            ValueError: if the stream ends before that, or its records differ from the earlier ones.
        """
        raise NotImplementedError

    def decode(self, raw: Any) -> Mapping[str, Any]:
        """The record.

        Raises:
            DamagedRecord: if it cannot be used; the message names it.
        """
        raise NotImplementedError

    def place(self, raw: Any) -> str:
        """The name of a record in messages."""
        raise NotImplementedError

    def metadata(self, raw: Any) -> Mapping[str, Any]:
        """The columns that a filter may look at: all but the example, which is not decoded for it."""
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
        """The stream's promise to a run that resumes, as a sentence."""
        return PROMISES[self.resume]

    def take(self, number: int) -> list[Mapping[str, Any]]:
        """The first records, decoded, read by a cursor of its own.

        Raises:
            ValueError: if the stream can be read only once.
        """
        self.require_repeatable("conditions of your own, labels=")
        cursor = self.cursor()
        return [self.decode(cursor.next()) for _ in range(number)]

    def records(self, most: int, skip: bool = False) -> Iterator[Mapping[str, Any]]:
        """The first records of one pass, decoded.

        Args:
            most: the largest number of records to read.
            skip: whether damaged records are left out, each with a warning.

        Raises:
            ValueError: if the stream can be read only once.
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
                warnings.warn(f"left out: {error.where_none_is_left_out()}", stacklevel=1)

    def require_repeatable(self, valid: str) -> None:
        """Refuses a stream that can be read only once.

        Args:
            valid: the valid alternatives, for the message.

        Raises:
            ValueError: if the stream can be read only once.
        """
        if self.resume == "anew" or not self.repeatable:
            raise ValueError(f"{self.name} is a stream that can be read only once. Valid: {valid}")

    @contextlib.contextmanager
    def blamed(self, raw: Any) -> Iterator[None]:
        """Turns an error into one that blames the machine, or one that names the record."""
        try:
            yield
        except DamagedRecord:
            raise  # it is named already
        except Exception as error:  # Pillow's errors are of many kinds, SyntaxError among them
            raise blame(self.place(raw), error, "Mend or remove it") from error
