"""A read that fails is damage only where the file's content says so; else whoever reads touches nothing."""

import errno
import os

import jax
import numpy as np
import pytest
import safetensors.numpy

from diffusion.data import buckets, captions, sources
from diffusion.data.sources import DamagedRecord
from diffusion.experiments.run import noise_pairs
from diffusion.experiments.sampling import batches_on_disk
from diffusion.experiments.sweeps import sweep_folder
from diffusion.experiments.sweeps.sweep_folder import DONE
from diffusion.io import failures, files, json_lines
from diffusion.metrics import attribute_reader, classifier, statistics
from diffusion.recipe.config_errors import spoken
from tests import rights

OF_THE_MACHINE = [
    *(OSError(code, os.strerror(code)) for code in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE)),
    MemoryError(), TimeoutError(), ConnectionResetError(), RuntimeError("can't start new thread"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 16 bytes"),
    ValueError("PERMISSION_DENIED: Error reading local file \"a\": Permission denied [os_error_code='13']"),
    ValueError("UNKNOWN: Error reading local file \"a\": Input/output error [os_error_code='5']"),
    ValueError("RESOURCE_EXHAUSTED: Error reading local file \"a\": Cannot allocate memory [os_error_code='12']"),
    RuntimeError("open() failed: Permission denied; opening a.array_record"),
    RuntimeError("read() failed: Input/output error; reading a.array_record; at byte 4096"),
    OSError("No such device (os error 19)"),
    ExceptionGroup("reads", [OSError(errno.EIO, "")]),
]  # fmt: skip
OF_THE_FILE = [
    FileNotFoundError(errno.ENOENT, "No such file or directory"), NotADirectoryError(errno.ENOTDIR, ""),
    IsADirectoryError(errno.EISDIR, ""), OSError("cannot identify image file"), EOFError(), KeyError("step"),
    ValueError("DATA_LOSS: Error decoding manifest: CRC-32C checksum verification failed: expected=1, actual=2"),
    ValueError("NOT_FOUND: Error reading Byte range [0, 458) of local file \"a\""),
    ValueError("OUT_OF_RANGE: Requested byte range [0, 458) is not valid for value of size 229"),
    RuntimeError("Invalid Riegeli/records file: chunk boundary is 131072"),
    RuntimeError("open() failed: No such file or directory; opening a.array_record"),
]  # fmt: skip


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_what_to_do(tmp_path, code):
    """As from `open` or `mkdir`, which name their path."""
    end = "Make room on the disk, then run the same command again: a run goes on from its last checkpoint."
    assert spoken(OSError(code, os.strerror(code), "runs/a")) == f"runs/a cannot be written: {os.strerror(code)}. {end}"
    assert (
        spoken(OSError(errno.EACCES, "Permission denied", "a"))
        == "a cannot be used (Permission denied). Name another path."
    )


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=repr)
def test_the_machine_failed(error):
    assert failures.is_machine_failure(error)
    try:
        raise ValueError("the checkpoint cannot be read") from error
    except ValueError as wrapped:
        assert failures.is_machine_failure(wrapped)


@pytest.mark.parametrize("error", OF_THE_FILE, ids=repr)
def test_the_file_is_damaged(error):
    assert not failures.is_machine_failure(error)


IMAGES = np.zeros((8, 4, 4, 1), np.uint8)
TENSORS = safetensors.numpy.save({"row": np.zeros(1, np.int32), "entries/a": np.zeros((1, 2))})


def classifier_of(path):
    path = path / f"{classifier._key(IMAGES, np.arange(8) % 2, 0)}.safetensors"
    path.write_bytes(TENSORS)
    return path, lambda: classifier.cached(IMAGES, np.arange(8) % 2, folder=path.parent)


def reader_of(path):
    (path / "digits.safetensors").write_bytes(TENSORS)
    return path / "digits.safetensors", lambda: attribute_reader.cached("digits", lambda: pytest.fail("made"), path)


