"""Starts a SLURM cluster of two virtual nodes on the loopback address, and ends it again.

    python -m tests.cluster.daemons FOLDER

The daemons are munged, slurmctld and two slurmd. They write only below FOLDER, whose path must be short, since FOLDER
holds a socket. The command prints "ready" when both nodes accept jobs, and waits until its standard input is closed,
which also happens if its parent is killed. Then it ends the daemons and all remaining processes of jobs.
"""

import contextlib
import getpass
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}  # to packages
SYSTEM = "/usr/sbin:/usr/local/sbin:/sbin"  # the folders of daemons, which a user's PATH may lack
NODES = 2
CPUS = 4  # the number of processors that each node declares
# Jobs are really preempted: a job in "high" takes the node of a job in "low". SLURM sends that job SIGTERM, and ends it
# 60 s later. A requeued job waits until its old credential expires, here for 5 s instead of two minutes.
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str:
    """A sentence that names the packages to install for a cluster; "" if none is missing."""
    packages = [package for program, package in PROGRAMS.items() if find(program) is None]
    return f"SLURM's {', '.join(packages)} must be installed: apt-get install {' '.join(packages)}" if packages else ""


def find(program: str) -> str | None:
    """The path of a daemon or a command; None if it is not installed."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")


def variables(folder: pathlib.Path) -> dict[str, str]:
    """The environment in which SLURM's commands reach this cluster, without the variables of another cluster's job."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return {**rest, "SLURM_CONF": str(folder / "slurm.conf")}


def start(folder: pathlib.Path) -> list[subprocess.Popen]:
    """Starts the daemons, which write to NAME.out and to the logs named in `CONFIG`; returns their processes."""
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    host = socket.gethostname().partition(".")[0]
    port, *ports = _free_ports(NODES + 1)
    nodes = "\n".join(
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} State=UNKNOWN"
        for i, port in enumerate(ports)
    )
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, port=port, user=getpass.getuser(), nodes=nodes)
    )
    munged = [
        "munged",
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munge.log",
        f"--seed-file={folder}/munge.seed",
    ]
    commands = {
        "munged": munged,
        "slurmctld": ["slurmctld", "-D", "-c"],
        **{f"slurmd-n{i}": ["slurmd", "-D", "-N", f"n{i}"] for i in range(NODES)},
    }
    return [_start(folder / f"{name}.out", command, variables(folder)) for name, command in commands.items()]


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _start(output: pathlib.Path, command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    with output.open("wb") as out:
        return subprocess.Popen(
            [find(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def wait_until_ready(folder: pathlib.Path, daemons: list[subprocess.Popen], seconds: float = 60) -> str:
    """Waits until both nodes accept jobs; returns "", or a sentence that says what went wrong."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]
        if ended:
            return f"{', '.join(ended)} ended"
        listing = subprocess.run(
            [find("sinfo"), "--noheader", "--Node", "--partition=low", "--format=%t"],
            capture_output=True,
            text=True,
            env=variables(folder),
        )
        if listing.stdout.split() == ["idle"] * NODES:
            return ""
        time.sleep(0.2)
    return f"no {NODES} idle nodes after {seconds:g} s: {listing.stdout or listing.stderr}"


def stop(folder: pathlib.Path, daemons: list[subprocess.Popen]) -> None:
    """Ends the daemons and all processes that they started, which `left` recognises."""
    for daemon in daemons:
        daemon.kill()
        daemon.wait()
    while True:
        found = left(folder)
        if not found:
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def left(folder: pathlib.Path) -> list[int]:
    """The process ids of a cluster's daemons, job steps and jobs.

    SLURM_CONF in the environment of a process says to which cluster the process belongs.
    """
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
    return found


def main(folder: pathlib.Path) -> int:
    """Runs a cluster until standard input is closed; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, frame: sys.exit(128 + got))
    daemons = []
    try:
        daemons += start(folder)
        wrong = wait_until_ready(folder, daemons)
        print(wrong or "ready", flush=True)
        if not wrong:
            sys.stdin.read()
        return 1 if wrong else 0
    finally:
        stop(folder, daemons)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
