"""Snapshots of a folder in an object store: numbered lists of its files; the newest list is valid.

    files/PATH/WRITER-SHA256     the content of a file; never changed once it is listed
    snapshots/00000012.json      path -> (object, SHA-256, size) of every file, and who holds the folder

A writer sends the objects first and creates the next list last: a reader finds the folder as it was before, or as it is
after, never between. Two writers cannot create one number, so the later one reads the other's list and adds to it.
"""

import json
import re
import uuid
from collections.abc import Callable
from typing import NamedTuple

from diffusion.io import limits
from diffusion.io.stores import Store, StoreError

KEPT = 100  # lists of before that stay
NAME = re.compile(r"snapshots/(\d{8})\.json")
FORMAT = 1


class Fenced(StoreError):
    """Another process has taken over the folder; the message says which."""


class Entry(NamedTuple):
    """A file of a snapshot."""

    object: str  # name of the object that has its content
    sha256: str  # 64 hexadecimal digits
    size: int  # bytes


class Holder(NamedTuple):
    """Who may train in the folder."""

    epoch: int = 0  # how many holders there have been; 0 for none
    token: str = ""  # names the local folder in which the holder works
    who: str = ""  # the process, for messages


class Snapshot(NamedTuple):
    """The files of a folder at one moment."""

    number: int  # 0 where nothing has been committed
    holder: Holder
    files: dict[str, Entry]


def latest(store: Store) -> Snapshot:
    """The newest snapshot of a store; number 0 if there is no snapshot.

    Raises:
        StoreError: if it cannot be read, or a newer version of this library wrote it.
    """
    for _ in range(KEPT):  # the list may be removed between the two calls
        numbers = _numbers(store)
        if not numbers:
            return Snapshot(0, Holder(), {})
        try:
            return _parsed(store, numbers[-1], store.read(_name(numbers[-1])))
        except FileNotFoundError:
            continue
    raise StoreError(f"{store.address}: its newest list of files was replaced {KEPT} times while it was read.")


def commit(store: Store, edit: Callable[[Snapshot], Snapshot]) -> Snapshot:
    """Adds a snapshot to a store, and removes the objects that no file has any more.

    Args:
        store: the store; the objects of new entries are there already.
        edit: a function from the newest snapshot to the next, but for its number. It is called again where another
            writer was first, and raises where it may not go on.

    Returns:
        The snapshot that is in the store now, which is the newest of before where `edit` changes nothing.

    Raises:
        StoreError: if the store fails.
    """
    while True:
        before = latest(store)
        after = edit(before)._replace(number=before.number + 1)
        if after[1:] == before[1:]:
            return before
        if not store.create(_name(after.number), _text(after)):
            continue
        numbers = _numbers(store)
        if numbers[-1] - after.number < KEPT:
            break
        store.remove([_name(after.number)])  # an old number, free since its list was removed: this writer slept
    gone = {entry.object for entry in before.files.values()} - {entry.object for entry in after.files.values()}
    store.remove([*sorted(gone), *map(_name, (number for number in numbers if number <= numbers[-1] - KEPT))])
    return after


def _numbers(store: Store) -> list[int]:
    return sorted(int(match[1]) for name in store.names("snapshots") if (match := NAME.fullmatch(name)))


def _name(number: int) -> str:
    return f"snapshots/{number:08d}.json"


def _text(snapshot: Snapshot) -> bytes:
    """The content of a snapshot's list of files."""
    content = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,  # no two writers write the same bytes
        "holder": snapshot.holder._asdict(),
        "files": dict(sorted(snapshot.files.items())),
    }
    return json.dumps(content, indent=0).encode()


def _parsed(store: Store, number: int, content: bytes) -> Snapshot:
    """The snapshot that a list of files holds."""
    where = f"{store.address}/{_name(number)}"
    try:
        value = limits.parse_json(content, where)
        if int(value["format"]) > FORMAT:
            raise StoreError(f"{where} has format {value['format']}; this version reads up to {FORMAT}: update.")
        limits.inside(where, value["files"])
        files = {path: Entry(str(name), str(sha), int(size)) for path, (name, sha, size) in value["files"].items()}
        return Snapshot(number, Holder(**value["holder"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # a ValueError: limits.Refused too
        raise StoreError(f"{where} is not a list of files: {type(error).__name__}: {error}.") from error
