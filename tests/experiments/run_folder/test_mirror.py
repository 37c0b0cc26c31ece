"""A run folder that is copied to a store: who holds it, what a kill at any moment leaves, and who goes on with what."""

import hashlib
import pathlib

import pytest

from diffusion.experiments.run_folder import mirror as mirrors, stored_runs
from diffusion.experiments.run_folder.mirror import Mirror
from diffusion.io import leases, snapshots, stores
from diffusion.io.store_copies import Altered, Copy
from tests.object_stores import DiskStore, every_tenth, store

ADDRESS = "s3://bucket/run"


class Places:
    """Machines with a local folder each, and one store; `before` acts on the calls of the next mirror."""

    def __init__(self, root: pathlib.Path, monkeypatch):
        self.root, self.monkeypatch, self.before, self.system = root, monkeypatch, None, None
        monkeypatch.setattr(stores, "connect", self.connect)

    def connect(self, address):
        assert address == ADDRESS
        self.system = DiskStore(self.root / "store", self.before)
        return store(self.system)

    def mirror(self, machine: str) -> Mirror:
        """A new process on a machine."""
        self.monkeypatch.setenv("DIFFUSION_CACHE", str(self.root / machine))
        mirror = Mirror(ADDRESS)
        mirror.folder.mkdir(parents=True, exist_ok=True)
        return mirror

    def killed(self, machine: str, work) -> Mirror:
        """A process that takes the folder over, works and sends, and says nothing at its end."""
        mirror = self.mirror(machine)
        mirror._copy = Copy(mirror.folder, mirror._store)
        mirror._take_over()
        work(mirror.folder)
        mirror.send()
        return mirror

    def stored(self) -> dict[str, bytes]:
        """The files that the store has, by a reader of its own."""
        objects = store(DiskStore(self.root / "store"))
        return {path: objects.read(entry.object) for path, entry in snapshots.latest(objects).files.items()}


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "require_over", lambda *_: None)  # each holder before is dead, unless a test says not
    return Places(tmp_path, monkeypatch)


def saves(*steps: int, lines: int = 0, also: str = ""):
    """The work of a run that writes checkpoints of two files and as many lines of metrics."""

    def work(folder: pathlib.Path) -> None:
        for step in steps:
            for name in ("ema/d/data", "about/metadata"):
                file = folder / f"checkpoints/{step}/{name}"
                file.parent.mkdir(parents=True)
                file.write_text(f"{name} of {step}{also}")
        (folder / "config.json").write_text("{}")
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in range(lines or max(steps))))

    return work


def here(folder: pathlib.Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in Copy(folder, None).paths()}


def test_a_run_goes_on_elsewhere_with_its_files(places):
    first = places.mirror("first")
    with first.held():
        saves(20, 40)(first.folder)
    second = places.mirror("second")
    with second.held():
        assert second.folder != first.folder
        assert stored_runs.steps(here(second.folder)) == [40], "the latest checkpoint is enough to go on"
        assert here(second.folder) == {path: text for path, text in here(first.folder).items() if "/20/" not in path}
    assert places.stored() == here(first.folder)


def test_a_folder_is_copied_while_the_run_goes_on(places, monkeypatch):
    monkeypatch.setattr(mirrors, "EVERY", 0.001)
    mirror = places.mirror("first")
    done = mirrors.threading.Event()
    mirror.send, send = lambda: (send(), done.set()), mirror.send
    with mirror.held():
        saves(20)(mirror.folder)
        mirror.begin(lambda steps: [])
        assert done.wait(60)
        assert stored_runs.steps(places.stored()) == [20]


def test_a_holder_speaks_again_and_again_and_says_its_end(places, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.001)
    said, is_heard, say = [], mirrors.threading.Event(), leases.say

    def heard(objects, holder, beat, is_over=False):
        say(objects, holder, beat, is_over)
        said.append((beat, is_over))
        if len(said) == 3:
            is_heard.set()

    monkeypatch.setattr(leases, "say", heard)
    with places.mirror("first").held():
        assert is_heard.wait(60)
    assert said == [(number + 1, number + 1 == len(said)) for number in range(len(said))]


