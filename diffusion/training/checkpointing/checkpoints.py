"""Reads checkpoints, WORKDIR/checkpoints/<step>: finds, verifies and restores what `checkpoint_writer` wrote.

A checkpoint has four Orbax items, so that sampling needs no optimizer: `params`, `ema`, `training` (the rest
of the state) and `about` (JSON: the step, the data position, shape, type and checksum of every leaf).
"""

__all__ = [
    "CheckpointError",
    "DamagedCheckpoint",
    "MismatchedCheckpoint",
    "UnreadableCheckpoint",
    "digest",
    "first_line",
    "folder",
    "items_of",
    "latest",
    "leaves_of",
    "load_ema",
    "load_params",
    "loud",
    "read_about",
    "restore",
    "restore_latest",
    "steps",
]

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion.io import failures, leaf_names, limits, opener
from diffusion.package import public
from diffusion.training.checkpointing import validation
from diffusion.training.checkpointing.checksums import checksums
from diffusion.training.runtime import agreement
from diffusion.training.state import TrainState

STEP = re.compile("[0-9]{1,18}")  # the name of a finished checkpoint
FORMAT = 1  # raised by a change that older readers would misread
SECOND_PLAYERS = "rivals"  # the item of a checkpoint that holds them, by the name it has had since the first


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names it, the reason, and the next step."""


class DamagedCheckpoint(CheckpointError):
    """The files of a checkpoint are incomplete or altered."""


class UnreadableCheckpoint(CheckpointError):
    """A checkpoint could not be read now, for a reason outside it; it may be intact."""


class MismatchedCheckpoint(CheckpointError):
    """A checkpoint is intact but belongs to another architecture, optimizer or version."""


def loud(message: str) -> None:
    """Prints a conspicuous warning on standard error."""
    print(f"\n{'!' * 100}\nWARNING: {message}\n{'!' * 100}\n", file=sys.stderr, flush=True)


def folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns WORKDIR/checkpoints, without the ".." of a relative path, which TensorStore refuses."""
    path = pathlib.Path(workdir).absolute()
    return (path.resolve() if ".." in path.parts else path) / "checkpoints"


