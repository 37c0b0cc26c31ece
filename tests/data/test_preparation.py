"""`diffusion prepare`: an environment of its own, stand-ins for pip and TFDS, and folders that are left alone."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from diffusion.data import preparation, sources
from tests import commands
from tests.data.made import image_feature, png, write

MODULE = """
import pathlib, shutil, sys
assert "diffusion" not in sys.modules
class builder:
    def __init__(self, name, data_dir, file_format):
        assert file_format == "array_record"
        if name != "made":
            raise ValueError("there is no such dataset")
        self.data_dir = pathlib.Path(data_dir)
    def download_and_prepare(self):
        print("generating examples: 100%", file=sys.stderr)
        shutil.copytree({made!r}, self.data_dir / "made")
"""


@pytest.fixture
def pip(tmp_path):
    """A stand-in for pip, which installs a stand-in for TFDS that copies a dataset; and what it was called with."""
    made = write(tmp_path / "made", {"image": image_feature()}, [{"image": png(np.zeros((4, 4, 3), np.uint8))}] * 3)
    calls = []

    def install(python, packages):
        calls.append(packages)
        ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        place = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        assert pathlib.Path(place) != pathlib.Path(sysconfig.get_paths()["purelib"])
        pathlib.Path(place, "tensorflow_datasets.py").write_text(MODULE.format(made=f"{made}/made"))

    install.calls = calls
    return install


@pytest.fixture(autouse=True)
def quick_environment(monkeypatch):
    """Environments without pip: ensurepip takes seconds."""
    create = preparation.venv.create
    monkeypatch.setattr(preparation.venv, "create", lambda folder, with_pip, clear: create(folder, clear=clear))


def test_a_dataset_is_prepared_in_an_environment_of_its_own(tmp_path, pip, capfd):
    said = []
    root = tmp_path / "data"
    found = preparation.prepare("made", str(root), tmp_path / "env", said.append, pip)
    assert found == root / "made/1.2.0" and sources.describe("made", "train", str(root)).size == 3
    (first, second) = pip.calls[0]
    assert first.startswith("tensorflow-datasets==") and second == "tensorflow"
    assert "an environment of its own for tensorflow-datasets==" in said[0] and "imports no TensorFlow" in said[1]
    assert "generating examples: 100%" in capfd.readouterr().err and "tensorflow" not in sys.modules

    assert preparation.prepare("made", str(root), tmp_path / "env", said.append, pip) == found
    assert said[-1].startswith("made is prepared already")
    shutil.rmtree(root)
    (root / "downloads").mkdir(parents=True)
    assert preparation.prepare("made", str(root), tmp_path / "env", said.append, pip) == found
    assert len(pip.calls) == 1  # the environment is made once


def test_an_environment_that_was_left_half_made_is_made_anew(tmp_path, pip):
    def broken(python, packages):
        raise preparation.PreparationFailed("pip could not install: no network")

    with pytest.raises(preparation.PreparationFailed, match="no network"):
        preparation.prepare("made", str(tmp_path / "data"), tmp_path / "env", print, broken)
    assert not (tmp_path / "env" / preparation.READY).exists() and not (tmp_path / "data").exists()
    assert preparation.prepare("made", str(tmp_path / "data"), tmp_path / "env", print, pip).is_dir()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, pip):
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    (photos / "cat/1.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    before = sorted(os.walk(photos))
    with pytest.raises(preparation.PreparationFailed, match="photos holds cat, which TFDS did not write"):
        preparation.prepare("made", str(photos), tmp_path / "env", print, pip)
    with pytest.raises(preparation.PreparationFailed, match="holds something other than a Python environment"):
        preparation.prepare("made", str(tmp_path / "data"), photos, print, pip)
    with pytest.raises(preparation.PreparationFailed, match=r"1\.png is not a folder"):
        preparation.prepare("made", str(photos / "cat/1.png"), tmp_path / "env", print, pip)
    assert sorted(os.walk(photos)) == before and not pip.calls and not (tmp_path / "env").exists()


def test_names_that_cannot_be_prepared(tmp_path, pip, capfd):
    with pytest.raises(ValueError, match="'digits' is bundled: it is made on first use"):
        preparation.prepare("digits", str(tmp_path), tmp_path / "env", print, pip)
    with pytest.raises(ValueError, match="not of the form"):
        preparation.prepare("../made", str(tmp_path / "data"), tmp_path / "env", print, pip)
    with pytest.raises(preparation.PreparationFailed, match=r"TFDS could not prepare 'mad' in .*data \(status 1\)"):
        preparation.prepare("mad", str(tmp_path / "data"), tmp_path / "env", print, pip)
    assert "there is no such dataset" in capfd.readouterr().err


@pytest.mark.slow
def test_the_command(tmp_path, pip):
    made = tmp_path / "made"
    done = commands.run("-m", "diffusion", "prepare", "made", f"--data_dir={made}")
    assert done.returncode == 0 and "made is prepared already" in done.stdout and "train on it by" in done.stdout
    for words, message in (
        (["digits"], "is bundled"),
        ([], "name one dataset by its name in TFDS"),
        (["a", "b"], "name one dataset"),
    ):
        done = commands.run("-m", "diffusion", "prepare", *words, f"--data_dir={tmp_path / 'data'}")
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
