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

from tests import eager_operations, kept_programs, xla_flags

# Compilation makes the first example slow, and an example must not depend on the day it is run.
settings.register_profile(
    "diffusion",
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("diffusion")
# Hypothesis would read the sources of all modules that happen to be loaded, for their constants: that takes seconds,
# and its examples would depend on which other tests are run.
providers._get_local_constants = providers.Constants
# The selections of fast tests, pyproject.toml's and those of make test and make test-extended, and the marks of what
# each leaves out.
LEFT_OUT = {"not slow": {"slow"}, "not slow and not extended": {"slow", "extended"}, "not slow and extended": {"slow"}}
FAST = tuple(LEFT_OUT)
# The emitters that compile in half the time, as far as XLA has them (jax 0.10); and one LLVM module a program, not one
# for each part: a third less.
XLA_FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
PLACE = pytest.StashKey[int]()


def pytest_configure(config):
    """A recompilation is a warning in use and a failure here. (In pyproject.toml the line would import jax first.)

    The tests spend most of their time in XLA's compiler, on programs that then run for milliseconds: these are kept for
    the next run, and for the other runs of a test that resumes one (also by the processes of tests/reliability). For
    the fast tests they are compiled without XLA's optimizations and with those of `XLA_FLAGS` that XLA knows; with make
    test, numpy runs the small operations outside of programs. With the slow ones (make test-all) every program is
    compiled as in use.
    """
    config.addinivalue_line("filterwarnings", "error::diffusion.training.runtime.recompilation.RecompilationWarning")
    if config.option.markexpr in FAST:
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
        xla_flags.add(XLA_FLAGS)
        mlir.make_ir_context = _shared_context
        if "not extended" in config.option.markexpr:
            eager_operations.install()
    if jax.config.jax_compilation_cache_dir is None:  # tools.mutate has a folder of its own
        kept_programs.keep(first=not hasattr(config, "workerinput"))


@functools.cache
def _shared_context(make=mlir.make_ir_context):
    """One MLIR context for all programs of a file: JAX makes one for each, and needs longer for it than to lower it."""
    return make()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Builds much that stays, and little garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector, obj):
    """The cases of what the selection leaves out are not built first, to be dropped then: they are half of all."""
    left_out = LEFT_OUT.get(collector.config.option.markexpr, set())
    if not inspect.isfunction(obj) or any("::" in argument for argument in collector.config.args):
        return None  # a test that is named in the command is looked for, and then said to be left out
    marks = {mark.name for mark in (*getattr(obj, "pytestmark", ()), *collector.iter_markers())}
    return [] if marks & left_out else None


def pytest_runtest_teardown():
    """A command that a test begins here pauses the collector until it runs."""
    gc.enable()


def pytest_collection_modifyitems(items):
    """The tests of one sampler follow each other: they share its programs, and xdist may cut a file between any two."""
    first = {}
    for index, item in enumerate(items):
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        of_sampler = isinstance(name, str) and "samplers" in item.path.parts
        item.stash[PLACE] = first.setdefault((item.path, name), index) if of_sampler else index
    items.sort(key=lambda item: item.stash[PLACE])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    """What collection has built stays until the end: the garbage collector need not scan it again and again.

    Traces are many short-lived objects, which are freed without it: it looks for circles among them less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def fresh_caches(request):
    """Empties JAX's caches around a file with float64: a trace in float32 can hold constants that one in it meets."""
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
    with kept_programs.compiled_as_in_use():
        yield


@pytest.fixture
def by_xla():
    """XLA compiles every operation, as it does in use: for tests that count programs."""
    with eager_operations.left_to_xla():
        yield
