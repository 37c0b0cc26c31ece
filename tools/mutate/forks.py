"""Scratch copies of the repository, and child processes that run tests in them, forked from one that imported JAX."""

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
    """The result of one piece of work.

    Attributes:
        work: the piece of work.
        answer: what the child returned; None if it ran out of time or died.
        seconds: the time that the child took.
        late: whether the child ran out of time.
        said: the end of what the child printed, at most 4,000 letters.
    """

    work: Any
    answer: Any
    seconds: float
    late: bool
    said: str


def prepare() -> None:
    """Sets the variables that JAX reads at its import, so that it uses the CPU, as tests/conftest.py does."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def ask_for_flags(root: pathlib.Path) -> None:
    """Finds out once which XLA flags of the fast tests are known, and sets them for all children.

    Otherwise each child would start a process for it, which takes seconds.

    Args:
        root: the repository; without a file tests/xla_flags.py no flags are set.
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
    """Stores compiled programs in a folder for all children, since a mutant changes few of their programs."""
    if "jax" in sys.modules:  # through JAX's configuration, because tests read the environment's variables
        import jax

        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # else hashes depend on the folder's name


def preload(root: pathlib.Path, files: Iterable[pathlib.Path]) -> None:
    """Imports the packages of other projects that some files import, so that forked children have them.

    Raises:
        RuntimeError: if such an import has started JAX's backend, whose threads a child would lack.
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
    """Copies the files of the working tree that git does not ignore into an emptied folder, and returns the folder."""
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
    """Does each piece of work in a forked child, one at a time in each copy, and yields the results as they end.

    Args:
        work: the pieces of work, in order.
        do: (piece, copy) -> an answer that JSON can hold; it runs in the child, whose working directory and first
            import path is the copy.
        copies: scratch copies, each for one child at a time.
        limit: piece -> the seconds of CPU time that it may take; by the clock it may take five times as long.
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
                    content = json.loads(answer.read_text()) if answer.is_file() and not late else None
                    yield Finished(piece, content, took, late, said[-4000:])
            time.sleep(0.02)
    finally:
        for child in running:
            _kill(child)


def _kill(child: int, ended: bool = False) -> None:
    """Ends a child, unless it has ended, and all processes that it has started."""
    if not ended:
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)


def _child(do: Callable[[Any, pathlib.Path], Any], piece: Any, place: pathlib.Path, seconds: int) -> None:
    """Does a piece of work in the forked child, writes the answer beside the copy, and ends the process."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # a process group of its own, so that the parent can end all that the child starts
        answer = place.with_suffix(".json")
        out = os.open(place.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(open(i, "wb", 0, closefd=False), write_through=True) for i in (1, 2))
        os.chdir(place)
        sys.path.insert(0, str(place))
        os.environ["PYTHONPATH"] = str(place)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # bytecode is reused for another source of the same second and size
        sys.dont_write_bytecode = True
        content = json.dumps(do(piece, place))
        answer.with_suffix(".part").write_text(content)
        answer.with_suffix(".part").replace(answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def pytest_run(words: Iterable[str], selection: str, plugin: object) -> int:
    """Runs pytest in this process on the tests that a marker expression selects, and returns its exit code.

    Args:
        words: test files, tests and options.
        selection: the marker expression.
        plugin: a plugin of pytest.
    """
    import pytest

    return int(pytest.main([*OPTIONS, "-m", selection, *words], plugins=[plugin]))