def captions_of(path):
    captions.write(path, captions.Table({"a": np.zeros((1, 2))}, np.zeros(1, np.int32)), {"format": 1, "dataset": {}})
    return path / captions.ARRAYS, lambda: captions.read(path)


def no_condition_of(path):
    return captions_of(path)[0], lambda: captions.null(path)


def statistics_of(path):
    (path / "a.safetensors").write_bytes(TENSORS)
    return path / "a.safetensors", lambda: statistics.read(path / "a.safetensors")


def pairs_of(path):
    np.save(path / "00000000.npy", np.zeros((2, 2, 4, 4, 1), np.float32))
    return path / "00000000.npy", lambda: noise_pairs._read(path, range(2), (4, 4, 1))


def batches_of(path):
    np.save(path / "00000000.npy", IMAGES)
    none = lambda *_: pytest.fail("made")
    return path / "00000000.npy", lambda: batches_on_disk.images(none, None, np.zeros(8), np.zeros(8), 8, path, none)


def sweep_of(path):
    sweep_folder.log_event(path, DONE, command=0)
    return path / "sweep.jsonl", lambda: sweep_folder.status(path, 1)


def rows_of(path):
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    return path / "metrics.jsonl", lambda: json_lines.rows(path / "metrics.jsonl")


KEPT = [classifier_of, reader_of, captions_of, no_condition_of, statistics_of, pairs_of, batches_of, sweep_of, rows_of]


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.__name__)
def test_what_may_not_be_read_is_neither_made_again_nor_called_damaged(kept, tmp_path):
    path, read = kept(tmp_path)
    before = path.read_bytes()
    with rights.unreadable(path), pytest.raises((OSError, ValueError), match="ermission denied") as error:
        read()
    assert failures.is_machine_failure(error.value) and "damaged" not in str(error.value)
    assert path.read_bytes() == before


def test_a_torn_array_is_made_again(tmp_path):
    path = tmp_path / "a.npy"
    assert files.array(path) is None
    np.save(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-5])
    assert files.array(path) is None and files.array(path, mmap_mode="r") is None


class Failing:
    """A reader of records of which a read fails, as an array_record's does."""

    def __init__(self, error):
        self.error = error

    def __getitems__(self, rows):
        raise self.error


SPEC = sources.DataSpec("digits", "train", (8, 8, 1), 10, 9)


@pytest.mark.parametrize("error", OF_THE_MACHINE, ids=repr)
def test_a_record_that_could_not_be_read_is_not_skipped_as_damaged(error):
    records = sources.Records(Failing(error), SPEC, lambda encoded: encoded)
    for read in (records.__getitems__, records.sizes):
        with pytest.raises(failures.Unreadable, match=r"digits \(train\): record 3"):
            read([3, 4])


def test_a_damaged_record_is_damaged():
    records = sources.Records(Failing(RuntimeError("Invalid Riegeli/records file")), SPEC, lambda encoded: encoded)
    with pytest.raises(DamagedRecord, match="record 3"):
        records[3]


def test_sizes_that_could_not_be_read_are_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    (tmp_path / "sizes").mkdir()
    path = tmp_path / "sizes" / "stamp.npy"
    np.save(path, np.ones((9, 2), np.int64))
    source = type("Source", (), {"stamp": lambda self: "stamp", "__len__": lambda self: 9})()
    assert buckets.measured_once(source).shape == (9, 2)
    with rights.unreadable(path), pytest.raises(failures.Unreadable, match="Permission denied"):
        buckets.measured_once(source)


@pytest.mark.parametrize("text", ["x" * 10**6, "x" * 10**6 + "(", "a() failed: " * 10**5])
def test_a_long_message_takes_the_time_of_its_length(text):
    """A name of 100,000 letters in a file, which an error quotes, took a minute, and a million never ended."""
    assert not failures.is_machine_failure(ValueError(text))