def steps(workdir: str | pathlib.Path) -> list[int]:
    """Returns the steps that have a checkpoint, ascending; only finished ones have a bare number for a name."""
    try:
        return sorted(int(name) for name in os.listdir(folder(workdir)) if STEP.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UnreadableCheckpoint(f"{folder(workdir)} could not be read: {error.strerror}.") from error


def latest(workdir: str | pathlib.Path) -> int | None:
    """Returns the largest step that has a checkpoint, or None."""
    return max(steps(workdir), default=None)


def items_of(state: Any) -> dict[str, Any]:
    """The state as the Orbax items of a checkpoint."""
    rest = {"step": state.step, "opt_state": state.opt_state, "density": state.density, "failed_at": state.failed_at}
    rest |= {} if state.buffer is None else {"buffer": state.buffer}
    others = {name: item for name, item in (("frozen", state.frozen), (SECOND_PLAYERS, state.second_players)) if item}
    return {"params": state.params, "ema": state.ema, "training": rest, **others}


def _state(items: dict[str, Any]) -> TrainState:
    return TrainState(
        params=items["params"],
        ema=items["ema"],
        **items["training"],
        frozen=items.get("frozen"),
        second_players=items.get(SECOND_PLAYERS),
    )


def leaves_of(tree: Any) -> dict[str, dict]:
    """{path: {"shape", "dtype"}} of every leaf."""
    described = lambda leaf: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    return {path: described(leaf) for path, leaf in leaf_names.leaves_of(tree).items()}


def digest(about: dict) -> str:
    """The sha256 of a description, which a checkpoint keeps beside it."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def read_about(workdir: str | pathlib.Path, step: int) -> dict:
    """Returns a checkpoint's description of itself: step, examples, leaves and the facts passed to `save`.

    Raises:
        DamagedCheckpoint: if the description is missing or altered.
        UnreadableCheckpoint: if this process could not read it.
        MismatchedCheckpoint: if a newer version of this library wrote it.
    """
    path = folder(workdir) / str(step)
    with _reading(path / "about" / "metadata"):
        written = opener.read_json(path / "about" / "metadata")
        description = written["about"]
        sha256 = written["sha256"]
        written_step = description["step"]
        written_format = int(description["format"])
    if digest(description) != sha256 or written_step != step:
        raise DamagedCheckpoint(f"{path / 'about' / 'metadata'} was altered: its checksum or its step does not match.")
    if written_format > FORMAT:
        raise MismatchedCheckpoint(f"{path} has format {written_format}; this version reads up to {FORMAT}: update.")
    with _reading(path / "about" / "metadata"):
        validation.check_leaves(str(path / "about" / "metadata"), description.get("leaves"))
    return description


@contextlib.contextmanager
def _reading(path: pathlib.Path):
    """Turns the errors of a read into ours; only an error of the files' content means damage."""
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many types here
        if failures.is_machine_failure(error):
            raise UnreadableCheckpoint(
                f"{path} could not be read: {first_line(error)}. The checkpoint may be intact, and nothing was "
                "renamed or removed. Check that this user may read it, that the disk responds and that there is "
                "enough memory, then run the same command again."
            ) from error
        if isinstance(error, limits.Refused):  # an invalid declaration is damage
            raise DamagedCheckpoint(str(error)) from error
        raise DamagedCheckpoint(f"{path} cannot be read: {first_line(error)}.") from error


def _read(workdir: str | pathlib.Path, step: int, about: dict, target: dict[str, Any]) -> dict[str, Any]:
    """Reads this process's part of items into the shapes, types and shardings of `target`; `_verify` comes next."""
    path = folder(workdir) / str(step)
    with _reading(path):
        validation.check_files(path)
        declared = validation.check_leaves(str(path), about["leaves"])
        for item in target:
            validation.check_item(path / item, declared.get(item, 0))
    import orbax.checkpoint as ocp

    args = {name: ocp.args.StandardRestore(tree) for name, tree in target.items()}
    # Each process reads alone, without Orbax's barrier; `_together` reports an error of one to all.
    alone = ocp.options.MultiprocessingOptions(primary_host=None, active_processes={jax.process_index()})
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    with contextlib.closing(ocp.Checkpointer(handler, multiprocessing_options=alone)) as reader, _reading(path):
        return jax.block_until_ready(dict(reader.restore(path, args=ocp.args.Composite(**args)).items()))


def _verify(path: pathlib.Path, about: dict, restored: dict[str, Any]) -> None:
    """Compares every leaf with its checksum; all processes of a run call it."""
    with _reading(path):
        sums = checksums(restored)
    for name, checksum in sums.items():
        if checksum != about["leaves"][name].get("checksum"):
            raise DamagedCheckpoint(f"The checkpoint {path} is damaged: the values of leaf {name!r} were altered.")


def _together(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    """Returns the result of `read` on each process of a run; an error on one raises an error of its kind on all."""
    kinds = (MismatchedCheckpoint, DamagedCheckpoint, UnreadableCheckpoint)  # the last takes precedence
    result, error = None, None
    try:
        result = read()
    except kinds as failure:
        error = failure
    failures_of_all = agreement.gather("restore", "" if error is None else type(error).__name__)
    worst = next((kind for kind in reversed(kinds) if kind.__name__ in failures_of_all), None)
    if worst is None:
        return result
    if isinstance(error, worst):
        raise error
    which = ", ".join(str(i) for i, name in enumerate(failures_of_all) if name == worst.__name__)
    raise worst(
        f"{path} could not be restored by process {which} of this run; that process's output has the reason."
    ) from error


def restore(workdir: str | pathlib.Path, step: int, target: TrainState) -> tuple[TrainState, dict]:
    """Returns the state saved at a step, verified, and its checkpoint's description.

    Args:
        workdir: the run folder.
        step: the step of the checkpoint to read.
        target: a TrainState of arrays, or of jax.ShapeDtypeStruct with shardings: what to restore into. The mesh and
            the shardings may differ from those of the save.

    Returns:
        (state, about); its `unsaved` are None, or the networks that a checkpoint of an earlier version holds.

    Raises:
        MismatchedCheckpoint: if shapes, types or names differ; the message names the first leaf that differs.
        DamagedCheckpoint: if files are missing, cut short or altered; the message names the file or the leaf.
        UnreadableCheckpoint: if a process could not read them, or has no memory for them.
    """
    path = folder(workdir) / str(step)

    def read():
        description = read_about(workdir, step)
        held = _held(target, description["leaves"])
        items = items_of(target._replace(frozen={**(target.frozen or {}), **held}))
        _require_fit(path, description["leaves"], leaves_of(items))
        return description, _read(workdir, step, description, items)

    description, restored = _together(path, read)
    _together(path, lambda: _verify(path, description, restored))
    state = _state(restored)
    if held := _held(target, description["leaves"]):
        frozen = {name: params for name, params in state.frozen.items() if name not in held}
        state = state._replace(frozen=frozen or None, unsaved={name: state.frozen[name] for name in held})
    return state, description


def _held(target: TrainState, leaves: dict) -> dict[str, Any]:
    """The target's unsaved networks that a checkpoint, of an earlier version, holds among the frozen ones."""
    first = {"/".join(name.split("/")[:2]) for name in leaves}
    return {name: params for name, params in (target.unsaved or {}).items() if f"frozen/{name}" in first}


def _require_fit(path: pathlib.Path, saved_leaves: dict, target_leaves: dict) -> None:
    for name in [*target_leaves, *(name for name in saved_leaves if name not in target_leaves)]:
        saved = _describe(saved_leaves.get(name))
        ours = _describe(target_leaves.get(name))
        if saved != ours:
            raise MismatchedCheckpoint(
                f"The checkpoint {path} does not fit this config. The first leaf that differs is {name!r}: {saved} in "
                f"the checkpoint, {ours} in the config's state. Use the config of the checkpoint, another --workdir, "
                "or config.init_from, which takes over only the leaves that fit."
            )


def _describe(leaf: dict | None) -> str:
    return "absent" if leaf is None else f"{leaf['dtype']} {tuple(leaf['shape'])}"


def restore_latest(
    workdir: str | pathlib.Path, target: TrainState, warn: Callable[[str], None] = loud
) -> tuple[TrainState, dict] | None:
    """Returns the latest intact checkpoint, or None if there is none at all.

    Once it has been read, the damaged ones after it are renamed to <step>.damaged, with a loud line each; before that
    no checkpoint is renamed.

    Args:
        workdir: the run folder.
        target: see `restore`.
        warn: takes the loud line.

    Raises:
        MismatchedCheckpoint: if the latest belongs to another architecture (an older one would as well).
        DamagedCheckpoint: if there are checkpoints and none is intact; none of them is renamed.
        UnreadableCheckpoint: if one could not be read, which may be intact; none of them is renamed.
    """
    damaged: dict[int, str] = {}  # messages alone: an error would hold the arrays of the step in memory
    for step in reversed(_agreed_steps(workdir)):
        try:
            restored = restore(workdir, step, target)
        except DamagedCheckpoint as error:
            damaged[step] = str(error)
            continue
        for other, why in damaged.items():
            warn(f"{why} FALLING BACK to step {step}; the damaged checkpoint is kept as {other}.damaged.")
        _set_aside(workdir, list(damaged))
        return restored
    if damaged:
        raise DamagedCheckpoint(
            f"{' '.join(damaged.values())} No intact checkpoint is left in {folder(workdir)}. Start again in another "
            f"--workdir, or remove {pathlib.Path(workdir).absolute()} and start again there."
        )
    return None


def _agreed_steps(workdir: str | pathlib.Path) -> list[int]:
    """`steps` as process 0 of a run sees them: another may see a checkpoint later, or not the same as the last one."""
    listed = _together(folder(workdir), lambda: steps(workdir))
    return json.loads(agreement.gather("steps", json.dumps(listed))[0])


def _set_aside(workdir: str | pathlib.Path, damaged: list[int]) -> None:
    """Renames checkpoints to <step>.damaged, only on process 0; the others wait for it."""
    why = ""
    if jax.process_index() == 0:
        try:
            for step in damaged:
                path = folder(workdir) / str(step)
                shutil.rmtree(path.with_name(f"{step}.damaged"), ignore_errors=True)
                path.rename(path.with_name(f"{step}.damaged"))
        except OSError as error:
            why = f"{path} is damaged and cannot be renamed: {error.strerror}. Rename it, then run the command again."
    if why := agreement.gather("set aside", why)[0]:
        raise CheckpointError(why)


def _load(item: str, workdir: str | pathlib.Path, step: int | None) -> tuple[Any, int]:
    have = _agreed_steps(workdir)
    step = max(have, default=None) if step is None else step
    if not have:
        asked = "" if step is None else f", and step {step} was asked for"
        raise CheckpointError(f"There is no checkpoint in {folder(workdir)}{asked}.")
    if step not in have:
        there = ", ".join(map(str, have))
        raise CheckpointError(f"There is no checkpoint of step {step} in {folder(workdir)} (there are: {there}).")
    path = folder(workdir) / str(step)

    def read():
        description = read_about(workdir, step)
        with _reading(path):
            limits.fits(f"{path / item}", validation.check_leaves("", description["leaves"]).get(item, 0))
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shape = lambda leaf: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]), sharding=where)
        parts = ((*name.split("/", 1), leaf) for name, leaf in description["leaves"].items())
        target = leaf_names.nested({rest: shape(leaf) for first, rest, leaf in parts if first == item})
        return description, _read(workdir, step, description, {item: target})

    description, restored = _together(path, read)
    _together(path, lambda: _verify(path, description, restored))
    return restored[item], step


def load_ema(workdir: str | pathlib.Path, step: int | None = None) -> tuple[Any, int]:
    """Returns only the moving average of the parameters, for sampling: no optimizer or model is needed.

    Args:
        workdir: the run folder.
        step: the step of the checkpoint to read; the latest by default.

    Returns:
        (parameters as nested dicts of float32 arrays on the first device, the step).

    Raises:
        CheckpointError: if there is no such checkpoint, it is damaged, or it could not be read.
    """
    return _load("ema", workdir, step)


def load_params(workdir: str | pathlib.Path, step: int | None = None) -> tuple[Any, int]:
    """Returns only the raw parameters; otherwise as `load_ema`."""
    return _load("params", workdir, step)


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(".: ")


public.declare(__name__, elsewhere={"Checkpoints": "diffusion.training.checkpointing.checkpoint_writer"})
