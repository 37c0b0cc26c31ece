"""The item of a checkpoint that describes it: JSON that is made while the values are on their way to the disk.

Orbax gives a checkpoint its name only after every item is written, this one too, however late it was made.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals

NAME = "metadata"  # the file, by the name that Orbax's own JSON items have


class DescriptionHandler(ocp.AsyncCheckpointHandler):
    """Writes what `DescriptionSave.make` returns, which it calls in a thread of its own."""

    async def async_save(self, directory: Any, args: "DescriptionSave") -> list[Any]:
        """Returns the futures for which Orbax waits before it names the checkpoint."""
        return [CommitFutureAwaitingContractedSignals(self._write(directory, args.make), name="description")]

    def save(self, directory: Any, args: "DescriptionSave") -> None:
        """Refuses: a description belongs to a checkpoint that is written asynchronously."""
        raise NotImplementedError("a description can only be saved by ocp.AsyncCheckpointer")

    def restore(self, directory: Any, args: Any = None) -> Any:
        """Refuses: `checkpoints.read_about` reads it, without Orbax."""
        raise NotImplementedError(
            "a description can only be read by diffusion.training.checkpointing.checkpoints.read_about"
        )

    async def _write(self, directory: Any, make: Callable[[], Any]) -> None:
        text = json.dumps(make())  # every process takes part in this
        if jax.process_index() == 0:
            (directory / NAME).write_text(text)


@ocp.args.register_with_handler(DescriptionHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DescriptionSave(ocp.args.CheckpointArgs):
    """The description that is saved.

    Attributes:
        make: () -> JSON-able; every process calls it once.
    """

    make: Callable[[], Any]
