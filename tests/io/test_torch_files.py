"""Small files of PyTorch, opcode by opcode: both layouts, objects of TorchScript, views and empty tensors."""

import numpy as np
import pytest

from diffusion.io import limits, torch_files
from tests.metrics import torch_writer as writer

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(3, dtype=np.float16),
    "b": np.array([-5, 2**40]),
}


@pytest.mark.parametrize("layout", ["archive", "stream", "script"])
def test_every_layout_has_the_same_tensors(layout, tmp_path):
    path = tmp_path / "a.pt"
    pickled, storages = (writer.script if layout == "script" else writer.state)(ARRAYS)
    if layout == "stream":
        writer.stream(path, pickled, storages, [array.size for array in ARRAYS.values()])
    else:
        writer.archive(path, pickled, storages)
    tensors = torch_files.read(path)
    assert set(tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype


@pytest.mark.parametrize("layout", ["archive", "stream"])
def test_tensors_in_lists_have_no_names_and_spoil_no_others(layout, tmp_path):
    """Of the stream, the storages of such tensors come between those of the others."""
    rows = [np.float32([1, 2]), np.arange(3), np.float32([3])]
    tensors = [writer.tensor(str(i), row.dtype.type, row.shape) for i, row in enumerate(rows)]
    pickled = writer.whole(writer.dictionary({"a": tensors[0], "list": b"](" + tensors[1] + b"e", "b": tensors[2]}))
    write = writer.archive if layout == "archive" else writer.stream
    write(tmp_path / "a.pt", pickled, [row.tobytes() for row in rows], *([[2, 3, 1]] if layout == "stream" else []))
    read = torch_files.read(tmp_path / "a.pt")
    assert {name: array.tolist() for name, array in read.items()} == {"a": [1, 2], "b": [3]}


@pytest.mark.parametrize("shape, strides, offset, expected", [
    ((2, 2), (3, 1), 1, [[1, 2], [4, 5]]),
    ((3, 2), (1, 3), 0, [[0, 3], [1, 4], [2, 5]]),  # a transpose
    ((4,), (0,), 5, [5, 5, 5, 5]),  # an expansion
    ((), (), 2, 2),
    ((0, 3), (3, 1), 0, np.zeros((0, 3))),
    ((2,), (5,), 0, [0, 5]),
])  # fmt: skip
def test_a_tensor_is_a_view_of_its_storage(shape, strides, offset, expected, tmp_path):
    tensor = writer.tensor("0", np.float32, shape, strides, offset)
    pickled = writer.whole(writer.dictionary({"x": tensor}))
    writer.archive(tmp_path / "a.pt", pickled, [np.arange(6, dtype=np.float32).tobytes()])
    found = torch_files.read(tmp_path / "a.pt")["x"]
    assert found.dtype == np.float32 and found.shape == shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape, strides, offset", [((2,), (6,), 0), ((2, 2), (3, 1), 2), ((1,), (1,), 6)])
def test_a_view_that_ends_behind_its_storage_is_refused(shape, strides, offset, tmp_path):
    pickled = writer.whole(writer.dictionary({"x": writer.tensor("0", np.float32, shape, strides, offset)}))
    writer.archive(tmp_path / "a.pt", pickled, [bytes(24)])
    with pytest.raises(limits.Refused, match=rf"x declares the shape \[{shape[0]}.*but its storage has 6 elements"):
        torch_files.read(tmp_path / "a.pt")


@pytest.mark.parametrize("most, fits", [(29, True), (28, False)])
def test_names_have_as_many_characters_as_are_allowed(most, fits, tmp_path, monkeypatch):
    """One more than its characters for "ab", "c" and "_metadata", and those of "c.d" and "c._metadata"."""
    monkeypatch.setattr(torch_files, "NAMES", most)
    tensor = writer.tensor("0", np.float32, (2,))
    pickled = writer.whole(writer.dictionary({"ab": tensor, "c": writer.dictionary({"d": tensor})}))
    writer.archive(tmp_path / "a.pt", pickled, [bytes(8)])
    if fits:
        assert set(torch_files.read(tmp_path / "a.pt")) == {"ab", "c.d"}
    else:
        with pytest.raises(limits.Refused, match="its names have more than 28 characters in total"):
            torch_files.read(tmp_path / "a.pt")


def test_a_parameter_is_its_tensor(tmp_path):
    tensor = writer.tensor("0", np.float32, (2,))
    more = [b"\x88", writer.name("collections", "OrderedDict") + b")R"]
    parameter = writer.name("torch._utils", "_rebuild_parameter") + writer.tuple_of(tensor, *more) + b"R"
    pickled = writer.whole(writer.dictionary({"x": parameter}))
    writer.archive(tmp_path / "a.pt", pickled, [np.float32([3, 4]).tobytes()])
    np.testing.assert_array_equal(torch_files.read(tmp_path / "a.pt")["x"], [3, 4])
