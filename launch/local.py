"""Runs one command as several processes of one `jax.distributed` job on this machine.

Each process receives the unchanged command and three environment variables, with which diffusion train joins the job:
DIFFUSION_COORDINATOR (127.0.0.1:port), DIFFUSION_PROCESS_COUNT and DIFFUSION_PROCESS_INDEX. Each line of output begins
with the index of its process. DIFFUSION_LAUNCHER contains the words before the command, which a run needs to print the
command that continues it. Signals are passed on (Ctrl-C, SIGTERM, SIGUSR1, SIGHUP). When a process fails, the launcher
ends the others. If the launcher is killed, all processes end.
"""

import argparse
import collections
import errno
import os
import queue
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import BinaryIO, NamedTuple, TextIO

from diffusion.launch import command as launcher
from diffusion.launch.command import exit_status, positive
from diffusion.launch.guard import Guard
from diffusion.package import commands

NOTICES = (signal.SIGUSR1, signal.SIGHUP)  # SLURM's warning and a lost terminal, which are only passed on
LONGEST = 60.0  # the most seconds to wait for the last lines, if the reader of our output is slow
LINES_KEPT = 30  # the last error lines of a failed process, which are printed again after the output of the others
EXAMPLE = """example:
  diffusion launch local --processes=2 -- \\
    diffusion train --config=digits --workdir=runs/two"""


class Output:
    """A pipe whose lines a thread passes on, each in a single write and after the index of its process."""

    def __init__(self, sink: TextIO, index: int, last_lines: collections.deque | None):
        """Opens the pipe, whose end `writes` is for the process, and starts the thread."""
        source, self.writes = os.pipe()
        self._mark = os.urandom(16).hex().encode() + b"\n"  # random, so that no process writes it
        self._passed_on = threading.Event()
        arguments = (open(source, "rb"), sink, index, last_lines)
        threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def finish(self) -> None:
        """Waits until all lines of an ended process are passed on.

        Children of the process may hold the pipe and write to it forever. So a mark is written, before which all lines
        of the process itself come.
        """
        if not self._passed_on.is_set() and select.select([], [self.writes], [], LONGEST)[1]:
            os.write(self.writes, self._mark)
            self._passed_on.wait(LONGEST)
        os.close(self.writes)

    def _pass_on(self, source: BinaryIO, sink: TextIO, index: int, last_lines: collections.deque | None) -> None:
        try:
            for line in source:
                text = line.removesuffix(self._mark).decode(errors="replace").rstrip("\n")
                if line != self._mark:
                    if last_lines is not None:
                        last_lines.append(text)
                    sink.write(f"[{index}] {text}\n")  # one write per line, so that lines do not mix
                    sink.flush()
                if line.endswith(self._mark):
                    self._passed_on.set()
        finally:
            self._passed_on.set()


