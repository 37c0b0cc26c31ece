"""File systems that lie about an operation, or do not know it, by stand-ins of the operations."""

import builtins
import errno
import os
import shutil

import pytest

from diffusion.io import file_systems


def append_by_writing_anew(monkeypatch):
    anew = lambda path, mode: builtins.open(path, "w" if mode == "a" else mode)
    monkeypatch.setattr(file_systems, "open", anew, raising=False)


def replace_by_copying(monkeypatch):
    monkeypatch.setattr(os, "replace", shutil.copyfile)


def replace_nothing(monkeypatch):
    monkeypatch.setattr(os, "replace", lambda new, old: os.remove(new))


def rename_by_copying(monkeypatch):
    monkeypatch.setattr(os, "rename", shutil.copytree)


def rename_only_the_folder(monkeypatch):
    monkeypatch.setattr(os, "rename", lambda old, new: (shutil.rmtree(old), os.mkdir(new)))


@pytest.mark.parametrize(
    "lie, operation",
    [
        (append_by_writing_anew, "append to a file"),
        (replace_by_copying, r"replace a file by another \(rename\)"),
        (replace_nothing, r"replace a file by another \(rename\)"),
        (rename_by_copying, "rename a folder"),
        (rename_only_the_folder, "rename a folder"),
    ],
)
def test_an_operation_with_another_effect_is_lacking(tmp_path, monkeypatch, lie, operation):
    with monkeypatch.context() as patch:
        lie(patch)
        with pytest.raises(file_systems.Lacking, match=operation):
            file_systems.probe(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fsync", "replace", "rename"])
def test_an_operation_that_is_not_known_is_lacking_and_a_full_disk_is_itself(tmp_path, monkeypatch, name):
    def fails(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fails)
    number = errno.ENOTSUP
    with pytest.raises(file_systems.Lacking, match=f"cannot .*{os.strerror(number)}"):
        file_systems.probe(tmp_path)
    number = errno.ENOSPC
    with pytest.raises(OSError) as raised:
        file_systems.probe(tmp_path)
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_a_folder_that_can_do_all_of_it_stays_empty(tmp_path):
    (tmp_path / ".probe").mkdir()  # of a run that was killed
    file_systems.probe(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path, encoding, refused", [
    ("/plain", "ascii", False), ("/café", "ascii", True), ("/café", "utf-8", False), ("/plain", "utf-8", False),
    ("", "ascii", False),
])  # fmt: skip
def test_letters_outside_of_ascii_need_file_names_in_utf_8(path, encoding, refused, monkeypatch):
    monkeypatch.setattr(file_systems.sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(file_systems.os, "getcwd", lambda: "/café")
    objection = file_systems.objection(path)
    if refused:
        assert f"this locale ({encoding})" in objection
    else:
        assert objection is None
    assert "gs:" in file_systems.objection("gs://café/run")
