"""The local launcher: what each process gets, what is shown, and that none outlives a failure."""

import collections
import io
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import textwrap
import time
import types

import pytest

from diffusion.launch import guard as guard_module, local
from diffusion.launch.guard import Guard
from tests import rights

ROOT = pathlib.Path(__file__).parents[2]


def command(tmp_path, script: str, *options: str) -> list[str]:
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    return [sys.executable, "-m", "launch.local", *options, "--", "python", str(file)]


def launch(tmp_path, script: str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(tmp_path, script, *options),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def start(tmp_path, script: str, *options: str) -> subprocess.Popen:
    """Starts the launcher as a terminal does; under `nohup make test` it would inherit that SIGHUP is ignored."""
    return subprocess.Popen(
        command(tmp_path, script, *options),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def exists(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.startswith("Z") and state != ""


@pytest.mark.extended
def test_each_process_is_told_its_place(tmp_path):
    done = launch(
        tmp_path,
        """
        import json, os
        print(json.dumps({k: os.environ.get(k) for k in
              ("DIFFUSION_COORDINATOR", "DIFFUSION_PROCESS_COUNT", "DIFFUSION_PROCESS_INDEX", "XLA_FLAGS")}))
        """,
        "--processes=3",
        "--devices-per-process=4",
        XLA_FLAGS="--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=8",
    )
    assert done.returncode == 0, done.stderr
    message = [json.loads(re.sub(r"^\[\d\] ", "", line)) for line in sorted(done.stdout.splitlines())]
    assert [line[:3] for line in sorted(done.stdout.splitlines())] == ["[0]", "[1]", "[2]"]
    assert [t["DIFFUSION_PROCESS_INDEX"] for t in message] == ["0", "1", "2"]
    assert {t["DIFFUSION_PROCESS_COUNT"] for t in message} == {"3"}
    assert len({t["DIFFUSION_COORDINATOR"] for t in message}) == 1
    assert re.fullmatch(r"127\.0\.0\.1:\d+", message[0]["DIFFUSION_COORDINATOR"])
    assert {t["XLA_FLAGS"] for t in message} == {
        "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=4"
    }


@pytest.mark.extended
def test_a_process_is_told_how_it_was_launched(tmp_path):
    done = launch(tmp_path, "import os; print(os.environ['DIFFUSION_LAUNCHER'])", "--processes=1", "--grace=7")
    assert done.stdout.strip() == "[0] diffusion launch local --processes=1 --grace=7 --"


@pytest.mark.extended
def test_output_keeps_its_stream_and_its_lines(tmp_path):
    done = launch(
        tmp_path,
        """
        import os, sys
        i = os.environ["DIFFUSION_PROCESS_INDEX"]
        for n in range(200):
            print(f"line {n} of {i}")
        print(f"warning of {i}", file=sys.stderr)
        """,
    )
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted(f"[{i}] line {n} of {i}" for i in "01" for n in range(200))
    assert sorted(done.stderr.splitlines()) == ["[0] warning of 0", "[1] warning of 1"]


@pytest.mark.extended
def test_a_failure_ends_the_others_and_is_shown(tmp_path):
    began = time.monotonic()
    done = launch(
        tmp_path,
        """
        import os, time
        if os.environ["DIFFUSION_PROCESS_INDEX"] == "1":
            raise SystemExit("the real reason") if not os.environ.get("STATUS") else SystemExit(7)
        print("pid", os.getpid(), flush=True)
        time.sleep(600)
        """,
        STATUS="7",
    )
    assert done.returncode == 7
    assert time.monotonic() - began < 300
    assert "process 1 failed with exit status 7" in done.stderr
    for line in done.stdout.splitlines():
        assert not exists(int(line.split()[-1]))


@pytest.mark.slow
def test_the_error_of_the_first_to_fail_comes_last(tmp_path):
    done = launch(
        tmp_path,
        """
        import os, signal, sys, time
        ready = sys.argv[0] + ".ready"
        if os.environ["DIFFUSION_PROCESS_INDEX"] == "0":
            while not os.path.exists(ready):
                time.sleep(0.01)
            raise ValueError("the real reason")
        def end(*_):
            print("\\n".join(["a consequence"] * 100), file=sys.stderr)
            sys.exit(3)
        signal.signal(signal.SIGTERM, end)
        open(ready, "w").close()
        time.sleep(600)
        """,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "[0] ValueError: the real reason"
    assert done.stderr.count("[1] a consequence") == 100


@pytest.mark.extended
def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    began = time.monotonic()
    done = launch(
        tmp_path,
        """
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready = sys.argv[0] + ".ready"
        if os.environ["DIFFUSION_PROCESS_INDEX"] == "0":
            while not os.path.exists(ready):
                time.sleep(0.01)
            sys.exit(5)
        print(os.getpid(), flush=True)
        open(ready, "w").close()
        time.sleep(600)
        """,
        "--grace=0.5",
    )
    assert done.returncode == 5
    assert time.monotonic() - began < 300
    assert "killed process 1, still running" in done.stderr
    assert not exists(int(done.stdout.split()[-1]))


@pytest.mark.extended
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_signals_are_passed_on_and_processes_may_finish(tmp_path, number):
    running = start(
        tmp_path,
        """
        import signal, sys, time
        def save(got, frame):
            time.sleep(0.3)  # longer than the launcher's own reaction
            print("saved on", got, flush=True)
            sys.exit(0)
        for n in (signal.SIGINT, signal.SIGTERM):
            signal.signal(n, save)
        print("ready", flush=True)
        time.sleep(600)
        """,
    )
    assert sorted([running.stdout.readline(), running.stdout.readline()]) == ["[0] ready\n", "[1] ready\n"]
    running.send_signal(number)
    output, _ = running.communicate(timeout=300)
    assert sorted(output.splitlines()) == [f"[0] saved on {number:d}", f"[1] saved on {number:d}"]
    assert running.returncode == 0


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_warning_is_passed_on_however_often_it_comes(tmp_path, number):
    running = start(
        tmp_path,
        f"""
        import signal, time
        for n in ({number:d}, signal.SIGTERM):
            signal.signal(n, lambda got, frame: print("got", got, flush=True))
        print("ready", flush=True)
        while True:
            time.sleep(1)
        """,
    )
    lines = lambda: {running.stdout.readline(), running.stdout.readline()}
    assert lines() == {"[0] ready\n", "[1] ready\n"}
    for sent in (number, number, signal.SIGTERM):
        running.send_signal(sent)
        assert lines() == {f"[0] got {sent:d}\n", f"[1] got {sent:d}\n"}
    running.send_signal(signal.SIGTERM)  # the second that is no warning
    assert running.wait(timeout=300) == 128 + signal.SIGKILL
    running.communicate()


@pytest.mark.extended
def test_a_second_signal_kills(tmp_path):
    running = start(
        tmp_path,
        """
        import signal, time
        signal.signal(signal.SIGINT, lambda *_: print("no", flush=True))
        print("ready", flush=True)
        while True:
            time.sleep(1)
        """,
    )
    assert {running.stdout.readline(), running.stdout.readline()} == {"[0] ready\n", "[1] ready\n"}
    running.send_signal(signal.SIGINT)
    assert {running.stdout.readline(), running.stdout.readline()} == {"[0] no\n", "[1] no\n"}
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=300) == 128 + signal.SIGKILL
    running.communicate()


def ended(pids, seconds=300) -> bool:
    until = time.monotonic() + seconds
    while any(exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(exists(pid) for pid in pids)


@pytest.mark.extended
def test_none_outlives_a_launcher_that_is_killed(tmp_path):
    """Nor do their children, whom no parent-death signal of theirs would reach."""
    running = start(
        tmp_path,
        """
        import os, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(os.getpid(), child.pid, flush=True)
        child.wait()
        """,
    )
    pids = [int(word) for _ in range(2) for word in running.stdout.readline().split()[1:]]
    assert len(pids) == 4 and all(exists(pid) for pid in pids)
    running.kill()
    assert ended(pids)
    running.communicate()


def test_a_launcher_killed_while_it_starts_a_process_leaves_none(tmp_path):
    """Here in the moment between the child's start and its command; the child itself adds itself to the guard."""
    program = f"""
        import os, signal, subprocess, sys
        sys.path.insert(0, {str(ROOT)!r})
        from diffusion.launch.guard import Guard
        guard, launcher = Guard(), os.getpid()
        def last():
            os.kill(launcher, signal.SIGKILL)
            guard.add_this()
        subprocess.Popen([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
                         start_new_session=True, preexec_fn=last)
        """
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(program))
    running = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert ended([int(pid) for pid in running.communicate(timeout=300)[0].split()])  # the end of its output: all ended
    assert running.returncode == -signal.SIGKILL


@pytest.mark.extended
def test_the_guard_spares_a_group_that_ended(tmp_path):
    """Its number may be another's by then."""
    guard = Guard()
    spared, left = (
        subprocess.Popen(["sleep", "60"], start_new_session=True, preexec_fn=guard.add_this) for _ in range(2)
    )
    guard.remove(spared.pid)
    guard.close()
    assert left.wait(10) == -signal.SIGKILL and spared.poll() is None
    spared.kill()
    spared.wait()


@pytest.mark.extended
def test_a_missing_program_is_named(tmp_path, capfd):
    assert local.main(["--", "no-such-program-of-ours", "x"]) == 127
    assert "no-such-program-of-ours" in capfd.readouterr().err


@pytest.mark.extended
def test_a_program_is_missing_also_where_a_folder_of_path_may_not_be_entered(tmp_path, capfd, monkeypatch):
    """The error of the start is then EACCES, as of a file that may not be executed, which stays 126."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (tmp_path / "not-a-program").touch()
    monkeypatch.setenv("PATH", f"{closed}:{os.environ['PATH']}")
    with rights.unreadable(closed):
        assert local.main(["--", "no-such-program-of-ours"]) == 127
        assert "No such file" in capfd.readouterr().err
        assert local.main(["--", str(tmp_path / "not-a-program")]) == 126
        assert "Permission denied" in capfd.readouterr().err


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "there is no command"),
        (["--processes=2", "--"], "there is no command"),
        (["--processes=0", "--", "true"], "--processes: '0'"),
        (["--devices-per-process=0", "--", "true"], "1 or more"),
        (["--grace=-1", "--", "true"], "--grace"),
        (["--grace=nan", "--", "true"], "--grace=nan"),
        (["--process=2", "--wrong", "--", "true"], "--wrong"),
        (["python", "-m", "experiments.train"], "python"),
    ],
)
def test_bad_arguments(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        local.parse(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_the_commands_own_options_stay_its_own():
    options, command = local.parse(["--processes=3", "--", "python", "x.py", "--processes=9", "--", "--dry-run"])
    assert options.processes == 3 and not options.dry_run
    assert command == ["python", "x.py", "--processes=9", "--", "--dry-run"]


def test_dry_run_prints_what_would_run(capsys):
    assert local.main(["--dry-run", "--processes=2", "--", "prog", "a b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("prog 'a b'") for line in lines)
    assert "DIFFUSION_PROCESS_INDEX=1" in lines[1]


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        local.parse(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("--workdir=runs/two")


JOIN = """
import os
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
index = int(os.environ["DIFFUSION_PROCESS_INDEX"])
jax.distributed.initialize(os.environ["DIFFUSION_COORDINATOR"], int(os.environ["DIFFUSION_PROCESS_COUNT"]), index)
"""


@pytest.mark.extended
def test_two_real_processes_of_jax_distributed(tmp_path):
    done = launch(
        tmp_path,
        JOIN
        + """
gathered = multihost_utils.process_allgather(jnp.asarray([10.0 + index]))
line = f"got {jax.process_count()} {jax.local_device_count()} {jax.device_count()} {gathered.ravel().tolist()}"
os.write(1, f"\\n{line}\\n".encode())  # at once and as a line: Gloo writes to standard output too
""",
        "--processes=2",
        "--devices-per-process=2",
        JAX_PLATFORMS="cpu",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "got" in line) == [
        "[0] got 2 2 4 [10.0, 11.0]",
        "[1] got 2 2 4 [10.0, 11.0]",
    ]


@pytest.mark.extended
def test_a_job_whose_member_fails_does_not_hang(tmp_path):
    began = time.monotonic()
    done = launch(
        tmp_path,
        JOIN
        + """
multihost_utils.process_allgather(jnp.asarray([1.0]))
if index == 1:
    print("the real reason", file=__import__("sys").stderr)
    os._exit(9)
multihost_utils.process_allgather(jnp.asarray([2.0]))
""",
        "--processes=2",
        "--grace=1",
        JAX_PLATFORMS="cpu",
    )
    assert done.returncode == 9
    assert "the real reason" in done.stderr.splitlines()[-1] or "process 1, the first to fail" in done.stderr
    assert time.monotonic() - began < 30


class Ended:
    """A process that has ended with a status."""

    pid = 0

    def __init__(self, returncode: int):
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


class Guards:
    """A guard that notes which groups it is told have ended."""

    def __init__(self):
        self.ended = []

    def remove(self, group: int) -> None:
        self.ended.append(group)

    def close(self) -> None:
        pass


class Running:
    """A process that ends at once by itself, or by the signals of `ends`; after some seconds in any case."""

    def __init__(self, pid: int, ends=(), status: int | None = None):
        self.pid, self.returncode, self.got = pid, status, []
        self._ends, self._left = ends, 60

    def poll(self) -> int | None:
        self._left -= 1
        if self.returncode is None and (set(self.got) & set(self._ends) or not self._left):
            self.returncode = -self.got[-1] if self._left else 0
        return self.returncode


@pytest.fixture
def delivered(monkeypatch):
    """Delivers signals to stand-ins for processes, by their pid."""
    by_pid = {}
    monkeypatch.setattr(os, "killpg", lambda pid, number: by_pid[pid].got.append(number))
    return by_pid


def waited(delivered, running, received=(), grace=10.0, guard=None, outputs=()):
    """The status of `wait` with stand-ins for processes, and the signals that each of them received."""
    delivered |= {process.pid: process for process in running}
    signals = queue.SimpleQueue()
    for number in received:
        signals.put(number)
    processes = [local.Process(process, list(outputs), collections.deque()) for process in running]
    return local.wait(processes, signals, grace, guard or Guards()), [process.got for process in running]


KILL, TERM, HUP = signal.SIGKILL, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize("received, passed_on", [
    ((TERM, TERM), [TERM, KILL]),
    ((signal.SIGINT, TERM), [signal.SIGINT, KILL]),
    ((HUP, HUP, signal.SIGUSR1, TERM, TERM), [HUP, HUP, signal.SIGUSR1, TERM, KILL]),
])  # fmt: skip
def test_the_second_signal_that_is_no_warning_kills(delivered, received, passed_on):
    status, got = waited(delivered, [Running(5, ends=[KILL])], received)
    assert got == [passed_on] and status == 128 + KILL


def test_what_outlasts_the_grace_after_a_failure_is_killed(delivered):
    """The first has failed; the second ignores SIGTERM, and its end changes nothing of the status."""
    status, got = waited(delivered, [Running(5, status=3), Running(6, ends=[KILL])], grace=0.0)
    assert status == 3 and got == [[], [TERM, KILL]]


def test_a_group_that_ended_is_no_longer_guarded_and_its_output_is_awaited(delivered):
    outputs = [types.SimpleNamespace(finish=lambda: finished.append(1))] * 2
    guard, finished = Guards(), []
    status, _ = waited(delivered, [Running(5, status=0), Running(6, status=0)], guard=guard, outputs=outputs)
    assert status == 0 and sorted(guard.ended) == [5, 6] and len(finished) == 4


@pytest.mark.extended
def test_what_a_process_wrote_is_passed_on_however_late(monkeypatch):
    """The launcher waited a second for its threads: beside other programs, the last lines were lost.

    A child of the process still holds the pipe, which has no end then.
    """

    class Slow(io.StringIO):
        def write(self, text):
            time.sleep(1.2)
            return super().write(text)

    script = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid); print('last', end='')"
    sink, guard = Slow(), Guard()
    monkeypatch.setattr(sys, "stdout", sink)
    process = local.start([sys.executable, "-c", script], 3, {}, guard)
    try:
        assert local.wait([process], queue.SimpleQueue(), 10.0, guard) == 0
        first, last = sink.getvalue().splitlines()
        assert last == "[3] last"
        os.kill(int(first.split()[1]), 0)  # the child still runs
    finally:
        os.killpg(process.popen.pid, signal.SIGKILL)
        guard.close()


@pytest.fixture
def stubbed(monkeypatch, delivered):
    """`main` with stand-ins for the guard and for two processes, and the signals that it handles."""
    handled = []
    monkeypatch.setattr(local, "Guard", Guards)
    monkeypatch.setattr(signal, "signal", lambda number, handler: handled.append(number))
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if number == HUP else signal.SIG_DFL)
    delivered |= {pid: Running(pid, ends=[KILL]) for pid in (5, 6)}
    made = iter(delivered.values())
    monkeypatch.setattr(local, "start", lambda *_: local.Process(next(made), [], collections.deque()))
    return handled


def test_a_lost_terminal_that_is_ignored_stays_ignored_and_none_outlives_the_launcher(stubbed, delivered, monkeypatch):
    """Under nohup SIGHUP is ignored before the launcher starts."""
    monkeypatch.setattr(local, "wait", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        local.main(["--processes=2", "--", "true"])
    assert sorted(stubbed) == sorted([signal.SIGINT, TERM, signal.SIGUSR1])
    assert [process.got for process in delivered.values()] == [[KILL], [KILL]]


@pytest.mark.parametrize("name, status", [("no-such-program-of-ours", 127), ("a-file", 126)])
def test_the_status_tells_a_missing_program_from_a_file_that_cannot_run(stubbed, tmp_path, monkeypatch, name, status):
    """As a shell has them."""
    (tmp_path / "a-file").touch()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local, "start", fail)
    assert local.main(["--", str(tmp_path / name)]) == status


def test_simulated_devices_replace_those_of_the_caller_beside_its_other_flags():
    flags = "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=8"
    added = local.variables(1, 2, 9000, 4, {"XLA_FLAGS": flags})
    assert added["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=4"
    assert (added["DIFFUSION_PROCESS_INDEX"], added["DIFFUSION_PROCESS_COUNT"]) == ("1", "2")
    assert "XLA_FLAGS" not in local.variables(1, 2, 9000, None, {"XLA_FLAGS": flags})
    # Simulated devices are those of the CPU, unless a platform is chosen already.
    assert added["JAX_PLATFORMS"] == "cpu"
    assert local.variables(1, 2, 9000, 4, {"JAX_PLATFORMS": "cuda,cpu"})["JAX_PLATFORMS"] == "cuda,cpu"
    assert "JAX_PLATFORMS" not in local.variables(1, 2, 9000, None, {})


def test_the_guard_kills_the_whole_groups_that_are_left(monkeypatch):
    """A group that has ended is spared: its number may be another's by then."""
    killed = []
    monkeypatch.setattr(sys, "stdin", iter(["+11\n", "+12\n", "-11\n", "+13\n"]))
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append((group, number)))
    guard_module.main()
    assert sorted(killed) == [(12, KILL), (13, KILL)]


@pytest.mark.parametrize(
    "statuses, lines, received, shown",
    [
        ([0, 0], [["a"], ["b"]], [], None),
        ([5, 0], [["a", "b"], ["c"]], [], (0, ["a", "b"])),
        ([0, -9], [["a"], ["c"]], [], (1, ["c"])),
        ([4, 5], [["a"], ["c"]], [], (0, ["a"])),
        ([5], [["a"]], [], None),  # alone it wrote last anyway
        ([5, 0], [[], ["c"]], [], None),
        ([5, 0], [["a"], []], [signal.SIGTERM], None),  # who asked for the end knows why
        ([5, 0], [["a"], []], [signal.SIGUSR1], None),
    ],
)
def test_the_last_lines_are_those_of_the_first_to_fail_unless_its_end_was_asked_for(
    statuses, lines, received, shown, capsys
):
    processes = [local.Process(Ended(status), [], collections.deque(own)) for status, own in zip(statuses, lines)]
    signals = queue.SimpleQueue()
    for number in received:
        signals.put(number)
    first = next((status for status in statuses if status), 0)
    assert local.wait(processes, signals, 10.0, Guards()) == (128 - first if first < 0 else first)
    said = capsys.readouterr().err.splitlines()
    heading = [i for i, line in enumerate(said) if "the first to fail, wrote" in line]
    if shown is None:
        assert not heading
    else:
        index, own = shown
        assert f"process {index}, the first to fail" in said[heading[0]]
        assert said[heading[0] + 1 :] == [f"[{index}] {line}" for line in own]


def test_a_group_that_was_added_ends_with_the_guard_whose_session_is_its_own(monkeypatch):
    """In its own session no Ctrl-C of the terminal reaches it, and it sees its launcher end."""
    guard = Guard()
    assert os.getsid(guard._guard.pid) == guard._guard.pid != os.getsid(0)
    left = subprocess.Popen(["sleep", "60"], start_new_session=True)
    with monkeypatch.context() as as_the_child:
        as_the_child.setattr(os, "getpid", lambda: left.pid)
        guard.add_this()
    guard.close()
    assert left.wait(10) == -signal.SIGKILL
