"""An object store on a disk, which several processes can share, and which can fail in the ways of real stores."""

import os
import pathlib
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable

from diffusion.io import stores


class DiskStore:
    """An object store whose objects are files, with those methods of fsspec that `diffusion.io.stores` calls.

    A written object appears at once by a rename. A created object appears by a link, which only one of several
    processes can make.

    Attributes:
        calls: (name of the operation, path) of each call so far.
    """

    def __init__(self, root: pathlib.Path, before: Callable[[int, str, str], None] | None = None):
        """Opens the store.

        Args:
            root: the folder of the objects.
            before: a function (number of the operation from 1, its name, its path) that is called before each
                operation; it may raise an exception, with which the operation fails.
        """
        self.root, self.calls, self._before = pathlib.Path(root), [], before
        self._guard = threading.Lock()

    def _begin(self, name: str, path: str) -> pathlib.Path:
        with self._guard:
            self.calls.append((name, path))
            number = len(self.calls)
        if self._before:
            self._before(number, name, path)
        return self.root / path

    def _appear(self, path: pathlib.Path, fill: Callable[[pathlib.Path], None], mode: str = "overwrite") -> None:
        temporary = self.root / ".new" / uuid.uuid4().hex
        temporary.parent.mkdir(parents=True, exist_ok=True)
        fill(temporary)
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "create":
            os.link(temporary, path)
            temporary.unlink()
        else:
            os.replace(temporary, path)

    def pipe_file(self, path, value, mode="overwrite"):
        self._appear(self._begin("create" if mode == "create" else "write", path), lambda t: t.write_bytes(value), mode)

    def put_file(self, lpath, rpath):
        self._appear(self._begin("send", rpath), lambda temporary: shutil.copyfile(lpath, temporary))

    def cat_file(self, path):
        return self._begin("read", path).read_bytes()

    def get_file(self, rpath, lpath):
        shutil.copyfile(self._begin("fetch", rpath), lpath)

    def find(self, path, detail=False):
        folder = self._begin("list", path)
        files = [folder] if folder.is_file() else [file for file in folder.rglob("*") if file.is_file()]
        paths = {file.relative_to(self.root).as_posix(): file.stat() for file in files}
        if not detail:
            return [*paths]
        return {
            path: {"size": stat.st_size, "ETag": f"{stat.st_mtime_ns}-{stat.st_ino}"} for path, stat in paths.items()
        }

    def rm_file(self, path):
        self._begin("remove", path).unlink()


def store(system: DiskStore, root: str = "bucket/run", pause: Callable[[float], None] = lambda seconds: None):
    """A `Store` with the address "s3://bucket/run" on a `DiskStore`, which does not wait between attempts."""
    return stores.Store(system, root, f"s3://{root}", pause=pause)


def every_tenth(number: int, name: str, path: str) -> None:
    """Fails every tenth operation."""
    if number % 10 == 0:
        raise ConnectionError("the store closed the connection")


def connect_to(root: str, fails: str = "", kill: int = 0, silent: bool = True) -> None:
    """Replaces every store of this process by a `DiskStore`, to which runs copy without pauses.

    Args:
        root: the folder of the objects.
        fails: the faults of the store; "tenth": every tenth operation fails; "sends": each operation that sends a file
            fails, as in a full store; "slow": no operation fails, but each takes 20 ms; "": none.
        kill: the number of the operation before which SIGKILL ends the process; 0 for none.
        silent: whether a lease without signs of life ends at once.
    """
    from diffusion.experiments.run_folder import mirror
    from diffusion.io import leases

    def before(number: int, name: str, path: str) -> None:
        if number == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if fails == "tenth":
            every_tenth(number, name, path)
        elif fails == "sends" and name == "send":
            raise OSError(28, "No space left on device")
        elif fails == "slow":
            time.sleep(0.02)

    mirror.EVERY = 0.01
    if silent:
        leases.ENDS = leases.BEAT = 0.0
    stores.connect = lambda address: stores.Store(
        DiskStore(pathlib.Path(root), before), address.partition("://")[2], address, pause=lambda seconds: None
    )
