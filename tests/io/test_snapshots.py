"""Snapshots of a folder in a store: the newest holds, writers add to one another, and a reader never sees a part."""

import json

import pytest

from diffusion.io import snapshots, stores
from diffusion.io.snapshots import Entry, Holder, Snapshot, commit, latest
from tests.object_stores import DiskStore, store

A, B = Entry("files/a/w-1", "1" * 64, 1), Entry("files/b/w-2", "2" * 64, 2)


def adding(path, entry):
    return lambda before: before._replace(files=before.files | {path: entry})


def with_objects(tmp_path, *entries):
    objects = store(DiskStore(tmp_path))
    for entry in entries:
        objects.write(entry.object, b"content")
    return objects


def test_a_snapshot_is_what_was_committed(tmp_path):
    objects = with_objects(tmp_path, A, B)
    assert latest(objects) == Snapshot(0, Holder(), {})
    holder = Holder(3, "token", "process 1 on host")
    first = commit(objects, lambda before: before._replace(holder=holder, files={"a": A}))
    assert first == latest(objects) == Snapshot(1, holder, {"a": A})
    assert commit(objects, adding("b", B)) == latest(objects) == Snapshot(2, holder, {"a": A, "b": B})


def test_nothing_changed_writes_nothing(tmp_path):
    objects = with_objects(tmp_path, A)
    commit(objects, adding("a", A))
    assert commit(objects, adding("a", A)).number == 1
    assert objects.names("snapshots") == ["snapshots/00000001.json"]


def test_objects_without_a_file_are_removed_after_the_list(tmp_path):
    objects = with_objects(tmp_path, A, B)
    commit(objects, adding("a", A))
    system = DiskStore(tmp_path)
    commit(store(system), lambda before: before._replace(files={"a": B}))
    names = [(name, path.removeprefix("bucket/run/")) for name, path in system.calls]
    assert names.index(("create", "snapshots/00000002.json")) < names.index(("remove", A.object))
    assert objects.names("files") == [B.object]


def test_an_object_of_two_files_stays_until_neither_has_it(tmp_path):
    objects = with_objects(tmp_path, A, B)
    commit(objects, lambda before: before._replace(files={"a": A, "copy": A, "b": B}))
    commit(objects, lambda before: before._replace(files={"copy": A, "b": B}))
    assert objects.names("files") == [A.object, B.object]


def test_a_later_writer_adds_to_the_earlier_one(tmp_path):
    objects = with_objects(tmp_path, A, B)
    seen = []

    def edit(before):
        if not seen:  # another writer is first, between the look and the list
            commit(store(DiskStore(tmp_path)), adding("b", B))
        seen.append(before.number)
        return before._replace(files=before.files | {"a": A})

    assert commit(objects, edit) == Snapshot(2, Holder(), {"a": A, "b": B})
    assert seen == [0, 1]


def test_an_edit_that_may_not_go_on_leaves_the_store(tmp_path):
    objects = with_objects(tmp_path, A)

    def edit(before):
        raise snapshots.Fenced("taken over")

    with pytest.raises(snapshots.Fenced):
        commit(objects, edit)
    assert latest(objects).number == 0


def test_two_writers_of_the_same_change_write_two_lists(tmp_path):
    """The store asks a writer whose answer was lost for its bytes, so that no other may write the same."""
    objects = with_objects(tmp_path, A)
    seen = []

    def edit(before):
        if not seen:
            commit(store(DiskStore(tmp_path)), adding("a", A))
        seen.append(before.number)
        return adding("a", A)(before)

    assert commit(objects, edit).number == 1
    assert seen == [0, 1]


@pytest.mark.parametrize("others", [4, 6])
def test_a_writer_that_slept_through_the_lists_adds_to_the_newest(tmp_path, monkeypatch, others):
    """Its number is free again, for the list of that number was removed."""
    monkeypatch.setattr(snapshots, "KEPT", 3)
    objects = with_objects(tmp_path, A, B)
    commit(objects, lambda before: before._replace(files={"a": A}))
    seen = []

    def edit(before):
        if not seen:
            for number in range(others):
                entry = A._replace(size=number)
                commit(store(DiskStore(tmp_path)), lambda before, entry=entry: before._replace(files={"a": entry}))
        seen.append(before.number)
        return before._replace(files=before.files | {"b": B})

    result = commit(objects, edit)
    assert seen == [1, others + 1] and result.number == others + 2 and result == latest(objects)
    assert objects.names("files") == [A.object, B.object]
    assert objects.names("snapshots") == [f"snapshots/{number:08d}.json" for number in range(others, others + 3)]


def test_few_lists_of_before_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "KEPT", 4)
    objects = with_objects(tmp_path, A)
    for number in range(10):
        entry = A._replace(size=number)
        commit(objects, adding("a", entry))
    assert objects.names("snapshots") == [f"snapshots/{number:08d}.json" for number in (7, 8, 9, 10)]


def test_a_list_that_vanishes_before_it_is_read_is_sought_again(tmp_path):
    objects = with_objects(tmp_path, A)
    commit(objects, adding("a", A))

    def vanish(number, name, path):
        if number == 2:  # between the listing and the reading
            commit(objects, adding("b", B))
            objects.remove(["snapshots/00000001.json"])

    assert latest(store(DiskStore(tmp_path, vanish))).number == 2


@pytest.mark.parametrize("path", ["../a", "/a", "a//b", "a/../../b", ".", "", "a\\b", "a\0"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path, path):
    objects = store(DiskStore(tmp_path))
    content = {"format": 1, "holder": Holder()._asdict(), "files": {path: A}}
    objects.write("snapshots/00000001.json", json.dumps(content).encode())
    with pytest.raises(stores.StoreError, match=r"is not a list of files: .*, which leads out of its folder"):
        latest(objects)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"format": 1}', b'{"format": 1, "holder": {}, "files": {"a": ["o"]}}',
     b'{"format": 1, "holder": {"x": 1}, "files": {}}', b'{"format": 1, "holder": [], "files": []}'],
)  # fmt: skip
def test_what_is_no_list_is_refused(tmp_path, content):
    objects = store(DiskStore(tmp_path))
    objects.write("snapshots/00000001.json", content)
    with pytest.raises(stores.StoreError, match=r"snapshots/00000001\.json is not a list of files"):
        latest(objects)


def test_a_list_of_a_newer_version_is_refused(tmp_path):
    objects = store(DiskStore(tmp_path))
    objects.write("snapshots/00000001.json", b'{"format": 2}')
    with pytest.raises(stores.StoreError, match="format 2; this version reads up to 1: update"):
        latest(objects)
