"""JAX's persistent compilation cache, in a folder to which no other user can write.

JAX finds a program by a hash of its operations, options and versions, so changed code is compiled again. XLA compiles
programs for one kind of CPU, so each kind has a separate folder.
"""

import contextlib
import grp
import hashlib
import os
import pathlib
import platform
import pwd
import stat
import warnings
from collections.abc import Callable, Iterator

import jax
from jax import monitoring
from jax._src import lru_cache

from diffusion.io import files

NONE = "no compilation cache; every run compiles again"
"""The beginning of the warning that there is no compilation cache."""

LIMIT = 2**31  # bytes of programs; above it, the programs that were read the longest ago are removed
# JAX's events: one for each program that it compiles or reads from the cache, and one for each that it reads.
EITHER, READ = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_retrieval_time_sec"


def processor() -> str:
    """A name for this machine's kind of processor: 12 hexadecimal digits of a hash of the processor's features."""
    what = platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not Linux
        what += next(line for line in open("/proc/cpuinfo") if line.startswith(("flags", "Features")))
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def _private(group: int) -> bool:
    """Whether a group has the user's name and no other members, as many systems make one for each user."""
    try:
        entry, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return entry.gr_name == user and set(entry.gr_mem) <= {user}


def enable(directory: str | None = None) -> pathlib.Path | None:
    """Stores compiled programs for later runs in a folder to which only this user can write.

    The folder holds executables that JAX loads without a check, so anyone who can write to it, or replace it, can run
    code as this user. `JAX_COMPILATION_CACHE_DIR`, if set, overrides `directory`. Every program is stored, or, if
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` is set, every program whose compilation takes at least this time. The
    default folder holds at most `LIMIT` bytes. `JAX_ENABLE_COMPILATION_CACHE=0` turns the cache off.

    Args:
        directory: the folder, created with mode 700 if missing; by default a folder for this kind of processor in "jax"
            in the library's cache (`files.cache`). If it is a link, the checks apply to the linked folder.

    Returns:
        The folder in use. None, with a warning, if the folder cannot be made or written, belongs to another user, or
        others may write to it or to a folder above it. None without a warning if the cache is turned off.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory
    path = pathlib.Path(named or files.cache("jax") / processor()).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        path = path.resolve()
        stats = {part: part.stat() for part in (path, *path.parents)}
    except OSError as error:
        return _none(str(error))
    for part, what in stats.items():
        others = stat.S_IWOTH if part != path and _private(what.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        replaceable = not what.st_mode & stat.S_ISVTX  # with the sticky bit, other users can only add entries
        foreign = part == path and what.st_uid != os.geteuid()
        if foreign or (what.st_mode & others and (part == path or replaceable)):
            return _none(
                f"others can change {path}, whose programs this process would run: {part} (owner {what.st_uid}, mode "
                f"{stat.S_IMODE(what.st_mode):o}). Run `chmod go-w {part}`, remove it, or set "
                "JAX_COMPILATION_CACHE_DIR to a folder of your own"
            )
    if not path.is_dir() or not os.access(path, os.W_OK):
        return _none(f"{path} is not a folder that can be written")
    path.chmod(0o700)
    if not named:
        _prune(path.parent)
    write_whole()
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return path


def _none(why: str) -> None:
    jax.config.update("jax_compilation_cache_dir", None)  # JAX itself reads JAX_COMPILATION_CACHE_DIR
    warnings.warn(f"{NONE}: {why}", stacklevel=3)


def write_whole() -> None:
    """Makes this process write a program to the cache completely or not at all.

    JAX itself writes a file in place, so that other processes can see a part of it. If the process is killed, the part
    remains, and later runs warn and compile again.
    """
    lru_cache.LRUCache.put = _put_whole


def _put_whole(self: lru_cache.LRUCache, key: str, value: bytes, put: Callable = lru_cache.LRUCache.put) -> None:
    if self.eviction_enabled:  # JAX_COMPILATION_CACHE_MAX_SIZE adds a lock, under which nobody sees an incomplete file
        return put(self, key, value)
    part = self.path / f"{key}-cache.{os.getpid()}"
    part.write_bytes(value)
    part.replace(self.path / f"{key}-cache")


def _prune(folder: pathlib.Path) -> None:
    """If the folder exceeds `LIMIT`, removes the programs read the longest ago, down to three quarters of `LIMIT`."""
    programs = []
    for file in folder.rglob("*-cache*"):  # includes incomplete files of processes that were ended
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            status = file.stat()
            programs.append((max(status.st_atime, status.st_mtime), status.st_size, file))
    held = sum(size for _, size, _ in programs)
    if held <= LIMIT:
        return
    for _, size, file in sorted(programs):
        if held <= 0.75 * LIMIT:
            return
        file.unlink(missing_ok=True)
        held -= size


class Programs:
    """The number of programs found in the cache, the number compiled, and the seconds that compilation took."""

    def __init__(self, folder: pathlib.Path | None):
        self.folder = folder
        self.found = 0
        self.compiled = 0
        self.seconds = 0.0

    def __str__(self) -> str:
        """One line: "5 programs found in ~/.cache/diffusion/jax, 2 compiled in 12.0 s"."""
        compiled = f"{self.compiled} compiled in {self.seconds:.1f} s"
        if self.folder is None:
            return f"programs: {compiled}"
        home = str(pathlib.Path.home())
        return f"programs: {self.found} found in {str(self.folder).replace(home, '~', 1)}, {compiled}"

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == READ:
            self.found += 1
            self.compiled -= 1  # JAX sends a second event for the same program
            self.seconds -= duration_secs
        elif event == EITHER:
            self.compiled += 1
            self.seconds += duration_secs


@contextlib.contextmanager
def counted(folder: pathlib.Path | None) -> Iterator[Programs]:
    """Counts the programs that are found and compiled inside the `with` block; `folder` is the result of `enable`."""
    programs = Programs(folder)
    monitoring.register_event_duration_secs_listener(programs._listen)
    try:
        yield programs
    finally:
        monitoring.unregister_event_duration_listener(programs._listen)
