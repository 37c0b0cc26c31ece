"""The bundled digits: one fixed stratified split, complete and disjoint, prepared once by however many processes."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffusion.data import catalog, digits, pipeline, sources

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")

READ = """
import sys
from diffusion.data import pipeline, sources
for split in ("train", "validation", "test"):
    source, spec = sources.open_source("digits", split)
    print(split, sum(int(batch["image"].sum()) for batch in pipeline.epoch(source, spec, 100)))
print("tensorflow", "tensorflow" in sys.modules)
"""


def read_by(processes, cache):
    """What so many processes print that need the dataset at the same moment, in a cache that they share."""
    environment = os.environ | {"DIFFUSION_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READ]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) for _ in range(processes)]
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * processes, outputs
    return [output.splitlines() for output, _ in outputs]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a process prints that needs the dataset, and the cache in which it prepared it."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, read_by(1, cache)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of datasets in which this process prepares the digits."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_CACHE", str(cache))
        sources.open_source("digits", "train")
    return str(cache / "tfds")


@pytest.fixture(scope="module")
def records(folder):
    """Every record of every split, read by the path that training takes."""
    splits = {}
    for split in SPLITS:
        source, spec = sources.open_source("digits", split, folder)
        batches = list(pipeline.epoch(source, spec, 100))
        splits[split] = tuple(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    return splits


def counted(images, labels):
    """How often each labelled image occurs."""
    return Counter(zip((image.tobytes() for image in images), map(int, labels)))


@pytest.mark.extended
def test_it_is_prepared_without_tensorflow(prepared):
    cache, ((*_, last),) = prepared
    assert last == "tensorflow False"
    assert [path.name for path in (cache / "tfds").iterdir()] == ["digits"]  # no scratch folder is left
    assert [path.name for path in (cache / "tfds" / "digits").iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_two_processes_prepare_it_at_once(prepared, tmp_path):
    assert read_by(2, tmp_path) == prepared[1] * 2
    assert [path.name for path in (tmp_path / "tfds" / "digits").iterdir()] == ["1.0.0"]


@pytest.mark.extended
def test_every_digit_of_scikit_learn_is_in_one_split(records):
    import sklearn.datasets  # here: every worker collects this file, and one runs it

    values, labels = sklearn.datasets.load_digits(return_X_y=True)
    # round(255 v / 16) in whole numbers, halves up.
    images = ((values.astype(int) * 255 * 2 + 16) // 32).astype(np.uint8)
    assert sum((counted(*records[split]) for split in SPLITS), Counter()) == counted(images, labels)
    assert sum(len(records[split][1]) for split in SPLITS) == 1797


def test_no_digit_is_in_two_splits():
    images, labels, splits = digits.digits()
    parts = [set(counted(images[splits == split], labels[splits == split])) for split in SPLITS]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_split_is_stratified(records):
    import sklearn.datasets

    total = np.bincount(sklearn.datasets.load_digits().target)
    for split, fraction in zip(SPLITS, (0.7, 0.1, 0.2)):
        counts = np.bincount(records[split][1], minlength=10)
        assert np.abs(counts - fraction * total).max() <= 1


def test_split_never_changes():
    """A frozen number, on purpose: figures on the test digits compare only as long as these are the same digits."""
    _, _, splits = digits.digits()
    assert hashlib.sha256(" ".join(splits).encode()).hexdigest().startswith("e63e3c99506cb01f")


def test_records_on_disk_are_those_of_the_rule(records):
    images, labels, splits = digits.digits()
    for split in SPLITS:
        assert counted(*records[split]) == counted(images[splits == split], labels[splits == split])


def test_an_empty_part_of_a_split_is_named(folder):
    with pytest.raises(ValueError, match=r"digits \(train\[:0\]\) holds no records"):
        sources.open_source("digits", "train[:0]", folder)


def test_specs(folder):
    for split, size in zip(SPLITS, (1258, 180, 359)):
        spec = sources.describe("digits", split, folder)
        assert spec == sources.DataSpec("digits", split, (8, 8, 1), 10, size, "1.0.0", classes=tuple("0123456789"))


class Fake:
    """A builder that writes one file, and may find on the way that another process was first, or fail."""

    VERSION = "1.0.0"
    winner = None
    error = None

    def __init__(self, data_dir, file_format):
        assert file_format == "array_record"
        self.folder = Path(data_dir) / "fake" / "1.0.0"

    def download_and_prepare(self):
        self.folder.mkdir(parents=True)
        (self.folder / "mine").touch()
        if self.winner:
            self.winner.mkdir(parents=True)
            (self.winner / "theirs").touch()
        if self.error:
            raise self.error


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(catalog.BUNDLED, "fake", Fake)
    return lambda **attributes: [monkeypatch.setattr(Fake, name, value) for name, value in attributes.items()]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of bundled datasets in a cache of the test's own."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    return tmp_path / "tfds"


def test_the_first_of_two_processes_wins(fake, kept):
    fake(winner=kept / "fake" / "1.0.0")
    folder = catalog.find("fake")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert [path.name for path in kept.iterdir()] == ["fake"]


def test_a_bundled_dataset_may_be_named_with_its_version(fake, kept, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(kept / "others"))
    assert catalog.find("fake:1.0.0") == catalog.find("fake") == kept / "fake" / "1.0.0"
    with pytest.raises(FileNotFoundError, match=r"'fake:2\.0\.0' is not in .*; the bundled 'fake' has version 1\.0\.0"):
        catalog.find("fake:2.0.0")


def test_a_failure_leaves_nothing_behind(fake, kept):
    fake(error=OSError(28, "No space left on device"))
    with pytest.raises(OSError, match=r"cannot prepare the bundled dataset 'fake' .*No space left on device") as caught:
        catalog.find("fake")
    assert caught.value.errno == 28
    assert not list(kept.glob("fake/*")) and not list(kept.glob(".*"))


def test_a_cache_that_cannot_be_written_is_named(fake, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match=r"file/tfds .*; set DIFFUSION_CACHE to a folder"):
        catalog.find("fake")


@pytest.mark.parametrize("content", [["a.png", "b.png"], []])
def test_nothing_is_written_into_a_folder_that_is_named(fake, tmp_path, content):
    for name in content:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"'fake' is not in .*nothing is written there.*picture_folder"):
        catalog.find("fake", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == content


def test_a_shape_is_known_without_preparing(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    assert sources.shape("digits", "train") == (8, 8, 1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nothing is written there"):
        sources.shape("digits", "train", str(tmp_path))


def test_the_shape_of_an_unknown_split_is_refused_once_the_splits_are_known():
    catalog.find("digits")
    assert sources.shape("digits", "train[:9]+test") == (8, 8, 1)
    with pytest.raises(ValueError, match=r"digits has no split 'tran'; its splits are test, train, validation\."):
        sources.shape("digits", "tran")


def test_the_cache_is_the_users_unless_a_variable_names_another(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DIFFUSION_CACHE", raising=False)
    assert catalog.find("fake") == tmp_path / ".cache/diffusion/tfds/fake/1.0.0"
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "other"))
    assert catalog.find("fake") == tmp_path / "other/tfds/fake/1.0.0"