def test_holders_are_counted_and_known_by_their_folders(places, monkeypatch):
    asked = []
    known = lambda objects, holder, token: asked.append((holder.epoch, holder.token, token))
    monkeypatch.setattr(leases, "require_over", known)
    first = places.killed("first", saves(20))
    places.killed("first", saves(40))
    second = places.killed("second", saves(60))
    a, b = first._copy.token(), second._copy.token()
    assert asked == [(0, "", a), (1, a, a), (2, a, b)]
    assert second._store.names("leases") == [f"leases/{epoch:06d}.json" for epoch in (1, 2, 3)]


def test_what_a_killed_run_had_not_sent_is_kept_on_its_machine(places):
    killed = places.killed("first", saves(20))
    saves(40)(killed.folder)
    with places.mirror("first").held():
        assert stored_runs.steps(here(killed.folder)) == [20, 40]
    assert places.stored() == here(killed.folder)


def test_what_a_killed_run_had_not_sent_gives_way_where_the_run_has_gone_on_elsewhere(places):
    killed = places.killed("first", saves(20))
    saves(40, lines=45)(killed.folder)
    places.killed("second", saves(60, lines=61))
    with places.mirror("first").held():
        assert stored_runs.steps(here(killed.folder)) == [20, 60]
        assert (killed.folder / "metrics.jsonl").read_text().splitlines()[-1] == "60"
    assert stored_runs.steps(places.stored()) == [20, 60]


def test_a_store_that_was_emptied_is_filled_again_by_the_machine_that_has_the_run(places):
    killed = places.killed("first", saves(20))
    objects = store(DiskStore(places.root / "store"))
    objects.remove(objects.names(""))
    with places.mirror("first").held():
        assert stored_runs.steps(here(killed.folder)) == [20]
    assert places.stored() == here(killed.folder)


def test_an_earlier_holder_changes_nothing_and_is_asked_to_end(places, monkeypatch, capsys):
    earlier = places.killed("first", saves(20))
    places.killed("second", saves(40))
    before = places.stored()
    saves(60)(earlier.folder)
    with pytest.raises(snapshots.Fenced, match="was taken over by process"):
        earlier.send()
    signals = []
    monkeypatch.setattr(mirrors.os, "kill", lambda pid, number: signals.append(number))
    earlier._copy_again()
    earlier._copy_again()
    assert signals == [mirrors.signal.SIGTERM]
    assert "is only in " + str(earlier.folder) in capsys.readouterr().err
    with pytest.raises(snapshots.Fenced):
        earlier._end()
    assert places.stored() == before


def test_a_holder_that_is_alive_is_not_disturbed(places, monkeypatch):
    places.killed("first", saves(20))

    def alive(objects, holder, token):
        raise leases.InUse(f"in use by {holder.epoch}")

    monkeypatch.setattr(leases, "require_over", alive)
    second = places.mirror("second")
    with pytest.raises(leases.InUse, match="in use by 1"), second.held():
        pytest.fail("it began")
    assert here(second.folder) == {}


def test_two_successors_of_one_holder_agree_on_one(places):
    """The second sees that the first was faster, and that it lives."""
    places.killed("first", saves(20))
    seen = []

    def during(number, name, path):
        if name == "create" and not seen:
            seen.append(path)
            places.before = None
            places.killed("third", saves(40))

            def alive(objects, holder, token):
                raise leases.InUse(f"in use by {holder.epoch}")

            places.monkeypatch.setattr(leases, "require_over", alive)

    places.before = during
    with pytest.raises(leases.InUse, match="in use by 2"), places.mirror("second").held():
        pytest.fail("it began")
    assert stored_runs.steps(places.stored()) == [20, 40]


def test_what_a_command_sends_as_the_folder_is_taken_over_is_fetched_too(places):
    places.killed("first", saves(20))
    seen = []

    def during(number, name, path):
        if name == "create" and not seen:
            seen.append(path)
            objects = store(DiskStore(places.root / "store"))
            objects.write("files/samples.npz/beside-1", b"samples")
            entry = snapshots.Entry("files/samples.npz/beside-1", hashlib.sha256(b"samples").hexdigest(), 7)
            snapshots.commit(objects, lambda newest: newest._replace(files=newest.files | {"samples.npz": entry}))

    places.before = during
    with (second := places.mirror("second")).held():
        assert here(second.folder) == places.stored() and "samples.npz" in here(second.folder)


