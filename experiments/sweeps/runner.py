"""Runs a sweep on this machine: several runs at a time, in separate processes, all resumable.

The commands of a run are processes in their own session. Their output goes directly into DIR/NAME/output.log, and they
inherit the lock of the run. If the sweep itself is killed, they go on, and the next sweep waits for them.
"""

import collections
import contextlib
import dataclasses
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from diffusion.experiments.sweeps import sweep_folder
from diffusion.experiments.sweeps.devices import Slot
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, RUNNING, STOPPED, Plan
from diffusion.experiments.sweeps.terminal import Display
from diffusion.package import commands

POLL = 0.1  # seconds between two looks at the runs
RETRY_LOCK = 2.0  # seconds until the lock of a run that another process holds is tried again
MISTAKE = 2  # the exit status of a mistake in the config, which another attempt would repeat
SAVED = (130, 143)  # the exit statuses of a run that someone else stopped
LINES, LETTERS = 6, 800  # the most lines and letters of a recorded error


@dataclasses.dataclass
class Job:
    """A run of which a command is running."""

    plan: Plan
    slot: Slot
    stack: contextlib.ExitStack  # holds the run's lock
    lock: int  # the file descriptor of the lock, which commands inherit
    attempt: int
    command: int = 0
    popen: subprocess.Popen | None = None
    began: float = 0.0
    offset: int = 0  # position in the log at which the output of the command begins


def run(
    directory: pathlib.Path,
    plans: Sequence[Plan],
    slots: Sequence[Slot],
    tries: dict[str, int],
    display: Display,
    signals: queue.SimpleQueue,
    stop: int = signal.SIGTERM,
) -> dict[str, int]:
    """Executes the runs that are not done yet, one in each slot at a time.

    Args:
        directory: the sweep's folder.
        plans: the runs.
        slots: the slots; at most this number of runs is executed at the same time.
        tries: {name of a run: how often it may begin before it counts as failed}; a run with 0 is not begun.
        display: the display that shows what happens.
        signals: numbers of signals that this process received. At the first, the runs save and stop; at the second,
            they end at once by their own rules; at the third, they are killed.
        stop: the signal that is sent to the runs. In a task of SLURM it is SIGINT: SLURM itself sends SIGTERM to all
            processes of the task, and a second SIGTERM would end the runs at once.

    Returns:
        The exit status of the last command of each run that was begun, by name; 0 for a run that is done.
    """
    todo = collections.deque(plan for plan in plans if tries[plan.name] > 0)
    free = list(slots)
    running = []
    requests = 0
    later: dict[str, float] = {}  # when to try again a run that another process holds
    ended: dict[str, int] = {}

    def begin(plan):
        """Starts a run, unless another process holds it or has finished it in the meantime."""
        job = _hold(directory, plan, free[-1])
        if job is None:
            if plan.name not in later:
                display.elsewhere(plan.name)
            later[plan.name] = time.monotonic() + RETRY_LOCK
            todo.append(plan)
        elif job.command == len(plan.commands):
            job.stack.close()
            ended[plan.name] = 0
            display.end(plan.name, DONE, 0.0, "")
        else:
            tries[plan.name] -= 1
            running.append(job)
            free.pop()
            _start(directory, job)
            display.begin(plan.name, job.attempt, directory / plan.name / "output.log", job.slot)

    def end(job):
        """Records how a command ended, and starts the next command or lets the run be tried again."""
        name = job.plan.name
        code = exit_status(job)
        status = _finish(directory, job, code, requests)
        if status == DONE and job.command + 1 < len(job.plan.commands):
            if not requests:
                job.command += 1
                return _start(directory, job)
            status = STOPPED
        running.remove(job)
        free.append(job.slot)
        job.stack.close()
        ended[name] = code
        again = status == FAILED and tries[name] > 0 and code != MISTAKE and not requests
        now = sweep_folder.logged_status(directory / name, len(job.plan.commands))
        display.end(name, status, sum(now.seconds.values()), now.reason, again)
        if again:
            todo.append(job.plan)

    try:
        while running or (todo and not requests):
            if not signals.empty():
                requests += 1
                _signal(running, signal.SIGKILL if requests > 2 else stop)
                display.stopping(signals.get(), len(running), requests)
            if free and todo and not requests:
                plan = todo.popleft()
                if later.get(plan.name, 0) > time.monotonic():
                    todo.append(plan)
                else:
                    begin(plan)
            for job in [job for job in running if job.popen is None or job.popen.poll() is not None]:
                end(job)
            display.show()
            time.sleep(POLL)
    finally:
        _signal(running, signal.SIGTERM)  # no run outlives a sweep that fails
        for job in running:
            if job.popen is not None:
                job.popen.wait()
            job.stack.close()
    return ended


