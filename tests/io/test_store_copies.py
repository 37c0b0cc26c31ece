"""A local folder and its copy in a store: what is sent, what is fetched, and what is compared."""

import os

import pytest

from diffusion.io import store_copies
from diffusion.io.snapshots import Holder, Snapshot
from diffusion.io.store_copies import Altered, Copy
from tests.object_stores import DiskStore, store


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "run").mkdir()
    return Copy(tmp_path / "run", store(DiskStore(tmp_path / "store")))


def put(copy, **files):
    for name, text in files.items():
        path = copy.folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sent(copy, writer="w"):
    snapshot = Snapshot(1, Holder(), copy.send(copy.changed(), writer))
    copy.note_listed()
    return snapshot


def contents(folder):
    return {path: (folder / path).read_text() for path in Copy(folder, None).paths()}


def test_what_is_sent_is_fetched_with_the_same_bytes(copy, tmp_path):
    put(copy, config="c", checkpoints__20__ema="e", checkpoints__20__about__metadata="m")
    snapshot = sent(copy)
    assert snapshot.files["config"].sha256 == "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6"  # "c"
    (tmp_path / "other").mkdir()
    other = Copy(tmp_path / "other", copy.store)
    other.fetch(snapshot, other.stale(snapshot))
    assert contents(other.folder) == contents(copy.folder) and len(contents(other.folder)) == 3
    assert other.stale(snapshot) == other.changed() == other.removed() == []