# ==== Checkpoints ====


def test_checkpoints_that_the_run_removes_are_removed_from_the_store(places):
    mirror = places.killed("first", saves(20, 40))
    for path in (mirror.folder / "checkpoints/20").rglob("*"):
        if path.is_file():
            path.unlink()
    for path in sorted((mirror.folder / "checkpoints/20").rglob("*"), reverse=True):
        path.rmdir()
    (mirror.folder / "checkpoints/20").rmdir()
    mirror.send()
    assert places.stored() == here(mirror.folder)
    assert not [name for name in mirror._store.names("files") if "/20/" in name]
    assert mirror._copy.removed() == []


def test_a_file_that_a_checkpoint_loses_takes_no_other_with_it(places):
    mirror = places.killed("first", saves(20, 40))
    (mirror.folder / "checkpoints/40/about/metadata").unlink()
    mirror.send()
    assert places.stored() == here(mirror.folder) and stored_runs.steps(places.stored()) == [20, 40]


def test_what_was_sent_is_known_to_the_next_process_of_the_machine(places):
    mirror = places.killed("first", saves(20, 40))
    assert Copy(mirror.folder, None).changed() == []


def test_a_checkpoint_that_the_run_keeps_here_stays_in_the_store(places):
    mirror = places.killed("first", saves(20, 40))
    mirror._superfluous = lambda steps: steps
    saves(60)(mirror.folder)
    mirror.send()
    assert stored_runs.steps(places.stored()) == [20, 40, 60]


def test_checkpoints_that_are_in_the_store_alone_follow_the_runs_policy(places):
    places.killed("first", saves(20, 40, 60))
    with (mirror := places.mirror("second")).held():
        mirror.begin(lambda steps: steps[:-2])
        saves(80)(mirror.folder)
    assert stored_runs.steps(places.stored()) == [60, 80]


def test_a_step_that_is_made_again_takes_the_whole_place_of_the_altered_one(places, capsys):
    first = places.killed("first", saves(20, 40))
    entry = snapshots.latest(first._store).files["checkpoints/40/ema/d/data"]
    first._store.write(entry.object, b"altered")
    (first.folder / "checkpoints/40/only-here").write_text("")
    with (mirror := places.mirror("second")).held():
        assert stored_runs.steps(here(mirror.folder)) == [20]
        assert "FALLING BACK to an earlier checkpoint" in capsys.readouterr().err
        saves(40, also=" again")(mirror.folder)
        (mirror.folder / "checkpoints/40/about/metadata").unlink()
    assert places.stored() == here(mirror.folder)


def test_a_run_falls_back_to_the_checkpoint_before_its_first_step(places, capsys):
    first = places.killed("first", saves(0, 20))
    first._store.write(snapshots.latest(first._store).files["checkpoints/20/ema/d/data"].object, b"altered")
    with (mirror := places.mirror("second")).held():
        assert stored_runs.steps(here(mirror.folder)) == [0]
    assert "FALLING BACK to an earlier checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_store_without_a_sound_checkpoint_says_so(places, is_gone):
    first = places.killed("first", saves(20))
    entry = snapshots.latest(first._store).files["checkpoints/20/ema/d/data"]
    if is_gone:
        first._store.remove([entry.object])
    else:
        first._store.write(entry.object, b"altered")
    with pytest.raises(Altered, match="ema/d/data"), places.mirror("second").held():
        pytest.fail("it began")


def test_a_checkpoint_that_the_run_removes_while_it_is_held_is_left_out(places, monkeypatch):
    mirror = places.killed("first", saves(20))
    saves(40)(mirror.folder)
    listed = mirror._copy.changed

    def removed_meanwhile():
        paths = listed()
        if (folder := mirror.folder / "checkpoints/40").exists():
            folder.rename(mirror.folder / "checkpoints/40.removed.orbax-checkpoint-tmp")
        return paths

    monkeypatch.setattr(mirror._copy, "changed", removed_meanwhile)
    mirror.send()
    assert stored_runs.steps(places.stored()) == [20]