def exit_status(job: Job) -> int:
    """The exit status of a job's last command, as in a shell; 127 for a program that does not exist."""
    if job.popen is None:
        return 127
    return 128 - job.popen.returncode if job.popen.returncode < 0 else job.popen.returncode


def _hold(directory: pathlib.Path, plan: Plan, slot: Slot) -> Job | None:
    """Locks a run, and finds its first command that is not done; None if another process holds it."""
    stack = contextlib.ExitStack()
    lock = stack.enter_context(sweep_folder.hold(directory / plan.name / ".sweep.lock"))
    if lock is None:
        stack.close()
        return None
    sweep_folder.end_killed(directory / plan.name)
    now = sweep_folder.logged_status(directory / plan.name, len(plan.commands))
    return Job(plan, slot, stack, lock, now.attempts + 1, now.done)


def _start(directory: pathlib.Path, job: Job) -> None:
    """Starts a job's command; if that fails, its log says why, and `popen` is None."""
    folder = directory / job.plan.name
    words = sweep_folder.commands(directory, job.plan)[job.command]
    sweep_folder.log_event(folder, RUNNING, attempt=job.attempt, command=job.command)
    job.began = time.monotonic()
    job.popen = None
    with open(folder / "output.log", "ab") as log:
        log.write(f"--- attempt {job.attempt}: {shlex.join(words)}\n".encode())
        log.flush()
        job.offset = log.tell()
        program = commands.as_process(words)
        before = os.sched_getaffinity(0) if job.slot.cores else None
        try:
            if before:
                os.sched_setaffinity(0, job.slot.cores)  # of this thread; the new process inherits it
            job.popen = subprocess.Popen(
                program,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | job.slot.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[job.lock],
            )
        except OSError as error:
            log.write(f"error: {program[0]} cannot be run: {error.strerror}\n".encode())
        finally:
            if before:
                os.sched_setaffinity(0, before)


def _finish(directory: pathlib.Path, job: Job, code: int, requests: int) -> str:
    """Records how a command ended, and returns the status of the run."""
    folder = directory / job.plan.name
    event: dict[str, Any] = {
        "attempt": job.attempt,
        "command": job.command,
        "exit": code,
        "seconds": round(time.monotonic() - job.began, 3),
    }
    if code == 0:
        status = DONE
    elif requests or code in SAVED:
        status = STOPPED
    else:
        status = FAILED
        event["reason"] = reason(folder / "output.log", job.offset, code)
    sweep_folder.log_event(folder, status, **event)
    return status


def reason(log: pathlib.Path, offset: int, code: int) -> str:
    """Why a command failed, from the last lines of its log: its "error:" line, or the exception with its place.

    Args:
        log: the log.
        offset: the position in the log at which the output of the command begins.
        code: the exit status of the command.
    """
    with open(log, "rb") as file:
        file.seek(max(offset, file.seek(0, os.SEEK_END) - 20_000))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    calls = [number for number, line in enumerate(lines) if line.startswith("  File ")]  # lines of a traceback
    if errors:
        lines = lines[errors[-1] :][:LINES]
    elif calls:
        lines = [lines[calls[-1]].strip(), *(line for line in lines[calls[-1] + 1 :] if line[0] != " ")][:LINES]
    lines = lines[-LINES:]
    if not lines or code > 128:  # the kernel kills a process by a signal if there is no memory left
        lines.append(f"ended by signal {code - 128}" if code > 128 else f"exit status {code}, without any output")
    return "\n".join(lines)[-LETTERS:]


def _signal(running: Sequence[Job], number: int) -> None:
    """Sends a signal to every command that runs, and to the processes that it started."""
    for job in running:
        if job.popen is not None and job.popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.popen.pid, number)
