"""A local folder that stands for a folder in an object store: what differs is sent, or fetched and compared with its
SHA-256.

The folder's own record, .store.json, says which object each file came from or went to. Both directions may end at any
moment: a file is fetched under another name first, and the record is written whole.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from diffusion.io import files, opener
from diffusion.io.snapshots import Entry, Snapshot
from diffusion.io.stores import Store, StoreError

RECORD = ".store.json"
TOKEN = ".token"
OUTGOING = ".outgoing"  # files on their way to the store, which the run may change or remove meanwhile
UNFINISHED = re.compile(r"\..*|.*orbax-checkpoint-tmp.*|.*\.damaged")  # names that are no part of the folder
CHUNK = 2**20  # bytes hashed at a time
COPIED = 2**26  # bytes of a file that is copied before it is sent; a larger one is linked
TRIES = 3  # attempts for a file whose content does not match its SHA-256


class Altered(StoreError):
    """The content of an object is not what its list of files says."""


class _File(NamedTuple):
    """A file as it was when it was sent or fetched."""

    object: str
    sha256: str
    size: int
    mark: tuple[int, int, int]  # size, time of the last change in nanoseconds, inode


class Copy:
    """A folder and what it knows of the store.

    Attributes:
        folder: the local folder.
        store: the store of the whole folder.
    """

    def __init__(self, folder: pathlib.Path, store: Store):
        """Reads the folder's record; the folder, which this process has locked, may be empty."""
        self.folder, self.store = folder, store
        self._files: dict[str, _File] = {}
        self._sent: dict[str, _File] = {}  # what the last `send` sent, which no snapshot may list
        with contextlib.suppress(FileNotFoundError):
            record = opener.read_json(folder / RECORD)
            self._files = {
                path: _File(name, sha, size, (mark[0], mark[1], mark[2]))
                for path, (name, sha, size, mark) in record.items()
            }

    def paths(self) -> list[str]:
        """The files of the folder, by their paths below it, sorted; none that is being written or set aside."""
        listed = []
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not UNFINISHED.fullmatch(name)]
            below = pathlib.Path(place).relative_to(self.folder)
            listed += [(below / name).as_posix() for name in names if not UNFINISHED.fullmatch(name)]
        return sorted(path for path in listed if not (self.folder / path).is_symlink())

    def changed(self) -> list[str]:
        """The files that differ from what was sent or fetched last, or were never sent."""
        return [path for path in self.paths() if not self._is_unchanged(path)]

    def removed(self) -> list[str]:
        """The files that were sent or fetched and are no longer in the folder."""
        there = set(self.paths())
        return sorted(path for path in self._files if path not in there)

    def _is_unchanged(self, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return path in self._files and self._files[path].mark == _mark(self.folder / path)
        return False

    def marks(self) -> dict[str, tuple[int, int, int]]:
        """{path of a file: (size, time of the last change, inode), by which its states differ}."""
        marks = {}
        for path in self.paths():
            with contextlib.suppress(FileNotFoundError):
                marks[path] = _mark(self.folder / path)
        return marks

    def token(self) -> str:
        """The identifier by which a store recognises the folder; made at the first call."""
        path = self.folder / TOKEN
        with contextlib.suppress(FileNotFoundError):
            return opener.read_text(path)
        token = uuid.uuid4().hex
        files.write_text(path, token)
        return token

    # ==== To the store ====

    def send(self, paths: Iterable[str], writer: str) -> dict[str, Entry]:
        """Sends files, and returns their entries, which are in no snapshot yet.

        The folder is sent as it was at one moment: all files are held first, by a link or a copy. They count as changed
        until `note_listed`.

        Args:
            paths: the files.
            writer: a word that only this process uses, for the names of objects.

        Raises:
            FileNotFoundError: if one of the files is gone; nothing was sent.
            StoreError: if the store fails.
        """
        outgoing = self.folder / OUTGOING
        shutil.rmtree(outgoing, ignore_errors=True)
        self._sent = {}
        try:
            held = [(path, _held(self.folder / path, outgoing / str(i))) for i, path in enumerate(paths)]
            entries = {}
            for i, (path, mark) in enumerate(held):
                file = outgoing / str(i)
                sha256, size = _digest(file)
                name = f"files/{path}/{writer}-{sha256}"
                self.store.send(name, file)
                if size > COPIED and _mark(file) != mark:
                    continue  # it was written meanwhile: the next time sends it
                entries[path] = Entry(name, sha256, size)
                self._sent[path] = _File(name, sha256, size, mark)
            return entries
        finally:
            shutil.rmtree(outgoing, ignore_errors=True)

    def note_listed(self) -> None:
        """Records the files that were sent last, once a snapshot lists them."""
        self._files |= self._sent
        self._sent = {}

    def forget(self, paths: Iterable[str]) -> None:
        """Takes files off the record, once no snapshot has them."""
        for path in paths:
            self._files.pop(path, None)

    def write_record(self) -> None:
        """Writes the folder's record, once what it says is in the store or in the folder."""
        files.write_text(self.folder / RECORD, json.dumps(self._files))

    # ==== From the store ====

    def stale(self, snapshot: Snapshot, exactly: bool = False) -> list[str]:
        """The files of a snapshot that are not here, or that the store has changed since.

        Args:
            snapshot: the snapshot.
            exactly: whether those that were changed here are also stale.
        """
        here = set(self.paths())
        return [
            path
            for path, entry in snapshot.files.items()
            if path not in here
            or path not in self._files
            or self._files[path].object != entry.object
            or (exactly and not self._is_unchanged(path))
        ]

    def compare(self, snapshot: Snapshot) -> list[str]:
        """Forgets the files that the store has no longer, so that they count as new; returns them."""
        gone = sorted(path for path in self._files if path not in snapshot.files)
        self.forget(gone)
        return gone

    def fetch(self, snapshot: Snapshot, paths: Iterable[str], into: str = "") -> None:
        """Fetches files of a snapshot into their places.

        Args:
            snapshot: the snapshot.
            paths: its files to fetch.
            into: a folder of a snapshot, such as "checkpoints/200", that appears whole or not at all; all paths are of
                files in it. "" for files that appear one by one.

        Raises:
            Altered: if the content of an object does not match its SHA-256, however often it is read.
            FileNotFoundError: if an object is gone, as after a newer snapshot.
            StoreError: if the store fails.
        """
        if not into:
            for path in paths:
                target = self.folder / path
                self._fetch(snapshot.files[path], target.with_name(f".{target.name}.new"), target)
                self._note(path, snapshot.files[path])
            return
        paths = list(paths)
        target = self.folder / into
        with files.whole_folder(target) as temporary:
            for path in paths:
                place = temporary / pathlib.PurePosixPath(path).relative_to(into)
                self._fetch(snapshot.files[path], place, place)
        for path in paths:
            self._note(path, snapshot.files[path])

    def _note(self, path: str, entry: Entry) -> None:
        self._files[path] = _File(*entry, _mark(self.folder / path))

    def _fetch(self, entry: Entry, temporary: pathlib.Path, target: pathlib.Path) -> None:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            self.store.fetch(entry.object, temporary)
            if _digest(temporary) == (entry.sha256, entry.size):
                with open(temporary, "ab") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, target)
                return
        temporary.unlink()
        raise Altered(f"{self.store.address}/{entry.object} was altered: its SHA-256 is not {entry.sha256}.")


def _mark(path: pathlib.Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _held(path: pathlib.Path, place: pathlib.Path) -> tuple[int, int, int]:
    """Holds the content of a file at another place of its disk; returns the mark of what is held."""
    place.parent.mkdir(exist_ok=True)
    mark = _mark(path)
    if mark[0] <= COPIED:
        shutil.copyfile(path, place)
    else:
        os.link(path, place)
    return mark


def _digest(path: pathlib.Path) -> tuple[str, int]:
    """The SHA-256 of a file, and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with opener.open_file(path) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
