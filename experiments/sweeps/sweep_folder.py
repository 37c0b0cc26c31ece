"""The content of a sweep's folder: DIR/sweep.json, which defines the sweep, and the events of each run in its folder.

Each run has its own file of events, DIR/NAME/sweep.jsonl. Tasks on several machines may share a file system on which
appending is not atomic, and so they never write the same file. A run is locked, and its commands inherit the lock: if a
sweep is killed, the command that it had started holds the run until the command ends.
"""

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import failures, file_systems, limits, opener, schema
from diffusion.io.files import write_text
from diffusion.io.json_lines import append, rows
from diffusion.package import commands as command_lines
from diffusion.recipe import recipes, versions
from diffusion.recipe.extensions import printed
from diffusion.recipe.values import plain

FORMAT = 1  # raised when a change makes older readers wrong
QUEUED, RUNNING, DONE, FAILED, STOPPED = STATUSES = ("queued", "running", "done", "failed", "stopped")
MOST = 10**5  # the most runs, and the most words of a command
WORD = schema.text(10**5)
RECORD = {
    "name": schema.text(),
    "file": schema.text(),
    "varies": schema.several(schema.text(), most=MOST),
    "seeds": schema.several(schema.text(), most=MOST),
    "bases": schema.table(schema.table(schema.Valid("any value", lambda value: True))),
    "runs": schema.several(schema.Valid("a table", lambda value: isinstance(value, dict)), most=MOST),
}
PLAN = {
    "name": schema.text(255),
    "overrides": schema.table(schema.Valid("any value", lambda value: True)),
    "commands": schema.several(schema.several(WORD, 1, MOST)),
}
EVENT = {
    "time": schema.number(),
    "attempt": schema.integer(),
    "command": schema.integer(),
    "seconds": schema.number(),
    "reason": schema.text(10**6),
}
PATIENCE = 0.2  # seconds for which a lock is tried, since a reader that checks it also holds it for an instant


class Plan(NamedTuple):
    """One run of a sweep, in the form of sweep.json."""

    name: str  # name of the run, and of its folder
    overrides: dict[str, Any]  # {dotted field of the base config: value}
    commands: list[list[str]]  # the words of each command; "{folder}" stands for the run's folder


class Record(NamedTuple):
    """A sweep: the content of sweep.json."""

    name: str
    file: str  # file and preset, as on the command line
    varies: list[str]  # fields that are not the same in all runs
    seeds: list[str]  # names of the fields over which figures are averaged
    bases: dict[str, dict[str, Any]]  # the configs that the runs change, by their files
    runs: list[Plan]  # the runs in the order of the tasks on a cluster


class Status(NamedTuple):
    """The state of a run."""

    status: str = QUEUED  # one of STATUSES
    done: int = 0  # number of its commands that are done
    attempts: int = 0  # number of times that it was begun
    seconds: Mapping[int, float] = {}  # {index of a command: its seconds over all attempts}
    reason: str = ""  # the reason of the last failure


def write(directory: pathlib.Path, record: Record) -> None:
    """Writes sweep.json; the file appears complete or not at all."""
    bases = {name: json.loads(versions.write(base)) for name, base in record.bases.items()}
    content = {"format": FORMAT, **record._asdict(), "bases": bases, "runs": [run._asdict() for run in record.runs]}
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "sweep.json", json.dumps(content, indent=2, allow_nan=False) + "\n")


def read(directory: pathlib.Path) -> Record:
    """Reads sweep.json; nothing in it is executed.

    Raises:
        WorkdirError: if the folder holds no sweep, or a sweep of another version.
    """
    path = directory / "sweep.json"
    try:
        content = opener.read_json(path)
        if content["format"] != FORMAT:
            raise WorkdirError(f"{path} has format {limits.short(content['format'])}; this version reads {FORMAT}.")
        schema.check(RECORD, content, str(path))
        for run in content["runs"]:
            schema.check(PLAN, run, f"{path}: a run")
        limits.inside(str(path), [run["name"] for run in content["runs"]])
        content["runs"] = [Plan(**run) for run in content["runs"]]
        record = Record(**{name: content[name] for name in Record._fields})
        runs = [run._replace(commands=[current(words) for words in run.commands]) for run in record.runs]
        return record._replace(runs=runs, bases={recipes.short(name): _base(x) for name, x in record.bases.items()})
    except FileNotFoundError as error:
        raise WorkdirError(
            f"--workdir={directory} holds no sweep: it has no sweep.json. Start one by "
            f"{printed('sweep', '--sweep=FILE', f'--workdir={directory}')}"
        ) from error
    except (OSError, limits.Refused, ValueError, KeyError, TypeError) as error:
        raise WorkdirError(f"{path} cannot be read: {limits.reason(error)}") from error


