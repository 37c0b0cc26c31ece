"""Files that are written whole, also where several processes write them, or one was killed."""

import multiprocessing

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
