"""An object store on a disk, which several processes share, with the faults of real ones: failing, full, cut off."""

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
    """A store of whole objects with fsspec's names for what `diffusion.io.stores` calls; an object is a file.

    A written object appears at once by a rename, and a created one by a link, of which one of several succeeds.

    Attributes:
        calls: (name of the operation, path) of each call so far.
    """

    def __init__(self, root: pathlib.Path, before: Callable[[int, str, str], None] | None = None):
        """`before` is called before each operation with its number from 1, its name and its path, and may raise."""
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
    """The `Store` of "s3://bucket/run" on such a disk; it waits for nothing between attempts."""
    return stores.Store(system, root, f"s3://{root}", pause=pause)


def every_tenth(number: int, name: str, path: str) -> None:
    """Fails every tenth operation."""
    if number % 10 == 0:
        raise ConnectionError("the store closed the connection")


def connect_to(root: str, fails: str = "", kill: int = 0, silent: bool = True) -> None:
    """Puts a `DiskStore` in the place of every store of this process, which copies to it all the time.

    Args:
        root: the folder of its objects.
        fails: "tenth": every tenth operation; "sends": each that would send a file, as a full store; "slow": none, but
            each takes 20 ms.
        kill: the number of the operation before which the process ends by SIGKILL; 0 for none.
        silent: whether a holder that says nothing is over at once.
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
