"""A run whose folder is in an object store, "s3://bucket/run", and its local copy.

Commands work in the local folder, as with any run; a file that they write there is sent to the store at their end.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator

from diffusion.io import files, store_copies, stores
from diffusion.io.snapshots import Entry, Snapshot, commit, latest

CHECKPOINT = re.compile(r"(checkpoints/(\d{1,18}))/.+")
TRIES = 5  # attempts of a fetch, while the run may remove what is being read


def local(address: str) -> pathlib.Path:
    """The local folder of an address, below DIFFUSION_CACHE: the same for every command on this machine."""
    scheme, _, rest = address.partition("://")
    parts = [part for part in rest.split("/") if part]
    if ".." in parts or "." in parts:
        raise stores.StoreError(
            f"{address} has the part {'..' if '..' in parts else '.'}, which a store does not support."
        )
    return pathlib.Path(os.path.abspath(files.cache("stores"))).joinpath(scheme, *parts)


def steps(paths) -> list[int]:
    """The steps whose checkpoints have one of these files, ascending."""
    return sorted({int(match[2]) for path in paths if (match := CHECKPOINT.fullmatch(path))})


def checkpoint_step(path: str) -> int | None:
    """The step of the checkpoint to which a file belongs; None for another file."""
    match = CHECKPOINT.fullmatch(path)
    return int(match[2]) if match else None


def fetch(copy: store_copies.Copy, snapshot: Snapshot, is_ours: bool, every: bool = False) -> None:
    """Brings a local folder up to a snapshot: its latest sound checkpoint, or every one, and all other files.

    Args:
        copy: the folder, which this process has locked.
        snapshot: the snapshot.
        is_ours: whether no other folder has trained since, so that what is newer here is kept.
        every: whether every checkpoint is fetched.

    Raises:
        Altered: if no checkpoint of the store is sound, or another file is not.
        FileNotFoundError: if a newer snapshot has removed a file meanwhile.
        StoreError: if the store fails.
    """
    gone = copy.compare(snapshot)
    if not is_ours:
        for path in gone:
            (copy.folder / path).unlink(missing_ok=True)
        for step in set(steps(copy.paths())) - set(steps(snapshot.files)):
            _remove(copy.folder / "checkpoints" / str(step))
    stale = copy.stale(snapshot, exactly=not is_ours)
    _fetch(copy, snapshot, [path for path in stale if checkpoint_step(path) is None])
    copy.write_record()
    stale_steps = set(steps(stale))
    sound = max(set(steps(copy.paths())) - stale_steps, default=-1)
    damage = None
    for step in reversed(steps(snapshot.files)):
        if sound >= step and not every:
            break
        if step not in stale_steps:
            continue
        try:
            paths = [path for path in snapshot.files if checkpoint_step(path) == step]
            _fetch(copy, snapshot, paths, f"checkpoints/{step}")
        except store_copies.Altered as error:
            print(f"WARNING: {error} FALLING BACK to an earlier checkpoint.", file=sys.stderr, flush=True)
            damage = error
            continue
        copy.write_record()
        sound = max(sound, step)
    if damage and sound < 0:
        raise damage


def _fetch(copy: store_copies.Copy, snapshot: Snapshot, paths: list[str], into: str = "") -> None:
    try:
        copy.fetch(snapshot, paths, into)
    except FileNotFoundError as error:
        if latest(copy.store).number != snapshot.number:
            raise
        raise store_copies.Altered(f"{copy.store.address} lacks an object that it lists: {error}.") from error


def _remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint; only complete checkpoints have a bare number as their name."""
    removed = folder.with_name(f"{folder.name}.removed.orbax-checkpoint-tmp")
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[bool]:
    """Yields whether no process trains in a folder, and keeps others out; commands that read wait for one another."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".reading", "a") as readers, open(folder / ".lock", "a") as run:
        fcntl.flock(readers, fcntl.LOCK_EX)
        try:
            fcntl.flock(run, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class Reading:
    """A run that a command reads; the command may write beside it, as `diffusion sample` writes samples.npz.

    Attributes:
        address: its address.
        folder: the local folder.
    """

    def __init__(self, address: str, every: bool = False):
        """Fetches the run, unless a process of this machine trains it in that folder.

        Args:
            address: the address.
            every: whether every checkpoint is fetched, not only the latest.

        Raises:
            StoreError: if the store fails, or has no run there.
        """
        self.address, self.folder = address, local(address)
        self._store = stores.connect(address)
        with _alone(self.folder) as is_alone:
            for last in (False,) * (TRIES - 1) + (True,) if is_alone else ():
                snapshot = latest(self._store)
                if not snapshot.number:
                    raise stores.StoreError(f"--workdir={address} holds no run.")
                copy = store_copies.Copy(self.folder, self._store)
                try:
                    fetch(copy, snapshot, snapshot.holder.token == copy.token(), every)
                    break
                except FileNotFoundError:
                    if last:
                        raise
            copy = store_copies.Copy(self.folder, self._store)
        self._before = copy.marks()

    def send_changes(self) -> int:
        """Sends the files written since, except checkpoints, and returns how many.

        It sends none where a run trains there, which sends them itself.
        """
        jax = sys.modules.get("jax")
        if jax and jax.process_index() > 0:
            return 0
        with _alone(self.folder) as is_alone:
            copy = store_copies.Copy(self.folder, self._store)
            marks = copy.marks()
            changed = [
                path for path in marks if marks[path] != self._before.get(path) and checkpoint_step(path) is None
            ]
            if not is_alone or not changed:
                return 0
            # This folder's lock is held: what an earlier command sent from here and did not list is of a killed one.
            remove_unlisted(self._store, lambda writer: writer.startswith(beside(copy)))
            entries = copy.send(changed, f"{beside(copy)}{uuid.uuid4().hex}")
            commit(self._store, lambda before: with_files(before, entries))
            copy.note_listed()
            copy.write_record()
            return len(entries)


def beside(copy: store_copies.Copy) -> str:
    """The common start of the object names that writers beside a run use, from one local folder."""
    return f"beside-{copy.token()}-"


def remove_unlisted(store: stores.Store, has_ended: Callable[[str], bool]) -> None:
    """Removes the objects of a killed command, which sent them but did not write the list of them.

    Args:
        store: the store of the run.
        has_ended: the word of a writer -> whether it has ended, and will list no more objects.
    """
    sent = store.names("files")
    listed = {entry.object for entry in latest(store).files.values()}
    writer = lambda name: name.rpartition("/")[2].rpartition("-")[0]
    store.remove(name for name in sent if name not in listed and has_ended(writer(name)))


def with_files(snapshot: Snapshot, entries: dict[str, Entry], gone=frozenset()) -> Snapshot:
    """A snapshot with these files, and without the removed ones."""
    remaining = {path: entry for path, entry in snapshot.files.items() if path not in gone}
    return snapshot._replace(files=remaining | entries)
