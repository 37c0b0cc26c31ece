"""What a checkpoint declares of its leaves, byte by byte, before anything of it is opened."""

import json
import os

import pytest
import tensorstore

from diffusion.io.limits import Refused
from diffusion.training.checkpointing import validation


def leaf(dtype, *shape):
    return {"shape": list(shape), "dtype": dtype, "checksum": "0"}


def test_the_bytes_of_each_item_are_the_sum_of_its_leaves():
    leaves = {
        "params/blocks/kernel": leaf("float32", 4, 128),
        "params/bias": leaf("int8", 3),
        "params/scalar": leaf("float64"),
        "ema/kernel": leaf("float16", 5),
        "step": leaf("int32"),
        "none": leaf("float32", 0, 7),
    }
    expected = {"params": 4 * 4 * 128 + 3 + 8, "ema": 10, "step": 4, "none": 0}
    assert validation.check_leaves("a file", leaves) == expected
    assert validation.check_leaves("a file", {}) == {}


@pytest.mark.parametrize(
    "leaves, message",
    [
        ([], "a file describes no leaves"),
        ({"params/k": {"shape": [1]}}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": {"dtype": "float32"}}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": leaf("float31", 1)}, "the leaf 'params/k' without a shape or a known type"),
        ({"params/k": leaf("float32", -1)}, "leaf 'params/k'"),
        ({"../k": leaf("float32", 1)}, r"\.\./k"),
    ],
)
def test_what_is_no_leaf_is_refused_by_its_name(leaves, message):
    with pytest.raises(Refused, match=message):
        validation.check_leaves("a file", leaves)


def write(folder, **arrays):
    """A store of arrays as Orbax writes it: of each its shape and its chunks, without values."""
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    for name, (shape, chunks) in arrays.items():
        described = {"shape": shape, "chunks": chunks, "dtype": "<f4"}
        store.write(f"{name}/.zarray", json.dumps(described).encode()).result()
    return folder


def test_arrays_and_chunks_are_as_large_as_they_are_declared_and_no_larger(tmp_path):
    """A side of 0 has chunks of 1."""
    item = write(tmp_path / "item", kernel=([4, 6], [4, 6]), bias=([6], [2]), none=([0, 7], [1, 7]), scalar=([], []))
    size = 4 * (24 + 6 + 0 + 1)
    validation.check_item(item, size)
    with pytest.raises(Refused, match="holds arrays of 124 B, but declares 123 B"):
        validation.check_item(item, size - 1)
    for name, shape, chunks in (("wide", [4, 6], [4, 7]), ("twice", [1, 6], [2, 6]), ("nothing", [0, 7], [2, 7])):
        item = write(tmp_path / name, kernel=(shape, chunks))
        with pytest.raises(Refused) as raised:
            validation.check_item(item, 10**6)
        assert f"array 'kernel', declares chunks of {chunks}, larger than its shape {shape}." in str(raised.value)
    with pytest.raises(Refused, match=r"manifest\.ocdbt is missing"):
        validation.check_item(tmp_path, size)


@pytest.mark.parametrize("number, error", [(5, ValueError), (2, Refused)])  # EIO; ENOENT: a file is missing
def test_a_disk_that_fails_is_no_fault_of_the_checkpoint(tmp_path, monkeypatch, number, error):
    item = write(tmp_path / "params", kernel=([4, 3], [4, 3]))

    def read(*_):
        raise ValueError("NOT_FOUND: Error reading") from OSError(number, os.strerror(number))

    monkeypatch.setattr(tensorstore.KvStore, "open", read)
    with pytest.raises(ValueError) as raised:
        validation.check_item(item, 48)
    assert type(raised.value) is error


def test_a_description_is_as_large_as_a_text_may_be_and_no_larger(tmp_path, monkeypatch):
    """The values, which lie in folders named d, may have any size."""
    monkeypatch.setattr(validation.limits, "TEXT", 5)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "values").write_bytes(b"123456")
    (tmp_path / "about.json").write_bytes(b"12345")
    validation.check_files(tmp_path)
    (tmp_path / "about.json").write_bytes(b"123456")
    with pytest.raises(Refused, match=r"about\.json has 6 B\. Valid: at most 5 B for a description"):
        validation.check_files(tmp_path)
