"""Folders from elsewhere hold files and folders alone; in a run folder only folders may be links."""

import os

import pytest

from diffusion.io import limits


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run/in").mkdir(parents=True)
    (tmp_path / "run/in/a").touch()
    (tmp_path / "run/b").touch()
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "run"


def test_every_file_of_a_plain_folder_is_listed(folder):
    assert sorted(limits.plain_files(folder)) == [folder / "b", folder / "in/a"]
    limits.no_links(folder)


def test_a_link_is_refused_and_in_a_run_folder_one_to_a_folder_is_not(folder):
    (folder / "in/link").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(limits.Refused, match="in/link is a link, which could lead anywhere"):
        limits.plain_files(folder)
    (folder / "checkpoints").symlink_to(folder.parent / "elsewhere")
    limits.no_links(folder)
    (folder / "config").symlink_to(folder / "b")
    with pytest.raises(limits.Refused, match="config is a link to a file; in a run folder only folders may be links"):
        limits.no_links(folder)


def test_what_is_no_file_is_refused(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(limits.Refused, match="pipe is neither a file nor a folder, which could lead anywhere"):
        limits.plain_files(folder)
    with pytest.raises(limits.Refused, match="pipe is no file; in a run folder"):
        limits.no_links(folder)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        limits.plain_files(tmp_path / "missing")
