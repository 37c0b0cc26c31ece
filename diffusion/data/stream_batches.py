"""The batches of a stream: the order of its records, and the process that each goes to.

The records of a stream are the examples 0, 1, 2, ... of the run, in their order; a batch takes the next ones, and its
augmentation draws depend on (seed, global example index), as in `pipeline.batches`.
"""

import sys
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data import pipeline
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.streams import Stream
from diffusion.data.transforms import Augmentation


class StreamBatches:
    """The endless training batches of a stream, this process's rows of each; an iterator as `pipeline.batches`.

    Attributes:
        stream: the records.
        state: the state of the stream after the last batch, as JSON: the next start's `state`.
        read_again: how many records were read again to come to the start.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        seed: int,
        batch_size: int,
        start: int = 0,
        state: Mapping[str, Any] | None = None,
        positions: Sequence[int] | np.ndarray | None = None,
        augment: Sequence[Augmentation] = (),
        threads: int = 2,
        damaged: str = "stop",
    ):
        """Opens the stream at its earlier position.

        Args:
            stream: the records.
            start: the global index of the first example.
            state: the state of the stream there; None for its beginning.
            seed, batch_size, positions, augment, threads: the arguments of `pipeline.batches`; one thread at a time
                reads the stream, and all of them decode.
            damaged: the treatment of a record that cannot be used: "stop", or "skip": the next sound one of its batch
                takes its place, under the same global example index and its draws.

        Raises:
            ValueError: an argument out of range, or the stream is not as it was.
        """
        mine = pipeline.positions_of(batch_size, positions)
        cursor = stream.cursor(state)
        self.stream = stream
        self.read_again = cursor.read_again
        self.state = dict(state) if state is not None and stream.resume != "anew" else cursor.state()
        turn = threading.Condition()
        turns = {"next": 0, "failed": None}

        def in_turn(step: int) -> tuple[list[Any], dict[str, Any]]:
            """The raw records of a batch, and the state after them; each step waits for the one before."""
            with turn:
                turn.wait_for(lambda: turns["next"] == step or turns["failed"] is not None)
                if turns["failed"] is not None:
                    raise turns["failed"]
                try:
                    raw = [cursor.next() for _ in range(batch_size)]
                    after = cursor.state()
                except BaseException as error:
                    turns["failed"] = error
                    raise
                finally:
                    turns["next"] += 1
                    turn.notify_all()
            return raw, after

        def stop() -> None:
            """Ends the wait for a step that nobody reads any more: a closing pool may drop it and begin the next."""
            with turn:
                turns["failed"] = turns["failed"] or RuntimeError("the batches are closed")
                turn.notify_all()

        def read(step: int) -> pipeline.Batch:
            raw, after = in_turn(step)
            index = start + step * batch_size + mine
            read = [
                sound_record(stream, raw, row) if damaged == "skip" else (stream.decode(raw[row]), 0) for row in mine
            ]
            batch = pipeline.assembled([record for record, _ in read], stream.spec, index, seed, augment)
            skipped = {"skipped": np.array([replaced for _, replaced in read], np.int32)} if damaged == "skip" else {}
            return batch | skipped | {"state": after}

        self._batches = pipeline.iterate(sys.maxsize, read, threads)
        self._stop = weakref.finalize(self, stop)

    def __iter__(self) -> "StreamBatches":
        return self

    def __next__(self) -> pipeline.Batch:
        batch = next(self._batches)
        self.state = batch.pop("state")
        return batch

    def close(self) -> None:
        """Stops the threads."""
        self._stop()
        self._batches.close()  # type: ignore[attr-defined]


def sound_record(stream: Stream, batch: Sequence[Any], row: int) -> tuple[Mapping[str, Any], int]:
    """The record of a row, and 0; or the next sound one of its batch, and 1, with a warning.

    Args:
        stream: the records.
        batch: the raw records of a batch.
        row: the row, counted from 0.

    Raises:
        DamagedRecord: if every record of the batch is damaged.
    """
    for step in range(len(batch)):
        try:
            return stream.decode(batch[(row + step) % len(batch)]), int(step > 0)
        except DamagedRecord as error:
            # All warnings come from one line of code, so that Python prints each once.
            warnings.warn(f"left out: {error.where_none_is_left_out()}", stacklevel=1)
    raise DamagedRecord(
        f"all {len(batch)} records of a batch are damaged. Skipping more would hide the loss of a whole file; the "
        f"last damaged record is {stream.place(batch[row])}"
    )
