"""Stores compiled programs in this checkout, from one run of the tests to the next.

JAX finds a stored program by a hash of its operations, options and versions, so that changed code is compiled again.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax

from diffusion.training.runtime import compilation_cache

COMPILED = pathlib.Path(__file__).parent.parent / ".cache" / "compiled"
EVERY = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # else the hash would depend on the folder's name
}
LIMIT = 2**32  # bytes of stored programs above which the next run removes them all
FOLDER = "TESTS_KEPT_PROGRAMS"  # the environment variable with the folder, for the processes of tests


def keep(first: bool) -> None:
    """Stores every program that this process compiles, in a folder for this kind of processor.

    Args:
        first: whether this process may empty the folder; True for pytest's main process, False for a worker.
    """
    if first and sum(file.stat().st_size for file in COMPILED.rglob("*-cache")) > LIMIT:
        shutil.rmtree(COMPILED, ignore_errors=True)
    folder = COMPILED / compilation_cache.processor()
    os.environ[FOLDER] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in EVERY.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes of tests, and for `compilation_cache.enable`
    compilation_cache.write_whole()


def folder() -> pathlib.Path | None:
    """The folder of this run's programs; None if none are stored."""
    return pathlib.Path(os.environ[FOLDER]) if FOLDER in os.environ else None


@contextlib.contextmanager
def compiled_as_in_use() -> Iterator[None]:
    """Compiles with XLA's optimizations, for programs that are slow without them, or agree to the bit with them."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
