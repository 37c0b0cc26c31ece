"""A run whose folder is in an object store, "s3://bucket/run", and its local copy.

Commands work in the local copy, as in the folder of any run. At their end, files that they wrote are sent to the store.
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
TRIES = 5  # attempts of a fetch; each may fail because the run removes a file that is being read


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
    """Fetches the files of a snapshot into a local folder: the latest sound checkpoint, or every one, and other files.

    Args:
        copy: the folder, which this process has locked.
        snapshot: the snapshot.
        is_ours: whether no other folder has trained since this one was copied, so that newer files here stay.
        every: whether to fetch every checkpoint.

    Raises:
        Altered: if no checkpoint of the store is sound, or if another file is damaged.
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
    """Locks a folder, and yields whether no process trains in it; commands that read it wait for one another."""
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
            address: the address of the run.
            every: whether to fetch every checkpoint, and not only the latest.

        Raises:
            StoreError: if the store fails, or holds no run at this address.
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
        """Sends the files that were written since the run was fetched, except checkpoints, and returns their number.

        It sends none if a process trains the run in this folder, since that process sends them.
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
            # This folder is locked, so objects that were sent from here and never listed are those of a killed command.
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
        has_ended: a function from the name of a writer to whether it has ended, and will list no more objects.
    """
    sent = store.names("files")
    listed = {entry.object for entry in latest(store).files.values()}
    writer = lambda name: name.rpartition("/")[2].rpartition("-")[0]
    store.remove(name for name in sent if name not in listed and has_ended(writer(name)))


def with_files(snapshot: Snapshot, entries: dict[str, Entry], gone=frozenset()) -> Snapshot:
    """A snapshot with these files added, and without the files in `gone`."""
    remaining = {path: entry for path, entry in snapshot.files.items() if path not in gone}
    return snapshot._replace(files=remaining | entries)