def test_the_digest_is_of_the_whole_file(copy, monkeypatch):
    monkeypatch.setattr(store_copies, "CHUNK", 1)
    put(copy, a="abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sent(copy).files["a"].sha256 == expected


def test_a_fetched_file_is_on_the_disk_before_it_has_its_name(copy, tmp_path, monkeypatch):
    put(copy, a="1")
    snapshot = sent(copy)
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words, name=name, real=real: (done.append(name), real(*words)))
    copy.fetch(snapshot, ["a"])
    assert done[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("what", ["time", "inode"])
def test_a_file_of_the_same_size_has_changed_by_its_time_or_its_inode(copy, what):
    put(copy, a="1")
    sent(copy)
    file = copy.folder / "a"
    time = file.stat().st_mtime_ns
    if what == "time":
        os.utime(file, ns=(time, time - time % 10**9 + (time + 1) % 10**9))  # within the same second
    else:
        put(copy, b="2")
        os.replace(copy.folder / "b", file)
        os.utime(file, ns=(time, time))
    assert copy.changed() == ["a"]


def test_a_file_that_grows_as_it_is_copied_counts_as_changed(copy, monkeypatch):
    put(copy, a="1")
    real = store_copies.shutil.copyfile
    monkeypatch.setattr(store_copies.shutil, "copyfile", lambda *words: (real(*words), put(copy, a="12")))
    held = store_copies._held(copy.folder / "a", copy.folder / ".outgoing/0")
    assert held[0] == 1 and held != store_copies._mark(copy.folder / "a")


def test_what_is_being_written_or_set_aside_is_no_part_of_the_folder(copy):
    put(copy, a="1", **{".b.new": "2", ".lock": "3", "checkpoints__40.damaged__x": "4"})
    put(
        copy,
        **{"checkpoints__60.orbax-checkpoint-tmp-1__x": "5", "checkpoints__20.removed.orbax-checkpoint-tmp__y": "6"},
    )
    os.symlink("/etc/passwd", copy.folder / "link")
    assert copy.paths() == ["a"]


def test_only_what_has_changed_is_sent_again(copy):
    put(copy, a="1", b="2")
    sent(copy)
    assert copy.changed() == []
    put(copy, b="22")
    (copy.folder / "a").unlink()
    assert copy.changed() == ["b"] and copy.removed() == ["a"]
    again = Copy(copy.folder, copy.store)
    assert again.changed() == ["b"], "the record is written by write_record alone"
    copy.write_record()
    assert Copy(copy.folder, copy.store).removed() == ["a"]


def test_a_file_that_grows_while_it_is_sent_is_sent_as_it_was(tmp_path):
    """As lines of metrics are added while a copy is on its way."""
    (tmp_path / "run").mkdir()
    lines = tmp_path / "run/metrics"
    lines.write_text("1\n")

    def grow(number, name, path):
        lines.write_text("1\n2\n")

    copy = Copy(tmp_path / "run", store(DiskStore(tmp_path / "store", grow)))
    snapshot = sent(copy)
    assert copy.changed() == ["metrics"]  # before another call of the store writes the file again
    assert copy.store.read(snapshot.files["metrics"].object) == b"1\n" and snapshot.files["metrics"].size == 2


@pytest.mark.parametrize("grows", [True, False])
def test_a_large_file_is_linked_and_listed_unless_it_has_changed_meanwhile(tmp_path, monkeypatch, grows):
    monkeypatch.setattr(store_copies, "COPIED", 3)
    (tmp_path / "run").mkdir()
    file = tmp_path / "run/large"
    file.write_text("large")

    def grow(number, name, path):
        if grows:
            with open(file, "a") as lines:
                lines.write("r")

    copy = Copy(tmp_path / "run", store(DiskStore(tmp_path / "store", grow)))
    assert list(sent(copy).files) == ([] if grows else ["large"])
    assert copy.changed() == (["large"] if grows else [])
    assert sorted(path.name for path in copy.folder.iterdir()) == ["large"]


def test_a_file_that_is_removed_first_sends_nothing(copy):
    put(copy, a="1", b="2")
    with pytest.raises(FileNotFoundError):
        copy.send(["a", "gone", "b"], "w")
    assert copy.store.names("files") == [] and copy.paths() == copy.changed() == ["a", "b"]


@pytest.mark.parametrize("into", ["", "checkpoints/20"])
def test_an_altered_object_is_read_again_and_then_refused(copy, tmp_path, into):
    put(copy, checkpoints__20__a="right", checkpoints__20__b="right too")
    snapshot = sent(copy)
    copy.store.write(snapshot.files["checkpoints/20/b"].object, b"wrong")
    (tmp_path / "other").mkdir()
    system = DiskStore(tmp_path / "store")
    other = Copy(tmp_path / "other", store(system))
    if not into:
        put(other, checkpoints__20__b="of before")
    with pytest.raises(Altered, match="checkpoints/20/b"):
        other.fetch(snapshot, sorted(snapshot.files), into)
    fetched = [path for name, path in system.calls if name == "fetch"]
    assert fetched.count(f"bucket/run/{snapshot.files['checkpoints/20/b'].object}") == 3
    assert contents(other.folder) == ({} if into else {"checkpoints/20/a": "right", "checkpoints/20/b": "of before"})
    assert len([path for path in other.folder.rglob("*") if path.is_file()]) == (0 if into else 2), "nothing is left"


def test_an_object_that_is_right_at_the_second_reading_is_taken(copy, tmp_path):
    put(copy, a="right")
    snapshot = sent(copy)

    class Flaky(DiskStore):
        def get_file(self, rpath, lpath):
            super().get_file(rpath, lpath)
            if len(self.calls) == 1:
                with open(lpath, "w") as file:
                    file.write("wrong")

    (tmp_path / "other").mkdir()
    other = Copy(tmp_path / "other", store(Flaky(tmp_path / "store")))
    other.fetch(snapshot, ["a"])
    assert contents(other.folder) == {"a": "right"}


def test_what_was_changed_here_is_stale_where_it_must_be_exact(copy):
    put(copy, a="1", b="2")
    snapshot = sent(copy)
    put(copy, a="11")
    assert copy.stale(snapshot) == [] and copy.stale(snapshot, exactly=True) == ["a"]
    moved = snapshot._replace(files={**snapshot.files, "b": snapshot.files["b"]._replace(object="files/b/other")})
    assert copy.stale(moved) == ["b"]


def test_what_the_store_has_lost_counts_as_new(copy):
    put(copy, a="1", b="2")
    snapshot = sent(copy)
    assert copy.compare(snapshot._replace(files={"b": snapshot.files["b"]})) == ["a"]
    assert copy.changed() == ["a"]


def test_a_folder_keeps_its_word(copy, tmp_path):
    word = copy.token()
    assert word == Copy(copy.folder, copy.store).token() and len(word) == 32
    assert word != Copy(tmp_path, copy.store).token() and copy.paths() == []


@pytest.mark.parametrize("most", [2, 3, 4])
def test_files_are_sent_whether_they_are_copied_or_linked_before(copy, monkeypatch, most):
    """Of three bytes, which are copied where so many are allowed."""
    monkeypatch.setattr(store_copies, "COPIED", most)
    put(copy, config="abc")
    assert set(sent(copy).files) == {"config"} and copy.changed() == []
