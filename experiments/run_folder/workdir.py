"""A run folder: it belongs to one run with one config, is locked while in use, and its lines are written atomically.

WORKDIR holds config.json, metrics.jsonl (what a run computed: the same bytes however often it was interrupted),
timing.jsonl (what depends on the clock), checkpoints/<step>, and TensorBoard events.
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import pathlib
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from diffusion import recipe
from diffusion.data import sources
from diffusion.io import file_systems, limits, opener
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError, fields, versions
from diffusion.recipe.extensions import printed
from diffusion.recipe.values import differences, plain, require_names
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement

# Fields that a run may change when it goes on, each with the reason: none alters what its past steps computed.
MAY_CHANGE = {
    "train.steps": "where the run ends; a decay that ends with the run is longer or shorter from there on",
    "train.log_every": "which steps have a line in metrics.jsonl",
    "checkpoint.*": "which steps are saved, and which of them stay",
    "evaluate.*": "an evaluation reads the moving average and changes nothing of the run",
    "sample.*": "samples are made from the moving average; grid, steps and shift stay if the objective trains on them",
    "mesh.*": "draws depend only on the step and the example; losses agree within 1e-4, and on one mesh bit for bit",
    "data.dir": "where the data lie; the run goes on only with the same examples",
    "data.source.path": "where the data lie; the run goes on only with the same examples",
    "data.latents.*": "where the latents lie, and what decodes samples; their digest must be the same",
    "data.text.*": "where texts and tokens lie; their digest must be the same",
    "data.threads": "how many threads read; a batch depends only on the seed and its position in the run",
    "data.processes": "how many processes read; a batch does not depend on their number",
    "data.viewed": "how pictures of files are read; the run goes on only with the same examples",
    "data.damaged": "what happens to a record that cannot be read, from here on",
    "data.changed": "whether other examples than before are accepted, from here on",
    "base.path": "where the frozen model lies; its weights are compared",
}
TIMES = ("sample.grid", "sample.steps", "sample.shift")  # fields of the times of samples


SHARED = 60.0  # seconds: as long as NFS may remember that a file was not there


class WorkdirError(RuntimeError):
    """A run folder cannot be used; the message says why and what to do."""


FAILURES = (  # for command_line.run
    WorkdirError,
    checkpoints.CheckpointError,
    agreement.Abandoned,
    sources.DamagedRecord,
    OSError,
)


FILES = (
    *(".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".npy", ".json", ".csv", ".md", ".html"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".wav"),
)
"""Endings of files, which `output_folder` refuses: whoever writes one expects a file, and not a folder."""


def output_folder(folder: str | pathlib.Path) -> pathlib.Path:
    """Checks the folder in --out before the work begins, which may take hours; it need not exist yet.

    Raises:
        ConfigError: if the path, or a part of it, is a file; or if it does not exist and has the ending of a file.
    """
    path = pathlib.Path(folder)
    if path.suffix.lower() in FILES and not path.exists():
        raise ConfigError(
            f"--out={folder} has the ending of a file, but this command writes a folder. Valid: the name of a folder, "
            f"e.g. {path.with_suffix('')}."
        )
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"--out={folder}: {part} is a file. Valid: a folder, which may be new.")
    return path


def is_other_run(folder: str | pathlib.Path, run: str | pathlib.Path | None) -> bool:
    """Whether a folder holds the checkpoints of another run than the run in the folder `run`."""
    folder = pathlib.Path(folder)
    return bool(checkpoints.steps(folder)) and (run is None or folder.resolve() != pathlib.Path(run).resolve())


def require_no_other_run(out: str | pathlib.Path, run: str | pathlib.Path | None = None) -> None:
    """Refuses to write samples into the folder of a run that did not make them, since they would count as its own.

    Args:
        out: the folder to write to, which may be new.
        run: the folder of the run that makes the samples; None for a published model.

    Raises:
        ConfigError: if `out` holds the checkpoints of another run.
    """
    if is_other_run(out, run):
        example = "pictures" if run is None else f"{run}/NAME"
        raise ConfigError(
            f"--out={out} is the folder of another run. Its samples would be replaced, and its report would describe "
            f"these samples. Valid: a folder that is new or holds no run, e.g. {example}."
        )


@contextlib.contextmanager
def lock(workdir: str | pathlib.Path, flag: str = "--workdir") -> Iterator[None]:
    """Locks a folder of a run or an arena for this process; the kernel releases it however the process ends.

    Args:
        workdir: the folder, made if missing.
        flag: the flag that named it, for messages.

    Raises:
        WorkdirError: if another process holds it, it cannot be written, or its file system lacks what a run needs.
    """
    path = pathlib.Path(workdir)
    if why := file_systems.objection(workdir):
        raise WorkdirError(f"{flag}={workdir} is {why}")
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        limits.no_links(path)
        handle = open(path / ".lock", "r+", opener=lambda name, how: os.open(name, how | os.O_CREAT, 0o644))
    except OSError as error:
        raise WorkdirError(f"{flag}={workdir} cannot be written ({error.strerror}): choose another.") from error
    except limits.Refused as error:
        raise WorkdirError(f"{flag}={workdir}: {error}") from error
    with handle:
        try:
            with file_systems.trying("lock a file (flock)"):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file_systems.probe(path)
        except BlockingIOError as error:
            raise WorkdirError(
                f"{flag}={workdir} is in use: process {handle.read().strip() or '(unknown)'} works there. "
                "Wait until it has ended, stop it, or choose another folder."
            ) from error
        except file_systems.Lacking as error:
            if is_new:
                (path / ".lock").unlink()
                path.rmdir()
            raise WorkdirError(
                f"{flag}={workdir} lies on a file system that cannot hold a run: {error}. {file_systems.WHERE}; a "
                "bucket that is mounted as a folder is not enough. Choose another folder."
            ) from error
        except OSError as error:
            raise WorkdirError(f"{flag}={workdir} cannot be written ({error.strerror}): choose another.") from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def require_shared(workdir: str | pathlib.Path, seconds: float = SHARED) -> None:
    """Proves that all processes of a run see one folder. Each process calls it; process 0 has locked the folder.

    Args:
        workdir: the folder.
        seconds: how long a process may take to see a file of process 0.

    Raises:
        WorkdirError: on all processes, if one of them does not see within `seconds` what process 0 has written.
    """
    if jax.process_count() == 1:
        return
    path = pathlib.Path(workdir).absolute() / ".shared"
    here = f"{socket.gethostname()}:{path.parent}"
    token = uuid.uuid4().hex if jax.process_index() == 0 else ""
    if token:
        write_text(path, token)
    token = agreement.gather("folder", token)[0]
    end = time.monotonic() + seconds
    while not (is_seen := _reads(path, token)) and time.monotonic() < end:
        time.sleep(0.1)
    answers = agreement.gather("folder seen", json.dumps([here, is_seen]))
    if jax.process_index() == 0:
        path.unlink(missing_ok=True)
    answers = [json.loads(answer) for answer in answers]
    if lost := [f"process {i} ({where})" for i, (where, is_seen) in enumerate(answers) if not is_seen]:
        raise WorkdirError(
            f"--workdir={workdir} is not the same folder for all processes of this run: within {seconds:g} s, "
            f"{', '.join(lost)} did not see what process 0 ({answers[0][0]}) wrote there. Choose a folder on a file "
            "system that every host mounts, by its absolute path."
        )


def _reads(path: pathlib.Path, token: str) -> bool:
    try:
        return path.read_text() == token
    except OSError:
        return False


def read_config(workdir: str | pathlib.Path) -> ConfigDict:
    """The config of the run in a folder; nothing is executed.

    Raises:
        ConfigError: if Python built the run, so that its config has no names.
        WorkdirError: if the folder holds no run.
        OSError: if it cannot be read.
    """
    config = _saved_config(workdir)
    require_names(config, workdir)
    return config


def _saved_config(workdir: str | pathlib.Path) -> ConfigDict:
    """The config of the run in a folder, also of a run that Python built."""
    return versions.read(_config_text(workdir))


def _config_text(workdir: str | pathlib.Path) -> str:
    """The content of config.json in a folder."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        return opener.read_text(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WorkdirError(f"--workdir={workdir} holds no run: {path} cannot be read ({error.strerror}).") from error
    except limits.Refused as error:
        raise WorkdirError(f"--workdir={workdir}: {error}") from error


