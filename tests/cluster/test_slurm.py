"""The SLURM launchers on a real SLURM cluster of two virtual nodes: make test-cluster.

Most jobs are small bash scripts with the exit statuses of a run; one job really trains.
"""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from diffusion.launch import slurm, slurm_array
from tests.cluster import daemons
from tests.reliability.driver import ROOT, train_command, until
from tests.reliability.test_kills import values

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(bool(daemons.missing()), reason=daemons.missing()),
]
# A stand-in for a sweep's run: it notes its turn, ends 1 s after SIGTERM as a saved run does, and is done when the file
# end.TASK exists.
RUN = """
turn=${SLURM_RESTART_COUNT:-0}
echo "$turn $SLURM_JOB_ID $SLURM_ARRAY_JOB_ID $SLURMD_NODENAME" >> "$1/turns.$SLURM_ARRAY_TASK_ID"
trap 'sleep 1; exit 143' TERM
until [ -e "$1/end.$SLURM_ARRAY_TASK_ID" ]; do sleep 0.1; done
"""


class Cluster:
    """Runs SLURM's commands on the cluster in a folder."""

    def __init__(self, folder: pathlib.Path):
        self.variables = daemons.variables(folder)

    def run(self, *words: str, text: str = "") -> str:
        """The output of a command, which must succeed."""
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=60, env=self.variables, cwd=ROOT
        )
        assert done.returncode == 0, done
        return done.stdout

    def submit(self, launcher, *argv: str) -> int:
        """Submits the script that a launcher writes; returns the job's id."""
        return int(self.run("sbatch", "--parsable", text=launcher.script(*launcher.parse(list(argv)))))

    def state(self, job: int | str) -> str:
        """The state and exit status of a job or a task, e.g. "COMPLETED 0:0"."""
        shown = self.run("scontrol", "--oneliner", "show", "job", str(job))
        return f"{re.search('JobState=([A-Z_]+)', shown)[1]} {re.search('ExitCode=([0-9:]+)', shown)[1]}"

    def until(self, reached, what: str, seconds: float = 60) -> None:
        """Waits until `reached()` holds; after `seconds` the test fails and names `what` was awaited."""
        until = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < until, f"not within {seconds} s: {what}\n{self.run('scontrol', 'show', 'jobs')}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm") as name:  # a short path, since it holds munged's socket
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.daemons", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            said = running.stdout.readline().strip()
            assert said == "ready", said + "\n" + "\n".join(p.read_text()[-2000:] for p in folder.glob("*.out"))
            yield Cluster(folder)
        finally:
            running.stdin.close()
            running.wait()
    assert not daemons.left(folder)


@pytest.fixture(autouse=True)
def no_job_left(cluster):
    yield
    cluster.run("scancel", "--partition=low")
    cluster.run("scancel", "--partition=high")
    cluster.until(lambda: cluster.run("squeue", "--noheader") == "", "all jobs ended")


def turns(folder: pathlib.Path, task: int) -> list[list[str]]:
    """[number, job's id, array's id, node] of each turn of a task, as strings."""
    file = folder / f"turns.{task}"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_two_nodes_are_one_job(cluster, tmp_path):
    show = 'echo "$SLURMD_NODENAME $DIFFUSION_COORDINATOR $DIFFUSION_PROCESS_COUNT $DIFFUSION_PROCESS_INDEX $1"'
    job = cluster.submit(
        slurm, "--nodes=2", "--tasks-per-node=2", f"--log={tmp_path}/%j.out", "--", "bash", "-c", show, "x", "a 'b' $c"
    )
    cluster.until(lambda: cluster.state(job) == "COMPLETED 0:0", "job is done")
    lines = sorted(line.partition(": ")[2] for line in (tmp_path / f"{job}.out").read_text().splitlines())
    port = 20000 + job % 10000
    assert lines == [f"n{rank // 2} n0:{port} 4 {rank} a 'b' $c" for rank in range(4)]


def test_two_nodes_train_and_go_on_after_sigterm(cluster, tmp_path):
    """The stopped run ends with the bits of an undisturbed run. The coordinator's host is replaced by this machine."""
    here = 'export DIFFUSION_COORDINATOR=127.0.0.1:${DIFFUSION_COORDINATOR##*:}; exec "$@"'
    variables = ["env", "JAX_PLATFORMS=cpu", f"JAX_COMPILATION_CACHE_DIR={tmp_path}/cache"]
    for name in ("disturbed", "straight"):
        folder = tmp_path / name
        changes = {"train.steps": 400, "checkpoint.every": 400}
        words = [*variables, sys.executable, "-m", *train_command(folder, changes)]
        job = cluster.submit(slurm, "--nodes=2", f"--log={folder}.out", "--", "bash", "-c", here, "x", *words)
        log = pathlib.Path(f"{folder}.out")
        if name == "disturbed":
            cluster.until(lambda log=log: log.exists() and "first step" in log.read_text(), "it trains", 120)
            cluster.run("scancel", "--signal=TERM", str(job))  # to the tasks, as at the time limit
        cluster.until(lambda job=job: cluster.state(job) == "COMPLETED 0:0", "job is done", 240)
        assert ("going on with" in log.read_text()) == (name == "disturbed"), log.read_text()
    assert values(tmp_path / "disturbed", 400) == values(tmp_path / "straight", 400)