# ==== Faults of the store ====


def test_a_store_that_fails_every_tenth_call_loses_nothing(places):
    places.before = every_tenth
    mirror = places.killed("first", saves(20, 40))
    for step in (60, 80, 100):
        saves(step)(mirror.folder)
        mirror.send()
    assert len(places.system.calls) > 40
    assert places.stored() == here(mirror.folder)


def cut_at(number: int):
    def before(count, name, path):
        if count >= number:
            raise ConnectionError("no route to the store")

    return before


@pytest.mark.extended
def test_a_store_that_is_cut_off_at_any_call_of_a_save_has_the_save_before_or_this_one(places, tmp_path):
    """Exhaustive: the save is cut at each of its calls, and another machine then goes on."""
    counted = Places(tmp_path / "counted", places.monkeypatch)
    counted.killed("first", saves(20))
    resumed = counted.mirror("first")
    resumed._copy = Copy(resumed.folder, resumed._store)
    resumed._take_over()
    begins = len(counted.system.calls)
    saves(40)(resumed.folder)
    resumed.send()
    ends = len(counted.system.calls)
    outcomes = []
    for number in range(begins + 1, ends + 2):
        case = Places(tmp_path / str(number), places.monkeypatch)
        case.killed("first", saves(20))
        before = case.stored()
        case.before = cut_at(number)
        process = case.mirror("first")
        process._copy = Copy(process.folder, process._store)
        process._take_over()
        saves(40)(process.folder)
        after = here(process.folder)
        if number <= ends:
            with pytest.raises(stores.StoreError):
                process.send()
        else:
            process.send()
        case.before = None
        with (second := case.mirror("second")).held():
            outcomes.append(case.stored())
            assert outcomes[-1] in (before, after), number
            newest = max(stored_runs.steps(outcomes[-1]))
            assert stored_runs.steps(here(second.folder)) == [newest]
    with case.mirror("first").held():
        assert max(stored_runs.steps(here(process.folder))) == newest
    assert outcomes[0] == before and outcomes[-1] == after and len(outcomes) >= 8


def test_a_full_store_is_said_once_and_filled_when_there_is_room(places, capsys):
    mirror = places.killed("first", saves(20))
    full = [True]

    def refuse(number, name, path):
        if full[0] and name == "send":
            raise OSError(28, "No space left on device")

    mirror._store._system._before = refuse
    saves(40)(mirror.folder)
    mirror._copy_again()
    mirror._copy_again()
    assert capsys.readouterr().err.count("No space left on device. The run goes on, and the copy is tried again.") == 1
    with pytest.raises(stores.StoreError, match=f"Everything is in {mirror.folder}; the same command on this machine"):
        mirror._end()
    assert stored_runs.steps(places.stored()) == [20]
    full[0] = False
    mirror._copy_again()
    assert places.stored() == here(mirror.folder)
    full[0] = True
    saves(60)(mirror.folder)
    mirror._copy_again()
    assert "the copy is tried again" in capsys.readouterr().err, "each failure after a success is said"


@pytest.mark.parametrize("operation", ["send", "create"])
def test_what_was_sent_before_a_failure_is_listed_by_the_next_attempt(places, operation):
    """The store is lost at the second file of a save, or before the list of all of them."""
    mirror = places.killed("first", saves(20))
    fails, calls = [True], []

    def refuse(number, name, path):
        calls.append(name)
        if fails[0] and name == operation and calls.count(name) > (operation == "send"):
            raise ConnectionError("no route to the store")

    mirror._store._system._before = refuse
    saves(40)(mirror.folder)
    mirror._copy_again()
    fails[0] = False
    mirror._copy_again()
    assert places.stored() == here(mirror.folder)


