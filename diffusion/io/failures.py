"""The meaning of a failed read: either the file is damaged, or this machine could not read it now.

A file is damaged if it is missing, or if its content does not have its format or its checksum. A missing right, a disk
or server that does not answer, and full memory show nothing about the file: it may be sound, and must not be moved,
written again or left out.
"""

__all__ = ["Unreadable", "full_disk", "is_impossible_place", "is_machine_failure", "no_room"]

import errno
import os
import re

import jax

from diffusion.package import public

MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # the path has no file, or something else than a file
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, or for a file of this size
SHORT = re.compile(r"\d+ requested and \d+ written")  # how NumPy says it
# How TensorStore, Rust and Riegeli (of array_record) name the operating system's error.
CODE = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)")
WORDS = re.compile(r"\w\(\) failed: ([^;]+)")  # one letter of the name: with all, a long word would take the square
STATUSES = (  # words of TensorStore and XLA that begin a message
    "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED", "UNAVAILABLE", "UNKNOWN",
)  # fmt: skip


class Unreadable(OSError):
    """A file that may be sound could not be read now; the message says which and why."""


def is_machine_failure(error: BaseException) -> bool:
    """Whether a read failed for another reason than the content of the file.

    Args:
        error: the exception that the reader raised, with its causes.

    Returns:
        True for a right that is missing, a disk that fails, a limit of this machine, and any error of a device; False
        for a file that is missing or damaged.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_machine_failure, error.exceptions))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return _is_machine_error(error) or (cause is not None and is_machine_failure(cause))


def is_impossible_place(error: BaseException) -> bool:
    """Whether a reader sought a place that no file has, as one before its beginning, by what a damaged file says.

    `is_machine_failure` cannot know this, for a disk may give the same error: only the reader of a format can.
    """
    return isinstance(error, OSError) and error.errno == errno.EINVAL


def full_disk(error: OSError) -> str | None:
    """Why a write found no room, in the words of the operating system; None for another error."""
    if error.errno in FULL:
        return os.strerror(error.errno)
    return os.strerror(errno.ENOSPC) if SHORT.fullmatch(str(error)) else None


def no_room(path: str | os.PathLike, why: str) -> OSError:
    """The error for a file that the disk has no room for; `full_disk` returns the reason `why`."""
    return OSError(
        f"{os.fspath(path)} cannot be written: {why}. Make room on the disk, then run the same command again: a run "
        "goes on from its last checkpoint."
    )


def _is_machine_error(error: BaseException) -> bool:
    """`is_machine_failure` without the causes of the exception."""
    if isinstance(error, Unreadable | MemoryError | jax.errors.JaxRuntimeError | TimeoutError | ConnectionError):
        return True
    text = str(error)
    if isinstance(error, OSError):
        code = error.errno or _code(text)
        return isinstance(error, PermissionError) if code is None else code not in MISSING
    if isinstance(error, RuntimeError) and text.startswith("can't start new thread"):
        return True
    code = _code(text)
    return text.startswith(STATUSES) if code is None else code not in MISSING


def _code(text: str) -> int | None:
    """The number of the operating system's error that a message names."""
    if match := CODE.search(text):
        return int(match[1] or match[2])
    match = WORDS.search(text)
    return next((code for code in errno.errorcode if match and os.strerror(code) == match[1].strip()), None)


public.declare(__name__, renamed={"of_machine": "is_machine_failure"})
