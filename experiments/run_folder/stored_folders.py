"""Folders and files in an object store: downloaded before a command reads them, uploaded after it has written them.

An object is a file of the same name, as for `aws s3 cp --recursive`. The local copies are in DIFFUSION_CACHE. A command
fetches only what has changed since an earlier command fetched it. Runs are stored in another form (see `mirror`), by
which they are recognized.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator

from diffusion.experiments.run_folder import stored_runs
from diffusion.io import files, opener, snapshots, stores
from diffusion.training.runtime import progress

THREADS = 8  # objects that are fetched at once
RECORDED = 5.0  # seconds between two writes of the record of fetched files
Versions = dict[str, tuple[int, str]]  # {name of a file: (size in bytes, the version of its object)}


def local(address: str) -> pathlib.Path:
    """The local copy of an address: the same for every command on this machine."""
    scheme, *parts = stored_runs.local(address).relative_to(os.path.abspath(files.cache("stores"))).parts
    return pathlib.Path(os.path.abspath(files.cache("stored_folders"))).joinpath(scheme, *parts)


class Input:
    """A folder, one object or a run in a store, which a command reads.

    Attributes:
        address: its address, "s3://bucket/data" or "gs://bucket/model.safetensors".
        path: the local copy, which `fetch` makes.
    """

    def __init__(self, address: str):
        """Opens the store, and looks whether the address holds a run.

        Raises:
            StoreError: if the store fails.
        """
        self.address = address
        self._store = stores.connect(address)
        self._is_run = snapshots.latest(self._store).number > 0
        self.path = (stored_runs.local if self._is_run else local)(address)

    def fetch(self) -> None:
        """Fetches what has changed in the store.

        Raises:
            StoreError: if the store fails or holds no object there, if an object's name is not a valid path, or if the
                disk is too small.
        """
        if self._is_run:
            stored_runs.Reading(self.address, every=True)
            return
        versions = self._store.versions()
        if not versions:
            raise stores.StoreError(
                f"{self.address} holds no objects. Check its spelling, and that your keys may list it."
            )
        with _alone(self.path):
            _bring(self._store, self.path, versions, self.path.with_name(f".{self.path.name}.fetched.json"))


def _bring(store: stores.Store, copy: pathlib.Path, versions: Versions, record: pathlib.Path) -> None:
    """Fetches these versions of the files into a local copy, and removes files that its record lists beside them."""
    have = _recorded(record)
    paths = {name: _path(copy, name, store.address) for name in versions}
    size = lambda name: paths[name].stat().st_size if paths[name].is_file() else -1
    lacking = [name for name in versions if have.get(name) != versions[name] or size(name) != versions[name][0]]
    needed = sum(versions[name][0] for name in lacking)
    if needed > (free := shutil.disk_usage(copy.parent).free):
        raise stores.StoreError(
            f"{store.address} has {needed:,} bytes to fetch, and the disk of {copy} has {free:,} free. Set "
            "DIFFUSION_CACHE to a folder of a larger disk."
        )
    for name in have.keys() - versions.keys():
        _path(copy, name, store.address).unlink(missing_ok=True)
    have = {name: have[name] for name in have.keys() & versions.keys() - set(lacking)}
    guard, written = threading.Lock(), time.monotonic()

    def bring(name: str) -> None:
        path = paths[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        try:
            store.fetch(name, new)
        except FileNotFoundError as error:
            raise stores.StoreError(f"{store.address}: {name} was removed while it was fetched.") from error
        os.replace(new, path)
        with guard:
            have[name] = versions[name]

    try:
        with progress.bar(f"fetching {store.address}", len(lacking), "files", speaks=bool(lacking)) as advance:
            with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
                for done, _ in enumerate(_completed(threads, bring, lacking), 1):
                    advance(done)
                    if time.monotonic() > written + RECORDED:
                        with guard:
                            _write(record, have)
                        written = time.monotonic()
    finally:
        _write(record, have)


def _completed(threads: concurrent.futures.Executor, work: Callable, items: list[str]) -> Iterator[None]:
    """Works on all items, and yields once for each that is done; after an error no further item is begun."""
    futures = [threads.submit(work, item) for item in items]
    try:
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _path(copy: pathlib.Path, name: str, address: str) -> pathlib.Path:
    """The local file of an object; refuses a name that is not a path below the folder."""
    parts = name.split("/") if name else []  # no name: the address is that of a single object
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise stores.StoreError(
            f"{address} has an object {name!r}, whose name is not the path of a file below a folder. Rename or remove "
            "the object."
        )
    return copy.joinpath(*parts)


def _recorded(record: pathlib.Path) -> Versions:
    """The versions of the files in a local copy, from its record; {} without one."""
    with contextlib.suppress(FileNotFoundError):
        return {name: (size, version) for name, (size, version) in opener.read_json(record).items()}
    return {}


def _write(record: pathlib.Path, versions: Versions) -> None:
    with files.atomic(record) as file:
        file.write(json.dumps(versions).encode())


@contextlib.contextmanager
def _alone(copy: pathlib.Path) -> Iterator[None]:
    """Makes the processes of this machine that read one address wait for one another."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with open(copy.with_name(f".{copy.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Output:
    """A folder or file that a command writes locally, and that is sent to a store at the command's end.

    Attributes:
        address: its address.
        path: the local folder or file.
    """

    def __init__(self, address: str):
        """Opens the store; files of an earlier command stay in the local folder, so that this command can resume."""
        self.address, self.path = address, local(address)
        self._store = stores.connect(address)
        self._record = self.path.with_name(f".{self.path.name}.sent.json")  # the marks of the files that were sent
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def send(self) -> int:
        """Sends the files that are new or changed since they were last sent, and returns their number.

        Files are sent in the order in which they were written, so that the file that marks a folder as complete arrives
        last. Files of an earlier, interrupted command are sent too.

        Raises:
            StoreError: if the store fails; the local files remain.
        """
        jax = sys.modules.get("jax")
        if jax and jax.process_index() > 0:
            return 0
        sent: dict[str, list[int]] = {}
        with contextlib.suppress(FileNotFoundError):
            sent = opener.read_json(self._record)
        changed = sorted((mark, name) for name, mark in self._marks().items() if sent.get(name) != mark)
        try:
            for mark, name in changed:
                self._store.send(name, self.path / name)
                sent[name] = mark
        finally:
            files.write_text(self._record, json.dumps(sent))
        return len(changed)

    def _marks(self) -> dict[str, list[int]]:
        """{path of a file below the folder: [time of its last change, size, inode]}; "" for a single file."""
        if self.path.is_file():
            return {"": _mark(self.path)}
        below = (path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
        hidden = lambda path: any(part.startswith(".") for part in path.relative_to(self.path).parts)
        return {path.relative_to(self.path).as_posix(): _mark(path) for path in below if not hidden(path)}


def _mark(path: pathlib.Path) -> list[int]:
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_size, stat.st_ino]
