"""Runs commands in forked processes that can end themselves by SIGKILL at a named point, for the tests of this folder.

`Driver` starts a server that has imported the libraries but has not touched a device. The server forks for every
command, so that a process starts in one second rather than four. The library has no code for this; points.py defines
the points.
"""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from tests import kept_programs

ROOT = pathlib.Path(__file__).parents[2]
HANGS = 1800.0  # seconds after which a command counts as hanging; beside a dozen busy processes it takes far less
TINY = {  # a network of a few thousand parameters, saved every other step
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "train.steps": 60,
    "train.batch_size": 8,
    "train.log_every": 3,
    "checkpoint.every": 2,
    "checkpoint.keep": 3,
    "objective.density.strata": 8,
    "optimizer.warmup": 4,
    "optimizer.decay": "constant",
    "ema.decay": 0.9,
    "data.threads": 1,
    "sample.steps": 1,
    "sample.number": 20,
    "sample.batch_size": 20,
    "evaluate.number": 20,
}


class Result(NamedTuple):
    """How a command ended.

    Attributes:
        status: the exit status; -9 for a process that SIGKILL ended.
        out: the text on standard output.
        err: the text on standard error, without the lines that say that the libraries are loading.
        points: the noted points, as (name, moment).
    """

    status: int
    out: str
    err: str
    points: list[tuple[str, str]]


class Driver:
    """Starts commands and waits for them; use it in a `with` block."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.started = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        cache = kept_programs.folder() or folder / "cache"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "tests.reliability.driver"]
        self.server = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=30)

    def _ask(self, **job):
        self.server.stdin.write(json.dumps(job) + "\n")
        return json.loads(self.server.stdout.readline())

    def start(
        self, *argv, kill: dict | None = None, record=False, env=None, cwd=ROOT, limit=None, rights=True, store=None
    ) -> tuple:
        """Starts `python -m argv...`; returns (process id, the path of its output files without their suffixes).

        Args:
            argv: the module and its arguments.
            kill: {"point": [name, when], "number": n, "seconds": s} ends the process s seconds after it passes the
                point for the n-th time. With "does": "wait" the process waits there for s seconds instead, and with
                "does": "clock" its clock jumps by s seconds.
            record: whether to note every point that the process passes.
            env: the environment variables to add.
            cwd: the folder to run in.
            limit: the size in bytes beyond which no file can grow, as on a full disk.
            rights: whether root keeps its right to read and write files whose mode forbids it.
            store: {"root": folder of its objects, ...}: the arguments of `object_stores.connect_to`.
        """
        self.started += 1
        stem = str(self.folder / f"command{self.started}")
        for name in ("out", "err", "points"):
            pathlib.Path(f"{stem}.{name}").touch()
        job = {"argv": list(map(str, argv)), "kill": kill, "record": record, "limit": limit, "rights": rights}
        return self._ask(**job, env=env or {}, cwd=str(cwd), stem=stem, store=store), stem

    def wait(self, started: tuple, timeout: float = HANGS) -> Result:
        """Waits for a started command; the test fails if the command takes longer than `timeout` seconds."""
        pid, stem = started
        status = self._ask(wait=pid, timeout=timeout)
        out, err, points = (pathlib.Path(f"{stem}.{name}").read_text() for name in ("out", "err", "points"))
        assert status is not None, f"still running after {timeout} s:\n{out}\n{err}"
        err = "".join(line for line in err.splitlines(True) if not line.endswith(": loading the libraries\n"))
        return Result(status, out, err, [tuple(json.loads(line)) for line in points.splitlines()])

    def run(self, *argv, **options) -> Result:
        """Runs a command to its end."""
        return self.wait(self.start(*argv, **options))

    def train(self, workdir: pathlib.Path, changes: dict | None = None, **options) -> Result:
        """Trains the digits at TINY sizes."""
        return self.run(*train_command(workdir, changes), **options)


def two_processes(port: int) -> list[dict[str, str]]:
    """The environments of two processes of one run on this machine."""
    names = ("DIFFUSION_COORDINATOR", "DIFFUSION_PROCESS_COUNT", "DIFFUSION_PROCESS_INDEX")
    return [dict(zip(names, (f"127.0.0.1:{port}", "2", str(index)))) for index in (0, 1)]


def until(condition, seconds: float = HANGS) -> None:
    """Waits until a condition holds; the test fails if it does not hold within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.02)


def train_command(workdir: pathlib.Path, changes: dict | None = None) -> list[str]:
    """The words after `python -m` that train the digits at TINY sizes."""
    flags = [f"--config.{name}={value}" for name, value in (TINY | (changes or {})).items()]
    return ["experiments.train", "--config=configs/digits.py", f"--workdir={workdir}", *flags]


# ==== In the server ====


def serve() -> None:
    """Reads commands from standard input, one per line, and forks a process for each."""
    import gc
    import warnings

    import tensorboardX  # noqa: F401

    from diffusion.experiments import evaluate, sample, train  # noqa: F401
    from diffusion.experiments.evaluation import plots  # noqa: F401
    from diffusion.training.runtime import compilation_cache

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup inherit that it is ignored
    compilation_cache.write_whole()
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
    warnings.filterwarnings("ignore", message=r".*use of fork\(\)")
    gc.collect()
    gc.freeze()  # so that a command's garbage collector does not scan the libraries, which would copy their pages
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = wait(job["wait"], job["timeout"])
        else:
            answer = os.fork()
            if not answer:
                return become(job)
        print(json.dumps(answer), flush=True)


def wait(pid: int, timeout: float) -> int | None:
    """Returns a child's exit status; kills the child and returns None if it does not end in time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def become(job: dict) -> None:
    """Turns this fork into the command."""
    import runpy

    from tests.reliability.points import Points

    for number, name in ((0, None), (1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(f"{job['stem']}.{name}" if name else os.devnull, flags if name else os.O_RDONLY), number)
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    if not job["rights"]:
        from tests import rights

        rights.drop()
    if job["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    if job["store"]:
        from tests import object_stores

        object_stores.connect_to(**job["store"])
    module, *arguments = job["argv"]
    sys.argv = [module, *arguments]
    workdir = next((word.partition("=")[2] for word in arguments if word.startswith("--workdir=")), None)
    Points(f"{job['stem']}.points", workdir, job["kill"], job["record"]).watch()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
