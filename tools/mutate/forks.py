"""Scratch copies of the repository, and children that run tests in them, forked from a process that has JAX."""

import ast
import contextlib
import importlib
import io
import json
import math
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--durations=0")


class Finished(NamedTuple):
    """What became of one piece of work.

    Attributes:
        work: as it was put in.
        found: what the child returned; None if it ran out of time or died.
        seconds: that it took.
        late: whether it ran out of time.
        said: the end of what it printed.
    """

    work: Any
    found: Any
    seconds: float
    late: bool
    said: str


def prepare() -> None:
    """Sets what JAX reads as it is imported, as tests/conftest.py does: the CPU."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def ask_for_flags(root: pathlib.Path) -> None:
    """Asks once for the XLA flags of the fast tests, so that no child asks again, which takes a process and seconds.

    Args:
        root: the repository. One without tests/xla_flags.py sets no flags.
    """
    if not (root / "tests" / "xla_flags.py").is_file():
        return
    code = (
        "import json, os; from tests import conftest, xla_flags; xla_flags.add(conftest.XLA_FLAGS); "
        "names = {xla_flags.NAME, xla_flags.REFUSED} & {*os.environ}; "
        "print(json.dumps({name: os.environ[name] for name in names}))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    os.environ.update(json.loads(said.splitlines()[-1]))


def keep_compiled(folder: pathlib.Path) -> None:
    """Keeps compiled programs for all children, most of whose programs no mutant changes."""
    if "jax" in sys.modules:  # by the configuration: tests read the environment
        import jax

        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # else the folder's name is in the hash


def preload(root: pathlib.Path, files: Iterable[pathlib.Path]) -> None:
    """Imports what files import from other distributions, so that a forked child has it.

    Raises:
        RuntimeError: if JAX's backend was started by that: its threads would be missing in a child.
    """
    ours = {path.stem for path in root.iterdir()}
    names = {"pytest"}
    for path in files:
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module}
    for name in sorted(names):
        if name.partition(".")[0] not in ours:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        raise RuntimeError("an import has started JAX's backend; a forked child could not use it")
    warnings.filterwarnings("ignore", "os.fork")


def copy(root: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """A fresh copy of the working tree's files, those that git does not ignore."""
    shutil.rmtree(to, ignore_errors=True)
    listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (root / ".git").exists():
        names = [name for name in subprocess.check_output(listed, text=True).split("\0") if name]
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()]
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_symlink():
            (to / name).symlink_to(os.readlink(root / name))
        elif (root / name).is_file():
            shutil.copyfile(root / name, to / name)
    return to.resolve()


def run_all(
    work: Iterable[Any],
    do: Callable[[Any, pathlib.Path], Any],
    copies: list[pathlib.Path],
    limit: Callable[[Any], float],
) -> Iterator[Finished]:
    """Does each piece of work in a forked child, as many at once as there are copies, and yields them as they end.

    Args:
        work: anything, in order.
        do: (piece, copy) -> what JSON can hold; runs in the child, whose folder and first import path is the copy.
        copies: scratch copies, one for each child at a time.
        limit: seconds of a processor that a piece may take, and five times as many by the clock.
    """
    waiting = list(work)[::-1]
    free = list(copies)
    running = {}
    try:
        while waiting or running:
            while waiting and free:
                piece = waiting.pop()
                place = free.pop()
                place.with_suffix(".json").unlink(missing_ok=True)
                place.with_suffix(".txt").touch()
                sys.stdout.flush()
                child = os.fork()
                if child == 0:
                    _child(do, piece, place, math.ceil(limit(piece)))
                running[child] = (piece, place, time.monotonic())
            for child, (piece, place, began) in list(running.items()):
                took = time.monotonic() - began
                ended, status = os.waitpid(child, os.WNOHANG)
                late = took > 5 * limit(piece) or (ended and os.waitstatus_to_exitcode(status) == -signal.SIGXCPU)
                if late or ended:
                    _kill(child, bool(ended))
                    del running[child]
                    free.append(place)
                    answer = place.with_suffix(".json")
                    said = place.with_suffix(".txt").read_text(errors="replace")
                    found = json.loads(answer.read_text()) if answer.is_file() and not late else None
                    yield Finished(piece, found, took, late, said[-4000:])
            time.sleep(0.02)
    finally:
        for child in running:
            _kill(child)


def _kill(child: int, ended: bool = False) -> None:
    """Ends what a child has started, and itself."""
    if not ended:
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)


def _child(do: Callable[[Any, pathlib.Path], Any], piece: Any, place: pathlib.Path, seconds: int) -> None:
    """In the forked child: never returns."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # so that what it starts ends with it
        answer = place.with_suffix(".json")
        out = os.open(place.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(open(i, "wb", 0, closefd=False), write_through=True) for i in (1, 2))
        os.chdir(place)
        sys.path.insert(0, str(place))
        os.environ["PYTHONPATH"] = str(place)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # two sources of one second and one size share their bytecode
        sys.dont_write_bytecode = True
        found = json.dumps(do(piece, place))
        answer.with_suffix(".part").write_text(found)
        answer.with_suffix(".part").replace(answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def pytest_run(words: Iterable[str], plugin: object) -> int:
    """Runs pytest here, and returns its exit code."""
    import pytest

    return int(pytest.main([*OPTIONS, *words], plugins=[plugin]))
