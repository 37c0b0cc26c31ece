"""Settings that every test shares: the CPU, float32 unless a test uses float64, and reproducible hypothesis."""

import functools
import gc
import inspect
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from jax._src.interpreters import mlir

from tests import eager_operations, interrupts, kept_programs, xla_flags

# No deadline, since compilation makes the first example slow; and the same examples in each run.
settings.register_profile(
    "diffusion",
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("diffusion")
# Hypothesis would search the sources of all loaded modules for constants. That takes seconds, and its examples would
# depend on the other tests that run.
providers._get_local_constants = providers.Constants
# {selection of fast tests: the marks that it leaves out}, for pyproject.toml, `make test` and `make test-extended`.
LEFT_OUT = {"not slow": {"slow"}, "not slow and not extended": {"slow", "extended"}, "not slow and extended": {"slow"}}
FAST = tuple(LEFT_OUT)
# The first flag selects emitters that compile in half the time, if XLA has them (jax 0.10). The second flag makes one
# LLVM module for a program, in place of one for each part, which saves a third of the time.
XLA_FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
PLACE = pytest.StashKey[int]()


def pytest_configure(config):
    """Turns warnings about recompilation into failures, and makes compilation fast.

    A filter of warnings in pyproject.toml would import jax before this file.

    The tests spend most of their time in XLA's compiler, on programs that then run for milliseconds. Compiled programs
    are stored for the next run of the tests, and for the processes of a test, such as those of tests/reliability. The
    fast tests compile without XLA's optimizations, and with those of `XLA_FLAGS` that XLA knows; with `make test`,
    numpy also runs the small operations outside of programs. If slow tests are selected (make test-all), every program
    is compiled as in use.
    """
    config.addinivalue_line("filterwarnings", "error::diffusion.training.runtime.recompilation.RecompilationWarning")
    interrupts.listen()
    if config.option.markexpr in FAST:
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
        xla_flags.add(XLA_FLAGS)
        mlir.make_ir_context = _shared_context
        if "not extended" in config.option.markexpr:
            eager_operations.install()
    if jax.config.jax_compilation_cache_dir is None:  # tools.mutate sets another folder
        kept_programs.keep(first=not hasattr(config, "workerinput"))


@functools.cache
def _shared_context(make=mlir.make_ir_context):
    """One MLIR context for all programs of a test file.

    JAX makes a context for each program, which takes longer than to lower a small program.
    """
    return make()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Pauses the garbage collector, since collection builds many objects that stay, and little garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector, obj):
    """Builds no cases of tests that the selection leaves out; they are half of all cases."""
    left_out = LEFT_OUT.get(collector.config.option.markexpr, set())
    if not inspect.isfunction(obj) or any("::" in argument for argument in collector.config.args):
        return None  # if the command names a test, pytest builds it, and can report that the selection leaves it out
    marks = {mark.name for mark in (*getattr(obj, "pytestmark", ()), *collector.iter_markers())}
    return [] if marks & left_out else None


def pytest_runtest_teardown():
    """Enables the garbage collector again: a command that starts in the test's process pauses it."""
    gc.enable()


def pytest_collection_modifyitems(items):
    """Sorts the tests of a file by sampler, since the tests of one sampler share its programs.

    xdist may divide a file between any two tests.
    """
    first = {}
    for index, item in enumerate(items):
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        of_sampler = isinstance(name, str) and "samplers" in item.path.parts
        item.stash[PLACE] = first.setdefault((item.path, name), index) if of_sampler else index
    items.sort(key=lambda item: item.stash[PLACE])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    """Makes the garbage collector skip the objects of the collection, which stay until the end, and run less often.

    Traces consist of many short-lived objects, most of which are freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def fresh_caches(request):
    """Empties JAX's caches before and after a file with float64 tests, which could reuse constants in float32."""
    in_float64 = "x64" in pathlib.Path(request.module.__file__).read_text()
    if in_float64:
        jax.clear_caches()
    _shared_context.cache_clear()
    yield
    if in_float64:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Runs a test with JAX in float64, and restores float32 after it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """Gives the runs of a test file one compilation cache, and restores the settings afterwards."""
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
    """Compiles the test's programs with XLA's optimizations, with which two programs can agree to the bit."""
    with kept_programs.compiled_as_in_use():
        yield


@pytest.fixture
def by_xla():
    """Lets XLA compile every operation, as in use, for tests that count programs."""
    with eager_operations.left_to_xla():
        yield
