"""Settings that every test shares: the CPU, float32 unless a test uses float64, and reproducible hypothesis."""

import contextlib
import functools
import gc
import hashlib
import os
import pathlib
import platform
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from hypothesis import HealthCheck, settings
from jax._src import lru_cache
from jax._src.interpreters import mlir

# Compilation makes the first example slow, and an example must not depend on the day it is run.
settings.register_profile(
    "diffusion",
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("diffusion")
FAST = "not slow"  # the tests that pyproject.toml selects by default
COMPILED = pathlib.Path(__file__).parent.parent / ".cache" / "compiled"  # programs, from run to run
FLAG = "--xla_cpu_use_fusion_emitters=false"
KEPT = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}
COMPILED_LIMIT = 2**30  # bytes after which the next run starts with none


def pytest_configure(config):
    """A recompilation is a warning in use and a failure here. (In pyproject.toml the line would import jax first.)

    The fast tests spend most of their time in XLA's compiler, on programs that then run for milliseconds: they are
    compiled without its optimizations, by the emitters that need half the time, and kept for the next run. JAX finds a
    kept program by a hash of its operations, options and versions, so that a change of the code compiles anew. With the
    slow ones (make test-all) every program is compiled as in use.
    """
    config.addinivalue_line("filterwarnings", "error::diffusion.training.runtime.recompilation.RecompilationWarning")
    if config.option.markexpr == FAST:
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
        flags = os.environ.get("XLA_FLAGS", "")
        if FLAG not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
        if jax.config.jax_compilation_cache_dir is None:  # tools.mutate has a folder of its own
            keep_compiled(first=not hasattr(config, "workerinput"))
        mlir.make_ir_context = _shared_context


@functools.cache
def _shared_context(make=mlir.make_ir_context):
    """One MLIR context for all programs of a file: JAX makes one for each, and needs longer for it than to lower it."""
    return make()


def keep_compiled(first: bool) -> None:
    """Keeps every compiled program in this checkout, in a folder for this kind of processor.

    Args:
        first: whether this process is the one that may empty the folder: pytest's own, not a worker's.
    """
    if first and sum(file.stat().st_size for file in COMPILED.rglob("*-cache")) > COMPILED_LIMIT:
        shutil.rmtree(COMPILED, ignore_errors=True)
    processor = platform.machine()
    with contextlib.suppress(OSError):  # not Linux
        processor += next(line for line in open("/proc/cpuinfo") if line.startswith(("flags", "Features")))
    folder = COMPILED / hashlib.sha256(processor.encode()).hexdigest()[:12]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in KEPT.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes, and for `compilation_cache.enable`
    lru_cache.LRUCache.put = _put_whole


def _put_whole(cache, key: str, value: bytes) -> None:
    """Writes a program whole: JAX's own way shows other workers a part, and leaves it where a run is ended."""
    part = cache.path / f"{key}.{os.getpid()}"
    part.write_bytes(value)
    part.replace(cache.path / f"{key}-cache")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    """What collection has built stays until the end: the garbage collector need not scan it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    """Empties JAX's caches before each file: a trace made in float32 can hold constants that one in float64 meets."""
    jax.clear_caches()
    _shared_context.cache_clear()


@pytest.fixture
def x64():
    """Runs a test with JAX in float64, and restores float32 after it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """One compilation cache for this module's runs, and none afterwards."""
    patch = pytest.MonkeyPatch()
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    patch.undo()


@pytest.fixture
def as_in_use():
    """Compiles the test's programs with XLA's optimizations: for two programs that then are the same to the bit."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
