"""Handles a step whose loss or gradient is not finite: the message for the user, and the stored state."""

import pathlib
import shlex
import shutil
from collections.abc import Mapping

import jax
import numpy as np

from diffusion.recipe.values import built_in_python
from diffusion.training import state
from diffusion.training.checkpointing import checkpoint_writer, checkpoints


class RunFailed(Exception):
    """The loss or the gradient of a step was not finite; the state stays as it was before that step."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


def message(step: int, workdir: pathlib.Path, config: Mapping) -> str:
    """The message that a user sees when a step of a run has failed."""
    good = checkpoints.latest(workdir)
    checkpoint_sentence = "There is no checkpoint yet." if good is None else f"The last good checkpoint is step {good}."
    python = built_in_python(config)
    clip = None if python else config["optimizer"].get("clip")  # the norm to which gradients are clipped already
    if step == 0:
        advice = "No step has changed the weights yet: look at the data, the network and the objective."
    elif python:
        advice = "Try a smaller learning rate or clipped gradients in a new folder."
    else:
        clipped = "" if clip else ", or --config.optimizer.clip=1.0,"
        source = shlex.quote(f"--config.init_from.path={checkpoints.folder(workdir) / str(good)}")
        begin = "" if good is None else f" and from that checkpoint, by {source}"
        advice = f"Try a smaller --config.optimizer.learning_rate{clipped} in a new --workdir{begin}."
    return (
        f"error: the loss or the gradient was not finite in step {step} (counted from 0), which has not changed the "
        f"state. {checkpoint_sentence}\nThe same {'call' if python else 'command'} fails in the same way. {advice}"
    )


def folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """WORKDIR/failed, a folder in the form of a run folder."""
    return pathlib.Path(workdir) / "failed"


def keep(workdir: str | pathlib.Path, frozen: state.TrainState, description: dict) -> pathlib.Path:
    """Saves the state before a failed step in WORKDIR/failed, and removes the state of an earlier failure.

    Args:
        workdir: the run folder.
        frozen: the state before the failed step.
        description: the description of the state, as in `Checkpoints.save`; "examples" counts those before the step.

    Returns:
        The folder of the state, WORKDIR/failed/checkpoints/<step>.

    Raises:
        CheckpointError: if the state cannot be written.
    """
    failed = folder(workdir)
    if jax.process_index() == 0:
        shutil.rmtree(failed, ignore_errors=True)
    healthy = jax.device_put(np.int32(state.HEALTHY), frozen.failed_at.sharding)
    saver = checkpoint_writer.Checkpoints(failed)
    try:
        saver.save(frozen._replace(failed_at=healthy), description)
    finally:
        saver.close()
    return checkpoints.folder(failed) / str(int(frozen.step))