def test_what_a_killed_holder_sent_without_listing_it_is_removed_by_the_next(places, monkeypatch):
    first = places.killed("first", saves(20))
    saves(40)(first.folder)
    first._copy.send(first._copy.changed(), mirrors._writer(1))
    first._store.write("files/samples.npz/beside-0123", b"on its way from another command")
    assert any("/40/" in name for name in first._store.names("files"))
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_remove_orphans", lambda mirror: None)  # the next one is killed before it comes to that
        places.killed("second", lambda folder: None)
    places.killed("third", lambda folder: None)
    listed = {entry.object for entry in snapshots.latest(first._store).files.values()}
    assert set(first._store.names("files")) - listed == {"files/samples.npz/beside-0123"}


# ==== Commands that read ====


def test_a_command_reads_the_latest_checkpoint_and_sends_what_it_writes(places):
    places.killed("first", saves(20, 40))
    places.mirror("second")
    reading = stored_runs.Reading(ADDRESS)
    assert reading.folder == places.mirror("second").folder
    assert stored_runs.steps(here(reading.folder)) == [40]
    assert reading.send_changes() == 0
    (reading.folder / "samples.npz").write_text("samples")
    assert reading.send_changes() == 1
    assert places.stored()["samples.npz"] == b"samples" and stored_runs.steps(places.stored()) == [20, 40]
    stored_runs.Reading(ADDRESS, every=True)
    assert stored_runs.steps(here(reading.folder)) == [20, 40]


def test_what_a_command_sends_stays_when_the_run_goes_on_elsewhere(places):
    run = places.killed("first", saves(20))
    places.mirror("second")
    reading = stored_runs.Reading(ADDRESS)
    (reading.folder / "samples.npz").write_text("samples")
    reading.send_changes()
    places.mirror("first")
    saves(40)(run.folder)
    run.send()
    assert places.stored() == here(run.folder) | {"samples.npz": b"samples"}


def test_what_a_killed_command_sent_without_listing_it_is_removed_by_the_next_in_its_folder(places, monkeypatch):
    def killed(machine, text):
        """A command that is killed before the list of what it has sent; returns the names of its objects."""
        places.mirror(machine)
        reading = stored_runs.Reading(ADDRESS)
        before = set(reading._store.names("files"))
        (reading.folder / "samples.npz").write_text(text)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stored_runs, "commit", lambda store, edit: (_ for _ in ()).throw(KeyboardInterrupt))
            reading.send_changes()
        return set(reading._store.names("files")) - before

    places.killed("first", saves(20))
    (there,) = killed("second", "samples of another machine")
    (here_,) = killed("first", "samples")
    places.mirror("first")
    reading = stored_runs.Reading(ADDRESS)
    (reading.folder / "report.json").write_text("{}")
    assert reading.send_changes() == 1
    assert there in reading._store.names("files") and here_ not in reading._store.names("files")
    assert places.stored()["report.json"] == b"{}" and stored_runs.steps(places.stored()) == [20]
    places.killed("second", lambda folder: None)
    listed = {entry.object for entry in snapshots.latest(reading._store).files.values()}
    assert set(reading._store.names("files")) == listed
    assert places.stored()["samples.npz"] == b"samples of another machine"


def test_a_command_beside_the_run_reads_its_folder_and_leaves_the_sending_to_it(places):
    with (mirror := places.mirror("first")).held(), open(mirror.folder / ".lock", "w") as lock:
        stored_runs.fcntl.flock(lock, stored_runs.fcntl.LOCK_EX)
        saves(20)(mirror.folder)
        reading = stored_runs.Reading(ADDRESS)
        assert stored_runs.steps(here(reading.folder)) == [20]
        (reading.folder / "samples.npz").write_text("samples")
        assert reading.send_changes() == 0
    assert places.stored()["samples.npz"] == b"samples"


def test_an_address_without_a_run_says_so(places):
    places.mirror("first")
    with pytest.raises(stores.StoreError, match="s3://bucket/run holds no run"):
        stored_runs.Reading(ADDRESS)


@pytest.mark.parametrize("address", ["s3://bucket/../run", "gs://bucket/./run"])
def test_an_address_with_dots_is_refused(address):
    with pytest.raises(stores.StoreError, match="which a store does not support"):
        stored_runs.local(address)
