"""Checks of where runs and data may lie: on a local or shared file system, but not in an object store, even mounted."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # two letters or more: "C:/" is a disk
UNKNOWN = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EIO, errno.EPERM}
WHERE = "Runs and data lie on a local or shared file system (a disk, NFS, Filestore, Lustre)"


def objection(path: str | os.PathLike) -> str | None:
    """The reason why a folder or file is refused; None if it is not.

    The address of an object store ("gs://bucket/run") is refused. If the locale's file names are not UTF-8, so is a
    path with letters outside of ASCII: Orbax and TensorStore would write to another folder than Python reads.
    """
    encoding = sys.getfilesystemencoding()
    if path and not address(path) and encoding != "utf-8" and not os.path.abspath(path).isascii():
        return (
            f"a path with letters outside of ASCII, which this locale ({encoding}) spells differently from the "
            "libraries that write checkpoints. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8, or choose a plain path."
        )
    return address(path)


def address(path: str | os.PathLike) -> str | None:
    """The reason why a word is refused as a path if it is the address of an object store, "gs://..."; else None."""
    scheme = ADDRESS.match(os.fspath(path))
    if not scheme:
        return None
    return (
        f"an address ({scheme[1]}:), not a folder. An object store has no append, no rename and no locks. {WHERE}: "
        "name a folder there, and copy to or from the store by its own tool, e.g. `gcloud storage cp -r` or `aws s3 cp "
        "--recursive`. A command copies s3://BUCKET/PATH and gs://BUCKET/PATH itself if its own words name them; "
        "--config and --extend take files of this machine alone."
    )


class Lacking(RuntimeError):
    """A folder's file system cannot do what a run needs; the message says which operation failed."""


def probe(folder: pathlib.Path) -> None:
    """Tries the operations of a run in a folder: append to a file, flush it to disk, replace it, rename a folder.

    A bucket that is mounted as a folder (gcsfuse, s3fs, Mountpoint) lacks some of these operations, and could lose a
    checkpoint or lines of metrics.

    Args:
        folder: the folder, which no other process probes at the same time.

    Raises:
        Lacking: if the file system does not know an operation, or the operation has another effect. No file is left
            behind.
        OSError: if the disk is full, or this user may not write to the folder.
    """
    place = folder / ".probe"
    moved = folder / ".probe-moved"
    _remove(place, moved)
    try:
        place.mkdir()
        lines = place / "lines"
        new = place / "new"
        for line in ("1\n", "2\n"):
            with trying("append to a file"), open(lines, "a") as file:
                file.write(line)
        _must(lines.read_text() == "1\n2\n", "append to a file")
        with trying("flush a file to disk (fsync)"), open(new, "w") as file:
            file.write("3\n")
            file.flush()
            os.fsync(file.fileno())
        with trying("replace a file by another (rename)"):
            os.replace(new, lines)
        _must(lines.read_text() == "3\n" and not new.exists(), "replace a file by another (rename)")
        with trying("rename a folder"):
            os.rename(place, moved)
        _must((moved / "lines").exists() and not place.exists(), "rename a folder")
    finally:
        _remove(place, moved)


@contextlib.contextmanager
def trying(operation: str) -> Iterator[None]:
    """Turns the error of an operation that the file system does not support into `Lacking`, with its name.

    Other errors, such as a full disk, pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in UNKNOWN:
            raise Lacking(f"it cannot {operation}: {error.strerror}") from error
        raise


def _must(done: bool, operation: str) -> None:
    if not done:
        raise Lacking(f"it does not {operation}, though it claims to")


def _remove(*folders: pathlib.Path) -> None:
    for path in folders:
        shutil.rmtree(path, ignore_errors=True)
