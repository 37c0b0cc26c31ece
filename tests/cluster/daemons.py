"""A SLURM cluster of two virtual nodes on loopback: starts munged, slurmctld and two slurmd, and ends them again.

    python -m tests.cluster.daemons FOLDER

The daemons write only below FOLDER, whose path must be short, since it holds a socket. The command prints "ready" when
both nodes accept jobs, and waits until its standard input is closed, which also happens if its parent is killed. Then
it ends the daemons, and all processes of jobs that are left.
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

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}  # their packages
SYSTEM = "/usr/sbin:/usr/local/sbin:/sbin"  # where daemons are, which PATH of a user may lack
NODES = 2
CPUS = 4  # that each node says it has
# Real preemption: a job of "high" takes a node from one of "low", which SLURM then sends SIGTERM, and ends 60 s later.
# A requeued job waits until its old credential has expired, here 5 s in place of two minutes.
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
    """What is to be installed for a cluster, as a sentence; "" where all is there."""
    packages = [package for program, package in PROGRAMS.items() if find(program) is None]
    return f"SLURM's {', '.join(packages)} must be installed: apt-get install {' '.join(packages)}" if packages else ""


def find(program: str) -> str | None:
    """The path of a daemon or a command."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM}")


def variables(folder: pathlib.Path) -> dict[str, str]:
    """The environment in which SLURM's commands mean this cluster, without what a job of another one had set."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return {**rest, "SLURM_CONF": str(folder / "slurm.conf")}


def start(folder: pathlib.Path) -> list[subprocess.Popen]:
    """Starts the daemons; they write to NAME.out and the logs of `CONFIG`."""
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
    """Waits until both nodes take jobs; returns "" then, or what went wrong."""
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
    """Ends the daemons and all that they started, which SLURM_CONF in its environment tells from others' processes."""
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
    """The processes of a cluster, this one's command apart: daemons, slurmstepd, and those of jobs."""
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