def _base(fields: dict[str, Any]) -> dict[str, Any]:
    """A base config with the present fields; sweeps of earlier versions have no version and are not converted."""
    return plain(versions.read(json.dumps(fields))) if "version" in fields else fields


def current(words: Sequence[str]) -> list[str]:
    """The words of a command in the present spelling: `diffusion train --config=digits`.

    Sweeps of earlier versions hold `python -m experiments.train --config=configs/digits.py`.
    """
    base = "--config="
    short = lambda word: base + recipes.short(word.removeprefix(base)) if word.startswith(base) else word
    return [short(word) for word in command_lines.current(words)]


def commands(directory: pathlib.Path, plan: Plan) -> list[list[str]]:
    """The words of a run's commands, with its folder and the sweep's folder filled in."""
    put = lambda word: word.replace("{folder}", str(directory / plan.name)).replace("{directory}", str(directory))
    return [[put(word) for word in words] for words in plan.commands]


def log_event(folder: pathlib.Path, status: str, **details: Any) -> None:
    """Adds a line to a run's sweep.jsonl.

    Args:
        folder: the folder of the run.
        status: one of STATUSES.
        **details: further entries, such as attempt, command (its index), exit, seconds and reason.
    """
    append(folder / "sweep.jsonl", {"time": time.time(), "status": status, **details})


def end_killed(folder: pathlib.Path) -> None:
    """Adds the missing end of an attempt that was killed with its sweep, at the time of its last output.

    The caller holds the run, so that no process executes it.
    """
    log = folder / "output.log"
    for last in events(folder)[-1:]:
        if last["status"] == RUNNING and {"attempt", "command", "time"} <= last.keys() and log.exists():
            seconds = round(max(0.0, log.stat().st_mtime - last["time"]), 3)
            log_event(folder, STOPPED, **{name: last[name] for name in ("attempt", "command")}, seconds=seconds)


def events(folder: pathlib.Path) -> list[dict]:
    """The lines of a run's sweep.jsonl, without lines that are incomplete or have an unknown status.

    Raises:
        OSError: if this machine cannot read the file.
        WorkdirError: if a line has an entry of another type than an event.
    """
    path = folder / "sweep.jsonl"
    try:
        known = [event for event in rows(path, followed=True) if event.get("status") in STATUSES]
        for event in known:
            schema.check(EVENT, event, str(path))
    except (OSError, limits.Refused) as error:
        if failures.is_machine_failure(error):
            raise
        raise WorkdirError(str(error)) from error
    return known


def logged_status(folder: pathlib.Path, commands: int) -> Status:
    """The status of a run of `commands` commands, by its events."""
    last = QUEUED
    done = set()
    attempts = 0
    reason = ""
    seconds = {}
    for event in events(folder):
        last = event["status"]
        index = event.get("command", 0)
        attempts = max(attempts, event.get("attempt", 0))
        seconds[index] = seconds.get(index, 0.0) + event.get("seconds", 0.0)
        if last == DONE:
            done.add(index)
        if last == FAILED:
            reason = event.get("reason", "")
    last = DONE if len(done) == commands else RUNNING if last == DONE else last
    return Status(last, len(done), attempts, seconds, reason)


def status(folder: pathlib.Path, commands: int) -> Status:
    """The status of a run, from its events and its lock; a run that was killed counts as stopped."""
    now = logged_status(folder, commands)
    if now.status == DONE:
        return now
    if held(folder):
        return now._replace(status=RUNNING)
    return now._replace(status=STOPPED) if now.status == RUNNING else now


def statuses(directory: pathlib.Path, plans: Iterable[Plan]) -> dict[str, str]:
    """The status of each run, by its name."""
    return {plan.name: status(directory / plan.name, len(plan.commands)).status for plan in plans}


def tally(statuses: Iterable[str]) -> str:
    """The numbers of runs with each status, such as "2 running, 12 done"."""
    count = collections.Counter(statuses)
    return ", ".join(f"{count[status]} {status}" for status in STATUSES if count[status])


def held(folder: pathlib.Path) -> bool:
    """Whether a process holds the run."""
    try:
        with open(folder / ".sweep.lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


@contextlib.contextmanager
def hold(path: pathlib.Path) -> Iterator[int | None]:
    """Holds the lock file `path` for this process and the processes that inherit its descriptor.

    Yields:
        The descriptor of the file, which commands inherit; None if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            with file_systems.trying("lock a file (flock)"):
                is_ours = _locked(descriptor)
        except file_systems.Lacking as error:
            raise WorkdirError(f"{path.parent} lies on a file system that cannot hold a sweep: {error}.") from error
        yield descriptor if is_ours else None
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
