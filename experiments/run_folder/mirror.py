"""A run that trains in an object store: it works in a local folder, which a thread copies to the store.

The local folder is written as usual: no file is ever incomplete, checkpoints appear by a rename, and the kernel holds a
lock. Each copy is the state of this folder at one moment, so the store always holds what a run leaves if it is killed.
"""

import contextlib
import functools
import os
import pathlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from diffusion.experiments.run_folder import stored_runs
from diffusion.experiments.run_folder.stored_runs import checkpoint_step, steps
from diffusion.io import leases, snapshots, store_copies, stores

EVERY = 5.0  # seconds between two copies
TRIES = 10  # attempts of one copy; each may fail because the run removes a checkpoint meanwhile


class Mirror:
    """The copy of a run folder in a store, which process 0 of the run writes.

    Attributes:
        folder: the local folder.
    """

    def __init__(self, address: str):
        """Opens the store; nothing is read or written yet."""
        self.folder = stored_runs.local(address)
        self._address = address
        self._store = stores.connect(address)
        self._holder = snapshots.Holder()
        self._superfluous: Callable[[list[int]], list[int]] = lambda steps: []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sending = threading.Lock()
        self._beats = 0
        self._trouble = ""  # why the last copy failed; "" if it succeeded
        self._lost: snapshots.Fenced | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Takes over the folder in the store, and fetches what the local folder lacks; sends the rest at its end.

        The caller has locked the local folder.

        Raises:
            InUse: if another process trains there.
            StoreError: if the store fails at the beginning or at the end; the local folder then has everything.
        """
        print(f"{self._address} is trained in {self.folder} and copied", flush=True)
        self._copy = store_copies.Copy(self.folder, self._store)
        self._take_over()
        self._start(self._beat, leases.BEAT)
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            self._end()

    def begin(self, superfluous: Callable[[list[int]], list[int]]) -> None:
        """Starts the thread that copies.

        Args:
            superfluous: a function from all steps in the store to the steps that it may remove.
        """
        self._superfluous = superfluous
        self._start(self._copy_again, EVERY)

    def _start(self, work: Callable[[], None], seconds: float) -> None:
        def loop() -> None:
            while not self._stop.wait(seconds):
                work()

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()

    # ==== Who holds the folder ====

    def _take_over(self) -> None:
        token = self._copy.token()
        while self._holder.token != token:
            before = snapshots.latest(self._store)
            leases.require_over(self._store, before.holder, token)
            try:
                is_ours = not before.number or before.holder.token == token
                stored_runs.fetch(self._copy, before, is_ours)
            except FileNotFoundError:  # the earlier holder is alive after all, and has removed a file
                continue
            who = f"process {os.getpid()} on {socket.gethostname()}"
            holder = snapshots.Holder(before.holder.epoch + 1, token, who)
            with contextlib.suppress(_Moved):
                snapshots.commit(self._store, functools.partial(_succeeded, before, holder))
                self._holder = holder
        self._beat()
        self._remove_orphans()

    def _beat(self) -> None:
        self._beats += 1
        with contextlib.suppress(stores.StoreError):  # the next beat may arrive, and only the snapshots decide
            leases.say(self._store, self._holder, self._beats)

    def _remove_orphans(self) -> None:
        """Removes objects that earlier holders, and commands in this local folder, sent but never listed."""
        earlier = {_writer(epoch) for epoch in range(self._holder.epoch)}
        beside = stored_runs.beside(self._copy)
        stored_runs.remove_unlisted(self._store, lambda writer: writer in earlier or writer.startswith(beside))

    # ==== What is copied ====

    def send(self) -> None:
        """Sends the present content of the folder.

        Raises:
            Fenced: if another process has taken it over.
            StoreError: if the store fails.
        """
        with self._sending:
            removed = set(self._copy.removed())
            for _ in range(TRIES):
                here = self._copy.paths()
                try:
                    entries = self._copy.send(self._copy.changed(), _writer(self._holder.epoch))
                    break
                except FileNotFoundError:  # a checkpoint was removed meanwhile
                    continue
            else:
                return
            snapshots.commit(self._store, lambda newest: self._next(newest, entries, removed, set(here)))
            self._copy.note_listed()
            self._copy.forget(removed)
            self._copy.write_record()

    def _next(
        self, newest: snapshots.Snapshot, entries: dict[str, snapshots.Entry], removed: set[str], here: set[str]
    ) -> snapshots.Snapshot:
        """The next snapshot: with the files that were sent, and without those that the run has removed."""
        if newest.holder != self._holder:
            raise snapshots.Fenced(
                f"{self._address} was taken over by {newest.holder.who}, because nothing was heard of this process "
                f"for {leases.ENDS:g} s. What this process has written since is only in {self.folder}."
            )
        local_steps = set(steps(here))
        lost_steps = set(steps(removed)) - local_steps
        replaced = lambda path: checkpoint_step(path) in local_steps and path not in here
        gone = frozenset(p for p in newest.files if p in removed or checkpoint_step(p) in lost_steps or replaced(p))
        after = stored_runs.with_files(newest, entries, gone)
        old = set(self._superfluous(steps(after.files))) - local_steps
        return stored_runs.with_files(
            after, {}, frozenset(path for path in after.files if checkpoint_step(path) in old)
        )

    def _copy_again(self) -> None:
        """Copies the folder; of several failures in a row, only the first is printed."""
        if self._lost:
            return
        try:
            self.send()
            self._trouble = ""
        except snapshots.Fenced as error:
            self._lost = error
            print(f"WARNING: {error}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)  # the run saves its step and ends
        except OSError as error:
            if not self._trouble:
                print(f"WARNING: {error} The run goes on, and the copy is tried again.", file=sys.stderr, flush=True)
            self._trouble = str(error)

    def _end(self) -> None:
        if self._lost:
            raise self._lost
        try:
            self.send()
            leases.say(self._store, self._holder, self._beats + 1, is_over=True)
        except snapshots.Fenced:
            raise
        except OSError as error:
            raise stores.StoreError(
                f"{error} Everything is in {self.folder}; the same command on this machine continues from there and "
                "copies it."
            ) from error
        print(f"{self._address} holds the run: {self._steps()}", flush=True)

    def _steps(self) -> str:
        have = steps(snapshots.latest(self._store).files)
        return f"checkpoints {', '.join(map(str, have))}" if have else "no checkpoint yet"


class _Moved(Exception):
    """The newest snapshot is not the one that was fetched."""


def _succeeded(before: snapshots.Snapshot, holder: snapshots.Holder, newest: snapshots.Snapshot) -> snapshots.Snapshot:
    if newest.number != before.number:
        raise _Moved
    return newest._replace(holder=holder)


def _writer(epoch: int) -> str:
    return f"run{epoch:06d}"


def mirror_of(folder: str | os.PathLike) -> Mirror | None:
    """The mirror of a run whose folder is the address of a store; None for a folder."""
    return Mirror(os.fspath(folder)) if stores.is_address(folder) else None


def folder_of(folder: str | os.PathLike) -> pathlib.Path:
    """The local folder of a run, named by itself or by the address of a store."""
    return stored_runs.local(os.fspath(folder)) if stores.is_address(folder) else pathlib.Path(folder)
