"""Runs commands in separate processes, without the seconds that each would need to import the libraries.

    done = commands.run("diffusion", "train", "--help")
    assert done.returncode == 0

Each process that runs tests has a server, which has imported the libraries but nothing of ours. The server forks itself
for every command, and the child becomes the command's process, with its arguments, environment, folder and output. JAX
reads its variables (JAX_*) at its import, so that a command with other values of them needs `subprocess.run`.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings

ROOT = pathlib.Path(__file__).parent.parent
LIBRARIES = (
    "jax.numpy", "scipy.special", "scipy.stats", "optax", "flax.linen", "orbax.checkpoint", "grain",
    "tensorflow_datasets", "ml_collections.config_flags", "absl.app", "rich.progress", "matplotlib.figure",
)  # fmt: skip


def run(*command: str, env=None, cwd=ROOT, timeout: int = 120) -> subprocess.CompletedProcess:
    """Does the same as `subprocess.run([sys.executable, *command], capture_output=True, text=True)`, but faster.

    Args:
        command: "diffusion", "-m" and a module's name, "-c" and a program, or a program's path; then the arguments.
        env: the command's environment; None for this process's environment.
        cwd: the working directory of the command.
        timeout: the seconds after which the command is killed.

    Returns:
        The ended process, with `returncode` (negative for a signal), `stdout` and `stderr`.

    Raises:
        subprocess.TimeoutExpired: if the command takes longer than `timeout`.
    """
    if command[0] == "diffusion":
        command = ("-m", *command)
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder) / name for name in ("out", "err"))
        request = {
            "command": [str(word) for word in command],
            "cwd": str(cwd),
            "out": str(out),
            "err": str(err),
            "timeout": timeout,
            "env": dict(os.environ if env is None else env),
        }
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = json.loads(server.stdout.readline())
        done = subprocess.CompletedProcess([sys.executable, *command], status, out.read_text(), err.read_text())
    if status == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(done.args, timeout, done.stdout, done.stderr)
    return done


@functools.cache
def _server() -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    atexit.register(server.terminate)
    return server


def _serve() -> dict:
    """Forks a child for each request, and answers with the child's status; in a child, it returns the request."""
    for name in LIBRARIES:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", "os.fork")  # the fork is safe, since JAX has not started its threads yet
    gc.collect()
    gc.freeze()  # a command's garbage collector need not scan the libraries, and copy their pages
    while line := sys.stdin.readline():
        if not (child := os.fork()):
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(command, cwd, out, err, timeout, env) -> None:
    """Turns this process into that of a command, and runs the command as Python would."""
    signal.alarm(timeout)
    for target, path, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, mode | os.O_CREAT | os.O_TRUNC), target)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    kind, program = command[:2] if command[0] in ("-m", "-c") else ("", command[0])
    sys.argv[:] = command[1:] if kind == "-m" else command[bool(kind) :]
    paths = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [cwd if kind else os.path.dirname(program), *paths]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(program, {"__name__": "__main__"})
    else:
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _become(**_serve())
