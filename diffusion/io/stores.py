"""Object stores (s3://, gs://): whole objects are written, read, listed and removed, and failures are tried again.

A store has no folders, no append, no rename and no locks. The modules that use a store rely on a single promise: if
several writers create an object of the same name, exactly one succeeds (S3's If-None-Match, GCS's ifGenerationMatch).
"""

import importlib
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs"}  # libraries that fsspec uses, by the scheme of an address
FAULTS = {  # errors that a library raises besides OSError when a store or the network fails
    "s3": ("botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError", "aiohttp.ClientError"),
    "gs": ("gcsfs.retry.HttpError", "gcsfs.retry.ChecksumError", "google.auth.exceptions.GoogleAuthError",
           "aiohttp.ClientError", "requests.exceptions.RequestException"),
}  # fmt: skip
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts; each is multiplied by a random factor in [1, 2]
Result = TypeVar("Result")


class StoreError(OSError):
    """A store failed; the message names the object and the reason."""


def is_address(path: str | os.PathLike) -> bool:
    """Whether a text is an address in a store of one of `LIBRARIES`, such as "s3://bucket/run"."""
    scheme, _, rest = os.fspath(path).partition("://")
    return scheme in LIBRARIES and bool(rest.strip("/"))


def connect(address: str) -> "Store":
    """Opens the store of an address; nothing is read yet.

    Args:
        address: the address, "s3://bucket/run" or "gs://bucket/run". The libraries read keys and end points from the
            environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...).

    Raises:
        StoreError: if the scheme's library is not installed.
    """
    scheme, _, root = address.partition("://")
    try:
        import fsspec  # imported here: few runs need it

        importlib.import_module(LIBRARIES[scheme])
    except ImportError as error:
        raise StoreError(
            f"{address} can only be opened with {LIBRARIES[scheme]}, which is not installed: pip install "
            "'jax-diffusion[stores]'"
        ) from error
    system = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    names = [name.rpartition(".") for name in FAULTS[scheme]]
    faults = tuple(getattr(importlib.import_module(module), name) for module, _, name in names)
    return Store(system, root.rstrip("/"), address, faults)


class Store:
    """The objects below an address, by names such as "leases/000001.json".

    Attributes:
        address: the address, for messages.
    """

    def __init__(
        self,
        system: Any,
        root: str,
        address: str,
        faults: tuple[type[Exception], ...] = (),
        pause: Callable[[float], Any] = time.sleep,
    ):
        """Wraps a file system of fsspec.

        Args:
            system: the file system; pipe_file, put_file, cat_file, get_file, find and rm_file are used.
            root: the path of the address in the file system.
            address: the address, for messages.
            faults: the types of errors besides OSError that are worth another attempt.
            pause: a function that waits for a number of seconds.
        """
        self.address = address
        self._system, self._root, self._pause = system, root, pause
        self._faults = (OSError, *faults)

    def read(self, name: str) -> bytes:
        """The content of a small object.

        Raises:
            FileNotFoundError: if there is no object of this name.
            StoreError: if the store fails.
        """
        return self._tried(f"read {name}", lambda: self._system.cat_file(self._path(name)), may_lack=True)

    def fetch(self, name: str, path: pathlib.Path) -> None:
        """Copies an object into a file; raises as `read` does."""
        fetched = lambda: self._system.get_file(self._path(name), os.fspath(path))
        self._tried(f"read {name}", fetched, may_lack=True)

    def write(self, name: str, content: bytes) -> None:
        """Writes a small object; an object of the same name is replaced.

        Raises:
            StoreError: if the store fails, after the last attempt.
        """
        self._tried(f"write {name}", lambda: self._system.pipe_file(self._path(name), content))

    def send(self, name: str, path: pathlib.Path) -> None:
        """Copies a file into an object; raises as `write` does."""
        self._tried(f"write {name}", lambda: self._system.put_file(os.fspath(path), self._path(name)))

    def create(self, name: str, content: bytes) -> bool:
        """Creates a small object; returns whether this writer, and no other, has created it.

        Args:
            name: the name of the object.
            content: the bytes of the object, which no other writer may write: if an answer of the store is lost, the
                object is read and compared with them to see who created it.

        Raises:
            StoreError: if the store fails, after the last attempt.
        """

        def attempt() -> bool:
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
            except self._faults:
                try:
                    return self._system.cat_file(self._path(name)) == content
                except FileNotFoundError:
                    pass
                raise
            return True

        return self._tried(f"write {name}", attempt)

    def names(self, prefix: str) -> list[str]:
        """The names of the objects below a prefix such as "leases", sorted; [] if there are none."""
        try:
            paths = self._tried(f"list {prefix}", lambda: self._system.find(self._path(prefix)), may_lack=True)
        except FileNotFoundError:
            return []
        return sorted(map(self._name, paths))

    def versions(self) -> dict[str, tuple[int, str]]:
        """{name of an object below the address: (its size in bytes, a word that changes with its content)}.

        An object that lies at the address itself has the empty name.
        """
        try:
            infos = self._tried("list its objects", lambda: self._system.find(self._root, detail=True), may_lack=True)
        except FileNotFoundError:
            return {}
        is_file = lambda path: not path.endswith("/")  # some tools mark a folder by an empty object of its name
        named = {self._name(path): info for path, info in infos.items() if is_file(path)}
        return {name: (int(info["size"]), _version(info)) for name, info in sorted(named.items())}

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; it is no error if an object does not exist.

        Raises:
            StoreError: if the store fails, after the last attempt.
        """
        for name in names:
            try:
                removed = lambda name=name: self._system.rm_file(self._path(name))
                self._tried(f"remove {name}", removed, may_lack=True)
            except FileNotFoundError:
                continue

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _name(self, path: str) -> str:
        """The name of an object by its path in the file system; "" for the object at the address itself."""
        return path.strip("/").removeprefix(self._root.strip("/")).removeprefix("/")

    def _tried(self, what: str, attempt: Callable[[], Result], may_lack: bool = False) -> Result:
        """The result of an attempt, which is repeated after a failure that may be temporary.

        If `may_lack`, FileNotFoundError is an answer, and is raised at once. When an object is written,
        FileNotFoundError means that there is no bucket, and becomes a `StoreError`.
        """
        for wait in (*WAITS, None):
            try:
                return attempt()
            except self._faults as error:
                if may_lack and isinstance(error, FileNotFoundError):
                    raise
                if wait is None or isinstance(error, (PermissionError, FileNotFoundError)):
                    why = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
                    raise StoreError(f"{self.address} could not {what}: {why}.") from error
                self._pause(wait * random.uniform(1, 2))
        raise AssertionError("the last attempt returns or raises")


def _version(info: Mapping[str, Any]) -> str:
    """A word that changes with an object's content: S3's ETag, Google Cloud Storage's generation, or else its time."""
    return str(next((info[key] for key in ("ETag", "generation", "etag", "mtime") if info.get(key)), ""))