def test_a_failure_on_one_node_ends_the_job_and_is_final(cluster, tmp_path):
    # The other process ignores SIGTERM, as one that is stuck in JAX does.
    fail = 'if [ "$DIFFUSION_PROCESS_INDEX" = 1 ]; then exit 3; fi; trap "" TERM; sleep 100'
    job = cluster.submit(slurm, "--nodes=2", f"--log={tmp_path}/log", "--", "bash", "-c", fail)
    cluster.until(lambda: cluster.state(job).startswith("FAILED"), "job failed")
    assert "requeue" not in (tmp_path / "log").read_text()


def test_the_time_limit_saves_and_the_run_goes_on(cluster, tmp_path):
    """SLURM sends SIGTERM --grace seconds before the time limit, or up to a minute earlier."""
    run = (
        'echo "turn $SLURM_RESTART_COUNT"; [ "$SLURM_RESTART_COUNT" ] && exit 0; trap "sleep 1; exit 143" TERM; '
        "while true; do sleep 0.1; done"
    )
    job = cluster.submit(slurm, "--nodes=2", "--time=1", "--grace=55", f"--log={tmp_path}/log", "--", "bash", "-c", run)
    cluster.until(lambda: cluster.state(job) == "COMPLETED 0:0", "job is done", 120)
    log = (tmp_path / "log").read_text()
    assert f"saved; back into the queue: scontrol requeue {job}\n" in log
    assert log.count("turn \n") == 2 and log.count("turn 1\n") == 2


@pytest.mark.parametrize("others", ["running", "done"])
def test_the_last_task_of_an_array_is_preempted_and_goes_on_alone(cluster, tmp_path, others):
    """The last task has the array's id as its job id, so a command that names this id would act on all tasks."""
    job = cluster.submit(
        slurm_array,
        "--runs=2",
        "--partition=low",
        f"--cpus-per-task={daemons.CPUS}",
        "--time=10",
        f"--log={tmp_path}/%a.out",
        "--",
        "bash",
        "-c",
        RUN,
        "run",
        str(tmp_path),
    )
    cluster.until(lambda: turns(tmp_path, 0) and turns(tmp_path, 1), "both tasks run")
    ((_, own, array, node),) = turns(tmp_path, 1)
    assert own == array == str(job)
    if others == "done":
        (tmp_path / "end.0").touch()
        cluster.until(lambda: cluster.state(f"{job}_0") == "COMPLETED 0:0", "task 0 is done")
    urgent = cluster.run(
        "sbatch",
        "--parsable",
        "--partition=high",
        f"--nodelist={node}",
        "--exclusive",
        "--output=/dev/null",
        text="#!/bin/bash\ntrue\n",
    ).strip()
    cluster.until(lambda: len(turns(tmp_path, 1)) == 2, "the last task has a second turn", 120)
    assert cluster.state(urgent) == "COMPLETED 0:0"
    assert f"saved; back into the queue: scontrol requeue {job}_1\n" in (tmp_path / "1.out").read_text()
    for task in range(2):
        (tmp_path / f"end.{task}").touch()
    for task in range(2):
        cluster.until(lambda task=task: cluster.state(f"{job}_{task}") == "COMPLETED 0:0", f"task {task} is done")
    assert [turn for turn, *_ in turns(tmp_path, 0)] == ["0"]
    assert [turn for turn, *_ in turns(tmp_path, 1)] == ["0", "1"]


def test_a_cancelled_task_stays_cancelled(cluster, tmp_path):
    job = cluster.submit(
        slurm_array, "--runs=2", "--time=10", f"--log={tmp_path}/%a.out", "--", "bash", "-c", RUN, "run", str(tmp_path)
    )
    cluster.until(lambda: turns(tmp_path, 0) and turns(tmp_path, 1), "both tasks run")
    cluster.run("scancel", f"{job}_1")
    cluster.until(lambda: cluster.state(f"{job}_1").startswith("CANCELLED"), "task 1 is cancelled")
    (tmp_path / "end.0").touch()
    cluster.until(lambda: cluster.state(f"{job}_0") == "COMPLETED 0:0", "task 0 is done")
    assert len(turns(tmp_path, 1)) == 1 and "requeue" not in (tmp_path / "1.out").read_text()


def test_no_daemon_and_no_job_outlives_the_tests_that_started_them(tmp_path):
    """The process at the other end of the pipe may be killed."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        command = f"sleep 600 | {shlex.quote(sys.executable)} -m tests.cluster.daemons {name} & wait"
        holder = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert holder.stdout.readline() == "ready\n"
        Cluster(folder).run("sbatch", "--output=/dev/null", "--wrap=srun sleep 600")
        until(lambda: len(daemons.left(folder)) >= 9)  # 4 daemons, 3 of a batch job, 2 of its step
        (sleep,) = subprocess.run(
            ["pgrep", "--parent", str(holder.pid), "sleep"], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(sleep), signal.SIGKILL)
        until(lambda: not daemons.left(folder), 30)
        holder.wait(30)


def test_a_job_whose_log_lies_in_a_new_folder_has_its_log(cluster, tmp_path, monkeypatch):
    """SLURM does not make the log's folder: without the launcher the job fails, and leaves no message."""
    argv = ["--log", f"{tmp_path}/new/folder/%j.out", "--", "echo", "here"]
    job = cluster.submit(slurm, *argv)
    cluster.until(lambda: cluster.state(job).startswith("FAILED"), "job failed")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(slurm.launcher, "hand_over", lambda *arguments: 0)  # the folder is made, and nothing submitted
    assert slurm.main(argv) == 0
    job = cluster.submit(slurm, *argv)
    cluster.until(lambda: cluster.state(job) == "COMPLETED 0:0", "job is done")
    assert (tmp_path / f"new/folder/{job}.out").read_text() == "here\n"
