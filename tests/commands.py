"""Commands in processes of their own, without the seconds that each would spend on reading the libraries.

    done = commands.run("diffusion", "train", "--help")
    assert done.returncode == 0

A server, one for each process that runs tests, has imported the libraries (nothing of ours) and forks itself for every
command; the child then is the command's process, with its arguments, environment, folder and output. JAX reads its
environment (JAX_*) when it is imported: a command that sets it needs `subprocess.run`.
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
    """What `subprocess.run([sys.executable, *command], capture_output=True, text=True)` returns, sooner.

    Args:
        command: "diffusion", "-m" and a module's name, "-c" and a program, or a program's path; then its arguments.
        env: the command's environment; this process's if None.
        cwd: the folder that it runs in.
        timeout: seconds after which it is killed.

    Returns:
        The ended process: `returncode` (negative for a signal), `stdout` and `stderr`.

    Raises:
        subprocess.TimeoutExpired: where it took longer.
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
    """Answers each request with the status of a child; returns in the child, with the request that it is to become."""
    for name in LIBRARIES:
        importlib.import_module(name)
    warnings.filterwarnings("ignore", "os.fork")  # nothing of JAX has started yet
    gc.collect()
    gc.freeze()  # a command's garbage collector need not scan the libraries, and copy their pages
    while line := sys.stdin.readline():
        if not (child := os.fork()):
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _become(command, cwd, out, err, timeout, env) -> None:
    """Makes this process that of the command, and runs it as Python would."""
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
