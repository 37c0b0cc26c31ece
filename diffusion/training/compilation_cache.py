"""JAX's persistent compilation cache, where no one else can write to it."""

import contextlib
import os
import pathlib
import stat
import warnings

import jax

DEFAULT = "~/.cache/diffusion/jax"


def enable(directory: str = DEFAULT) -> pathlib.Path | None:
    """Keeps compiled programs from run to run in a folder that only this user can read and write.

    The folder holds executables that JAX loads without asking, so anyone who can write there can run code as this
    user. ``JAX_COMPILATION_CACHE_DIR``, where set, takes the place of ``directory``.

    Args:
      directory: created with mode 700 if missing; "~" is the user's home.

    Returns:
      The folder in use, or None, with a warning, where none can be made.

    Raises:
      PermissionError: if the folder belongs to another user or others may write to it.
    """
    path = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.stat()
    except OSError as error:
        warnings.warn(f"no compilation cache, every run compiles anew: {error}", stacklevel=2)
        return None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"The compilation cache {path} (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}) can be "
            f"written by others, and what lies there is executed. Run `chmod 700 {path}`, remove it, or set "
            "JAX_COMPILATION_CACHE_DIR to a folder of your own."
        )
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return path
