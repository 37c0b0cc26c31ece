"""Compiled programs, kept in this checkout from one run of the tests to the next.

JAX finds a kept program by a hash of its operations, options and versions, so that a change of the code compiles anew.
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
    "jax_persistent_cache_enable_xla_caches": "none",  # else the folder, a new one for each session, is in the hash
}
LIMIT = 2**32  # bytes after which the next run starts with none
FOLDER = "TESTS_KEPT_PROGRAMS"  # the environment variable that names the folder to processes


def keep(first: bool) -> None:
    """Keeps every program that this process compiles, in a folder for this kind of processor.

    Args:
        first: whether this process is the one that may empty the folder: pytest's own, not a worker's.
    """
    if first and sum(file.stat().st_size for file in COMPILED.rglob("*-cache")) > LIMIT:
        shutil.rmtree(COMPILED, ignore_errors=True)
    folder = COMPILED / compilation_cache.processor()
    os.environ[FOLDER] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in EVERY.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes, and for `compilation_cache.enable`
    compilation_cache.write_whole()


def folder() -> pathlib.Path | None:
    """Returns the folder of this run's programs, or None where none are kept."""
    return pathlib.Path(os.environ[FOLDER]) if FOLDER in os.environ else None


@contextlib.contextmanager
def compiled_as_in_use() -> Iterator[None]:
    """Compiles with XLA's optimizations, for programs that are slow without, or then are the same to the bit."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
