"""Files that are written whole, also where several processes write them, or one was killed."""

import multiprocessing
import pathlib

import pytest

from diffusion.io import files


def write(path, text, opened, go):
    with files.atomic(path) as file:
        file.write(text[:2])
        opened.put(text)
        go.wait()
        file.write(text[2:])


def test_several_processes_that_write_a_file_at_once_leave_the_content_of_one(tmp_path):
    path = tmp_path / "a.json"
    context = multiprocessing.get_context("fork")
    opened, gates = context.Queue(), [context.Event() for _ in range(3)]
    texts = [b"first, the longest", b"second", b"third"]
    writers = [context.Process(target=write, args=(path, text, opened, go)) for text, go in zip(texts, gates)]
    for writer in writers:
        writer.start()
        opened.get(timeout=60)
    assert not path.exists()
    for writer, text, go in reversed(list(zip(writers, texts, gates))):
        go.set()
        writer.join()
        assert writer.exitcode == 0 and path.read_bytes() == text
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.new").write_bytes(b"half of a longer content")
    files.write_text(path, "new")
    assert path.read_text() == "new" and [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.atomic(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old"


def test_a_file_that_has_just_got_its_name_is_not_emptied(tmp_path, monkeypatch):
    """Another process may rename the file between our opening it and our lock."""
    path, lock = tmp_path / "a.json", files.fcntl.flock

    def late(descriptor, kind):
        monkeypatch.setattr(files.fcntl, "flock", lock)
        files.os.replace(tmp_path / ".a.json.new", path)
        lock(descriptor, kind)

    (tmp_path / ".a.json.new").write_bytes(b"theirs")
    monkeypatch.setattr(files.fcntl, "flock", late)
    with files.atomic(path) as file:
        file.write(b"ours")
        file.flush()
        assert path.read_bytes() == b"theirs"
    assert path.read_bytes() == b"ours"


def test_a_folder_is_filled_whole_and_a_failure_leaves_the_old_one(tmp_path):
    path = tmp_path / "model"
    with files.whole_folder(path) as new:
        (new / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), files.whole_folder(path) as new:
        (new / "b").write_text("2")
        raise ZeroDivisionError
    assert [file.name for file in path.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [path]
    (tmp_path / ".model.new" / "left" / "deep").mkdir(parents=True)  # by a process that was killed
    (tmp_path / ".model.new" / "file").write_text("half")
    with files.whole_folder(path) as new:
        (new / "c").write_text("3")
    assert [file.name for file in path.iterdir()] == ["c"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_was_moved_aside_by_a_killed_process_comes_back(tmp_path):
    path = tmp_path / "model"
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old" / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), files.whole_folder(path):
        raise ZeroDivisionError
    assert (path / "a").read_text() == "1" and list(tmp_path.iterdir()) == [path]


def test_the_old_folder_is_whole_until_the_new_one_takes_its_place(tmp_path, monkeypatch):
    """It was removed file by file, so that a process that was killed left a part of it."""
    path, rename = tmp_path / "model", pathlib.Path.rename
    with files.whole_folder(path) as new:
        (new / "a").write_text("1")

    def seen(source, target):
        if source.name == ".model.new":
            assert not path.exists() and (tmp_path / ".model.old" / "a").read_text() == "1"
        return rename(source, target)

    monkeypatch.setattr(pathlib.Path, "rename", seen)
    with files.whole_folder(path) as new:
        (new / "a").write_text("2")
    assert (path / "a").read_text() == "2" and list(tmp_path.iterdir()) == [path]


def test_two_that_fill_a_folder_at_once_do_not_mix(tmp_path):
    path = tmp_path / "model"
    with files.whole_folder(path) as first:
        (first / "a").write_text("1")
        with files.whole_folder(path) as second:
            (second / "b").write_text("2")
        assert [file.name for file in path.iterdir()] == ["b"]
    assert [file.name for file in path.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [path]


def test_a_folder_behind_a_link_is_filled_where_it_lies(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    with files.whole_folder(tmp_path / "model") as new:
        (new / "a").write_text("1")
    assert (tmp_path / "disk" / "a").read_text() == "1" and (tmp_path / "model").is_symlink()


def test_a_file_system_without_locks_is_written_by_whoever_comes(tmp_path, monkeypatch):
    def unknown(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    with files.atomic(tmp_path / "a") as file:
        file.write(b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_names_that_do_not_belong_into_a_folder_are_said_three_at_most(tmp_path):
    belongs = lambda name: name.endswith(".json")
    assert files.other_names(tmp_path / "new", belongs) == ""
    for name in ("a.json", ".hidden"):
        (tmp_path / name).touch()
    assert files.other_names(tmp_path, belongs) == ""
    for name in ("d", "b", "c"):
        (tmp_path / name).touch()
    assert files.other_names(tmp_path, belongs) == "b, c, d"
    (tmp_path / "e").mkdir()
    assert files.other_names(tmp_path, belongs) == "b, c, d ..."
