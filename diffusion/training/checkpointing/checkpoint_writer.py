"""The writer of a run's checkpoints: asynchronous, atomic, and with a description of every leaf.

A checkpoint appears under its step only when all of its items are on the disk; `checkpoints` reads it.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from diffusion.io import files, json_lines
from diffusion.training.checkpointing.checkpoints import (
    FORMAT,
    CheckpointError,
    digest,
    first_line,
    folder,
    items_of,
    leaves_of,
    read_about,
    steps,
)
from diffusion.training.checkpointing.checksums import later
from diffusion.training.state import HEALTHY, TrainState

PATIENCE = 10**9  # seconds for a save: Orbax's 600 are too few for a slow disk, and end when the clock is set forward


class Checkpoints:
    """The writer of a run's checkpoints. Every process of a run opens one; process 0 manages the folder."""

    def __init__(self, workdir: str | pathlib.Path, keep: int = 3, keep_every: int = 0):
        """Opens WORKDIR/checkpoints, and removes what an interrupted save left there.

        Args:
            workdir: the run folder.
            keep: number of latest checkpoints to keep, >= 1.
            keep_every: also keep those whose step is a multiple of this; 0 for none.

        Raises:
            ValueError: if `keep` < 1.
            CheckpointError: if the folder cannot be written.
        """
        if keep < 1:
            raise ValueError(f"checkpoint.keep = {keep} must be at least 1, so that a run can resume.")
        self.workdir = pathlib.Path(workdir).absolute()
        self.keep = keep
        self.keep_every = keep_every
        self.best: int | None = None  # the step of the best checkpoint, which is kept too
        path = folder(workdir)
        if jax.process_index() == 0:
            try:
                path.mkdir(parents=True, exist_ok=True)
                for unfinished in path.glob("*orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished)
            except OSError as error:
                raise CheckpointError(f"Cannot write checkpoints in {path}: {error}.") from error
        _barrier("checkpoints opened")
        import orbax.checkpoint as ocp  # imported here: most commands list checkpoints before they open one

        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), timeout_secs=PATIENCE)
        self._writing = None  # the step of the current save

    def save(self, state: TrainState, about: dict | None = None) -> None:
        """Starts to write a checkpoint of the state's step; returns once the state may be donated.

        Args:
            state: the state to save; nothing is written if its step is saved already.
            about: JSON-able facts to keep with it, for example {"examples": 1280, "config_hash": "..."}.

        Raises:
            CheckpointError: if the state is flagged as failed, or this or the last save cannot be written (then the
                older checkpoints stay as they are).
        """
        step = int(state.step)
        failed_at = int(state.failed_at)
        if failed_at != HEALTHY:
            raise CheckpointError(
                f"The state was not saved, because step {failed_at} failed (a non-finite loss or gradient)."
            )
        self.wait()
        if step in steps(self.workdir):
            return
        items = items_of(state)
        sums = later(items)
        leaves = leaves_of(items)
        import orbax.checkpoint as ocp

        from diffusion.training.checkpointing.description import DescriptionSave

        describe = lambda: _described({"format": FORMAT, "step": step, **(about or {})}, leaves, sums)
        saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self._writing = step
        with self._explained():
            args = ocp.args.Composite(**saved, about=DescriptionSave(describe))
            self._writer.save(folder(self.workdir) / str(step), args=args)

    def wait(self) -> None:
        """Waits until the last save is on disk, then removes the checkpoints that the policy does not keep.

        Raises:
            CheckpointError: if that save could not be written.
        """
        with self._explained():
            self._writer.wait_until_finished()
            if self._writing is None or jax.process_index() > 0:
                return
            # Orbax leaves its descriptions to the kernel, which may lose them in a crash for half a minute.
            for path in (folder(self.workdir) / str(self._writing)).rglob("*"):
                json_lines.sync(path)
        self._writing = None
        self._prune()

    def keep_best(self, best: dict) -> None:
        """Keeps a finished checkpoint for good, as the best so far, and records that in the checkpoint.

        Args:
            best: JSON-able: {"step": of the checkpoint, ...}; its `about` then has this under "best".

        Raises:
            CheckpointError: if it does not exist, or cannot be written.
        """
        step: int = best["step"]
        self.best = step
        if jax.process_index() > 0:
            return
        description = {**read_about(self.workdir, step), "best": best}
        path = folder(self.workdir) / str(step) / "about" / "metadata"
        try:
            with files.atomic(path) as file:
                file.write(json.dumps({"about": description, "sha256": digest(description)}).encode())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error.strerror}.") from error
        self._prune()

    def superfluous(self, have: list[int]) -> list[int]:
        """Returns the steps, of the ascending `have`, whose checkpoints the policy does not keep."""
        stays = lambda step: step == self.best or (self.keep_every and step % self.keep_every == 0)
        return [step for step in have[: -self.keep] if not stays(step)]

    def _prune(self) -> None:
        for step in self.superfluous(steps(self.workdir)):
            path = folder(self.workdir) / str(step)
            removed = path.with_name(f"{step}.removed.orbax-checkpoint-tmp")  # a bare number marks whole ones alone
            path.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)

    def close(self) -> None:
        """Waits for the last save and ends the writer.

        Raises:
            CheckpointError: if that save could not be written.
        """
        try:
            self.wait()
        except BaseException:
            with contextlib.suppress(Exception):  # it may raise the same error of this save again
                self._writer.close()
            raise
        with self._explained():
            self._writer.close()

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types here
            step, self._writing = self._writing, None
            path = folder(self.workdir) / ("" if step is None else str(step))
            for unfinished in folder(self.workdir).glob(f"{step}*orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            intact_steps = steps(self.workdir)
            intact = (
                f"Older checkpoints are intact: {', '.join(map(str, intact_steps))}."
                if intact_steps
                else "There is no older one."
            )
            raise CheckpointError(
                f"Could not write the checkpoint {path}: {first_line(error)}. {intact} "
                "Check that the disk has room and the folder can be written, then run the same command again."
            ) from error


def _described(about: dict, leaves: dict[str, dict], sums: Callable[[], dict[str, str]]) -> dict:
    """A checkpoint's description; hashing takes a second a gigabyte and processor, so the train loop goes on."""
    checksums = sums()
    content = {**about, "leaves": {name: {**leaf, "checksum": checksums[name]} for name, leaf in leaves.items()}}
    return {"about": content, "sha256": digest(content)}


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
