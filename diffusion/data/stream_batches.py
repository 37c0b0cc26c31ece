"""The batches of a stream: which of its records come when, and to which process.

The records of a stream are the examples 0, 1, 2, ... of the run, in their order; a batch takes the next ones, and its
augmentation draws depend on (seed, global example index) as those of `pipeline.batches` do.
"""

__all__ = ["StreamBatches"]

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.data import pipeline
from diffusion.data.sources.streams import Cursor, Stream
from diffusion.data.transforms import Augmentation


class StreamBatches:
    """The endless training batches of a stream, this process's rows of each; an iterator as `pipeline.batches`.

    Attributes:
        state: where the stream is after the last batch, as JSON: the next start's `state`.
        read_again: records that were read again to come to the start.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        seed: int,
        batch_size: int,
        start: int = 0,
        state: Mapping[str, Any] | None = None,
        positions: Sequence[int] | None = None,
        augment: Sequence[Augmentation] = (),
        threads: int = 2,
    ):
        """Opens the stream where it was.

        Args:
            stream: the records.
            start: global index of the first example.
            state: of the stream there; None for its beginning.
            seed, batch_size, positions, augment, threads: as in `pipeline.batches`; one thread at a time reads the
                stream, and all of them decode.

        Raises:
            ValueError: an argument out of range, or the stream is not as it was.
        """
        mine = pipeline.positions_of(batch_size, positions)
        wanted = set(mine.tolist())
        cursor = Cursor(stream, state)
        self.read_again = cursor.read_again
        self.state = dict(state) if state is not None and stream.resume != "anew" else cursor.state()
        turn = threading.Condition()
        turns = {"next": 0, "failed": None}

        def in_turn(step: int) -> tuple[list[Any], dict[str, Any]]:
            """The raw records of this process, and the state after them; each step waits for the one before."""
            with turn:
                turn.wait_for(lambda: turns["next"] == step or turns["failed"] is not None)
                if turns["failed"] is not None:
                    raise turns["failed"]
                try:
                    rows = [(row, cursor.next()) for row in range(batch_size)]
                    after = cursor.state()
                except BaseException as error:
                    turns["failed"] = error
                    raise
                finally:
                    turns["next"] += 1
                    turn.notify_all()
            return [raw for row, raw in rows if row in wanted], after

        def read(step: int) -> pipeline.Batch:
            raw, after = in_turn(step)
            index = start + step * batch_size + mine
            batch = pipeline.assembled([stream.decode(each) for each in raw], stream.spec, index, seed, augment)
            return batch | {"state": after}

        self._batches = pipeline.iterate(sys.maxsize, read, threads)

    def __iter__(self) -> "StreamBatches":
        return self

    def __next__(self) -> pipeline.Batch:
        batch = next(self._batches)
        self.state = batch.pop("state")
        return batch

    def close(self) -> None:
        """Stops the threads."""
        self._batches.close()  # type: ignore[attr-defined]
