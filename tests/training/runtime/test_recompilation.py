"""Recompilations are counted, with and without the persistent cache, and fail every test of a run."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from diffusion.training.runtime.recompilation import RecompilationWarning, Watch

pytestmark = pytest.mark.usefixtures("by_xla")


@pytest.fixture(params=["no cache", "cache", "warm cache"])
def cache(request, tmp_path):
    """JAX's persistent cache: off, empty, and holding the programs of this file."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path) if request.param != "no cache" else None)
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()  # JAX reads the folder once
    jax.clear_caches()
    if request.param == "warm cache":
        jax.jit(double)(np.ones(3, np.float32)), jax.jit(double)(np.ones(4, np.float32))
        jax.clear_caches()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()


def double(x):
    return 2 * x


def test_a_new_shape_is_counted_and_named_and_the_same_shape_is_not(cache):
    function = jax.jit(double)
    with Watch() as watch:
        for step in range(3):
            with watch.work("a step", step):
                function(np.ones(3, np.float32))
        assert watch.count == 0 and watch.compiled == ["jit(double)"]
        with pytest.warns(RecompilationWarning, match=r"step 3: a step compiled jit\(double\) again \(1 recomp"):
            with watch.work("a step", 3):
                function(np.ones(4, np.float32))
        assert watch.count == 1


def test_a_function_made_anew_at_each_call_is_counted():
    with Watch() as watch, warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        for step in range(4):
            with watch.work("a step", step):
                jax.jit(lambda x: jnp.sin(x) + 1)(np.ones(3, np.float32))
    assert watch.count == 3


def test_each_kind_of_work_may_compile_once():
    with Watch() as watch:
        for step in range(2):
            with watch.work("a step", step):
                jax.jit(double)(np.ones(5, np.float32))
            with watch.work("a save", step):
                jax.jit(double)(np.ones((5, 5), np.float32))
    assert watch.count == 0 and len(watch.compiled) == 2


def test_nothing_is_counted_after_the_block():
    with Watch() as watch:
        pass
    jax.jit(double)(np.ones(6, np.float32))
    assert watch.compiled == []


def test_in_the_tests_a_recompilation_is_an_error():
    with pytest.raises(RecompilationWarning), Watch() as watch:
        for size in (7, 8):
            with watch.work("a step", size):
                jax.jit(double)(np.ones(size, np.float32))
