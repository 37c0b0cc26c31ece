"""JAX's persistent compilation cache, in a folder that no one else can write."""

__all__ = ["enable"]

import contextlib
import grp
import os
import pathlib
import pwd
import stat
import warnings

import jax

from diffusion.io import files


def _private(group: int) -> bool:
    """Whether a group has the user's name and the user as its only member, as many systems set it up."""
    try:
        return grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def enable(directory: str | None = None) -> pathlib.Path | None:
    """Keeps compiled programs from run to run in a folder that only this user can write.

    The folder holds executables that JAX loads without a check, so anyone who can write there, or put another folder in
    its place, can run code as this user. `JAX_COMPILATION_CACHE_DIR`, where set, takes the place of `directory`.
    Programs are kept that took half a second to compile, or `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`.

    Args:
        directory: created with mode 700 if missing; by default "jax" in the library's cache (`files.cache`). If it is a
            link, the folder at its end counts.

    Returns:
        The folder in use, or None, with a warning, if none can be made.

    Raises:
        PermissionError: if the folder is another user's, or others may write to it or to one above it.
    """
    path = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory or files.cache("jax")).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        path = path.resolve()
        stats = {part: part.stat() for part in (path, *path.parents)}
    except OSError as error:
        warnings.warn(f"no compilation cache; every run compiles again: {error}", stacklevel=2)
        return None
    for part, what in stats.items():
        others = stat.S_IWOTH if part != path and _private(what.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        replaceable = not what.st_mode & stat.S_ISVTX  # with the sticky bit, as in /tmp, others may only add entries
        foreign = part == path and what.st_uid != os.geteuid()
        if foreign or (what.st_mode & others and (part == path or replaceable)):
            raise PermissionError(
                f"Others can change the compilation cache {path}, whose programs this process would run: {part} "
                f"(owner {what.st_uid}, mode {stat.S_IMODE(what.st_mode):o}). Run `chmod go-w {part}`, remove it, or "
                "set JAX_COMPILATION_CACHE_DIR to a folder of your own."
            )
    path.chmod(0o700)
    jax.config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return path