def example_shape(config: Mapping) -> Any:
    """The shape of one example, a tuple or a pytree of tuples: config.data.shape if it is set, else the data's shape.

    No dataset is prepared for it, and no record of a TFDS dataset or of a cache is opened.
    """
    settings = config["data"]
    if settings["shape"] is not None:
        return tuple(settings["shape"])
    return recipe.data.known_shape(config) or recipe.data.source(config, settings["split"]).spec.shape


def text_model(workdir: str | pathlib.Path) -> pathlib.Path:
    """The folder WORKDIR/model, the text-to-image model that `diffusion text_model` made of a run.

    Raises:
        ConfigError: if there is none; it says how to make one.
    """
    folder = pathlib.Path(workdir) / "model"
    if not (folder / "model_index.json").is_file():
        here = f"--workdir={workdir}"
        if (folder.parent / "config.json").is_file():
            how = (
                f"A run that learned from captions gets one by: {printed('text_model', here)}. A run that learned "
                "from classes is sampled without --prompt."
            )
        elif folder.parent.is_dir():
            how = f"One is made at the end of: {printed('examples.text.demo', '--config=text/shapes', here)}"
        else:
            how = "There is no such folder."
        raise ConfigError(f"{here} holds no text-to-image model (model/model_index.json). {how}")
    return folder