class Process(NamedTuple):
    """A started process, its two outputs, and the last lines of its standard error."""

    popen: subprocess.Popen
    outputs: list[Output]
    errors: collections.deque


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "local",
        "Run COMMAND as several processes of one jax.distributed job on this machine. The word `python` "
        "or `diffusion` at its start means the interpreter that runs the launcher.",
        EXAMPLE,
        allow_abbrev=True,
    )
    parser.add_argument("--processes", type=positive, default=2, metavar="N", help="number of processes (default: 2)")
    parser.add_argument(
        "--devices-per-process",
        type=positive,
        metavar="D",
        help="simulate D CPU devices in each process (default: the devices that JAX finds)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="time between SIGTERM and SIGKILL when a process has failed (default: 10)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    options, command = launcher.parse(parser, argv)
    if not options.grace >= 0:
        parser.error(f"--grace={options.grace} must be a time in seconds, at least 0")
    return options, command


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def variables(index: int, count: int, port: int, devices: int | None, environment: dict[str, str]) -> dict[str, str]:
    """The variables that a process gets besides the environment of the launcher.

    Args:
        index: the index of the process.
        count: the number of processes.
        port: the port of the coordinator.
        devices: the number of simulated CPU devices in the process; None for the devices that JAX finds.
        environment: the environment of the launcher.
    """
    added = {
        "DIFFUSION_COORDINATOR": f"127.0.0.1:{port}",
        "DIFFUSION_PROCESS_COUNT": str(count),
        "DIFFUSION_PROCESS_INDEX": str(index),
        "PYTHONUNBUFFERED": "1",
    }
    if devices is not None:
        name = "--xla_force_host_platform_device_count"
        others = re.sub(rf"{name}=\S*", "", environment.get("XLA_FLAGS", ""))
        added["XLA_FLAGS"] = " ".join([*others.split(), f"{name}={devices}"])
        added["JAX_PLATFORMS"] = environment.get("JAX_PLATFORMS", "cpu")
    return added


def start(command: list[str], index: int, added: dict[str, str], guard: Guard) -> Process:
    """Starts a process in its own session; its output is passed on line by line after `[index]`."""
    errors = collections.deque(maxlen=LINES_KEPT)
    outputs = [Output(sys.stdout, index, None), Output(sys.stderr, index, errors)]
    popen = subprocess.Popen(
        command,
        env=os.environ | added,
        stdin=subprocess.DEVNULL,
        stdout=outputs[0].writes,
        stderr=outputs[1].writes,
        start_new_session=True,  # so that Ctrl-C reaches it only through the launcher
        preexec_fn=guard.add_this,
    )
    return Process(popen, outputs, errors)


def signal_all(processes: list[Process], number: int) -> None:
    """Sends a signal to every process that still runs, and to its children."""
    for process in processes:
        if process.popen.poll() is None:
            try:
                os.killpg(process.popen.pid, number)
            except ProcessLookupError:
                pass  # it ended in between


def wait(processes: list[Process], signals: queue.SimpleQueue, grace: float, guard: Guard) -> int:
    """Waits for all processes; if one fails, it ends the others.

    Args:
        processes: the processes.
        signals: the signals that the launcher receives, which are passed on; the second one that is not in `NOTICES`
            kills the processes.
        grace: the seconds between SIGTERM and SIGKILL after a failure.
        guard: the guard, which forgets each ended process.

    Returns:
        The exit status of the process that failed first; 0 if none failed.
    """
    running = dict(enumerate(processes))
    failed = None
    kill_at = float("inf")
    requests = 0
    warned = False
    while running:
        try:
            number = signals.get(timeout=0.05)
            warned |= number in NOTICES
            requests += number not in NOTICES
            signal_all(processes, signal.SIGKILL if requests > 1 else number)
            warning = "; once more kills the processes" if requests else ""
            _say("killed the processes" if requests > 1 else f"passed on {signal.Signals(number).name}{warning}")
        except queue.Empty:
            pass
        ended = {i: process for i, process in running.items() if process.popen.poll() is not None}
        for i, process in ended.items():
            del running[i]
            guard.remove(process.popen.pid)
            if process.popen.returncode != 0 and failed is None:
                failed = i
                kill_at = time.monotonic() + grace
                if running and not requests and not warned:  # otherwise the processes are ending, and may be saving
                    _say(
                        f"process {i} failed with exit status {exit_status(process.popen.returncode)}; "
                        f"ending the other {len(running)}"
                    )
                    signal_all(processes, signal.SIGTERM)
        if running and time.monotonic() > kill_at:  # a process stuck in jax.distributed ignores SIGTERM
            _say(f"killed process {', '.join(map(str, running))}, still running {grace:g} s later")
            signal_all(processes, signal.SIGKILL)
            kill_at = float("inf")
    for process in processes:
        for output in process.outputs:
            output.finish()
    if failed is None:
        return 0
    if len(processes) > 1 and not requests and not warned and processes[failed].errors:
        _say(f"the last lines that process {failed}, the first to fail, wrote to standard error:")
        print("\n".join(f"[{failed}] {line}" for line in processes[failed].errors), file=sys.stderr, flush=True)
    return exit_status(processes[failed].popen.returncode)


def is_present(program: str) -> bool:
    """Whether a program exists, at its path or in a folder of PATH.

    The error of a failed start does not say so: it is EACCES also if a folder of PATH cannot be entered.
    """
    folders = [""] if os.sep in program else os.get_exec_path()
    return any(os.path.isfile(os.path.join(folder, program)) for folder in folders)


def _say(text: str) -> None:
    print(f"diffusion launch local: {text}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    command = commands.as_process(command)
    port = free_port()
    added = [
        variables(i, options.processes, port, options.devices_per_process, dict(os.environ))
        for i in range(options.processes)
    ]
    if options.dry_run:
        for i, names in enumerate(added):
            words = [f"{name}={shlex.quote(value)}" for name, value in names.items()]
            print(f"[{i}]", " ".join([*words, shlex.join(command)]))
        return 0
    signals = queue.SimpleQueue()
    notices = [number for number in NOTICES if signal.getsignal(number) != signal.SIG_IGN]  # SIGHUP under nohup
    for number in (signal.SIGINT, signal.SIGTERM, *notices):
        signal.signal(number, lambda received, frame: signals.put(received))
    launcher = {"DIFFUSION_LAUNCHER": commands.line("launch local", *argv[: argv.index("--")], "--")}
    processes = []
    guard = Guard()
    try:
        for i, names in enumerate(added):
            processes.append(start(command, i, names | launcher, guard))
        return wait(processes, signals, options.grace, guard)
    except OSError as error:
        present = is_present(command[0])
        reason = error.strerror if present else os.strerror(errno.ENOENT)
        _say(f"cannot run {command[0]!r}: {reason}. Write the command after --, e.g. diffusion train ...")
        return 126 if present else 127
    finally:
        signal_all(processes, signal.SIGKILL)  # no process outlives the launcher
        guard.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
