"""Compiled programs, kept in this checkout from one run of the fast tests to the next.

JAX finds a kept program by a hash of its operations, options and versions, so that a change of the code compiles anew.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import jax
from jax._src import lru_cache

from diffusion.training.runtime import compilation_cache

COMPILED = pathlib.Path(__file__).parent.parent / ".cache" / "compiled"
EVERY = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # else the folder, a new one for each session, is in the hash
}
LIMIT = 2**30  # bytes after which the next run starts with none
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
    write_whole()


def folder() -> pathlib.Path | None:
    """Returns the folder of this run's programs, or None where none are kept."""
    return pathlib.Path(os.environ[FOLDER]) if FOLDER in os.environ else None


def write_whole() -> None:
    """Has this process write a program whole: JAX's own way shows others a part, and leaves it where a run is ended."""
    lru_cache.LRUCache.put = _put_whole


def _put_whole(cache, key: str, value: bytes) -> None:
    part = cache.path / f"{key}.{os.getpid()}"
    part.write_bytes(value)
    part.replace(cache.path / f"{key}-cache")


@contextlib.contextmanager
def compiled_as_in_use() -> Iterator[None]:
    """Compiles with XLA's optimizations, for programs that are slow without, or then are the same to the bit."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