def command(program: str) -> str:
    """The command line of this process, its launcher included; `program` is the words before the arguments."""
    launcher = os.environ.get("DIFFUSION_LAUNCHER", "")
    return f"{launcher} {program} {shlex.join(sys.argv[1:])}".strip()


def settle_config(workdir: str | pathlib.Path, config: Mapping) -> bool:
    """Writes config.json, after comparing the config with the config of the run that the folder may already hold.

    Args:
        workdir: the run folder, which this process has locked.
        config: the config.

    Returns:
        Whether the folder held a config.json before.

    Raises:
        ConfigError: if the folder holds a run whose config differs in a field that `MAY_CHANGE` does not list, or in
            times of samples that its objective trains on.
        WorkdirError: if config.json cannot be written, or the folder holds checkpoints without one.
    """
    path = pathlib.Path(workdir) / "config.json"
    config = fields.absolute(ConfigDict(config))
    exists = path.exists()
    if not exists and checkpoints.steps(workdir):
        raise WorkdirError(f"{workdir} holds checkpoints but no config.json: choose another --workdir.")
    if exists:
        saved = _saved_config(workdir)
        changed = differences(fields.absolute(saved), config)
        times = [change for change in changed if change.field.startswith(TIMES)]
        trained = [plain(saved.get(section)) for section in ("objective", "second_player")] if times else []
        times = times if any(map(_trains_on_times, trained)) else []
        is_fixed = lambda change: change in times or not _may_change(change.field)
        fixed = [change for change in changed if is_fixed(change)]
        if fixed:
            free = [change for change in changed if not is_fixed(change)]
            raise ConfigError(
                f"--workdir={workdir} holds a run of another config. These fields differ and may not change:\n"
                + "".join(f"  {change}\n" for change in fixed)
                + ("These differ and may change:\n" + "".join(f"  {change}\n" for change in free) if free else "")
                + ("This run's objective trains on the times of its samples. " if times else "")
                + f"A run may change {', '.join(MAY_CHANGE)}. Set the others back to go on with it, or choose another "
                f"--workdir (with --config.init_from.path={workdir} it starts from this run's weights)."
            )
        if not differences(saved, config):
            return True
    try:
        write_text(path, versions.write(config) + "\n")
    except OSError as error:
        raise WorkdirError(f"{path} cannot be written: {error.strerror}.") from error
    return exists


@contextlib.contextmanager
def restored_if_refused(workdir: str | pathlib.Path) -> Iterator[None]:
    """Restores config.json, or removes a new one, if its block refuses the run before it has saved a step.

    Other commands then still read the config of the steps in the folder. After a refusal, a new run may use the folder
    with another value of the refused field.
    """
    path = pathlib.Path(workdir)
    file = path / "config.json"
    before = _config_text(path) if file.exists() else None
    steps = checkpoints.steps(path)
    try:
        yield
    except ConfigError:
        if checkpoints.steps(path) == steps:
            if before is not None and _config_text(path) != before:
                write_text(file, before)
            elif before is None and not (path / "metrics.jsonl").exists():
                file.unlink(missing_ok=True)
        raise


def _trains_on_times(entry: Any) -> bool:
    """Whether an entry of a config names a function that trains along the grid of samples, as a policy gradient does.

    Args:
        entry: the entry of an objective or of a second player; entries within it count too.
    """
    # imported here: other commands need no names of objectives
    from diffusion.recipe import kinds
    from diffusion.recipe.entries import takes

    if isinstance(entry, (list, tuple)):
        return any(map(_trains_on_times, entry))
    if not isinstance(entry, Mapping):
        return False
    tables = [kinds.KINDS[kind].table for kind in ("objective", "samples of a generator")]
    named = [table[entry["name"]] for table in tables if entry.get("name") in table]
    asks = any(takes(function, "grid") for function in named) and "grid" not in entry
    return asks or any(map(_trains_on_times, entry.values()))


def _may_change(field: str) -> bool:
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in MAY_CHANGE)


def require_there(workdir: pathlib.Path) -> None:
    """Refuses to go on in a run folder that was removed; a save may have created an empty one of that name since.

    Raises:
        WorkdirError: if config.json is gone.
    """
    if not (workdir / "config.json").exists():
        raise WorkdirError(f"{workdir} cannot be written: its config.json is gone, as if the folder had been removed.")
