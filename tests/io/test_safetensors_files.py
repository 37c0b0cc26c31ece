"""Headers of safetensors files: their tensors lie one after another, in as many bytes as their shapes need."""

import json
import struct

import numpy as np
import pytest

from diffusion.io import limits, safetensors_files


def file(path, table, data=b""):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(first, last, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def test_tensors_are_read_in_any_order_of_their_names(tmp_path):
    numbers = np.float32([1, 2, 3])
    table = {"v": entry(4, 12, (1, 2)), "w": entry(0, 4, ()), "__metadata__": {"format": "pt"}}
    header = safetensors_files.header(file(tmp_path / "a.safetensors", table, numbers.tobytes()))
    assert header.metadata == {"format": "pt"} and header.tensors["w"].read() == 1
    np.testing.assert_array_equal(header.tensors["v"].read(), [[2, 3]])


@pytest.mark.parametrize("size, fits", [(8 * 2**20, True), (8 * 2**20 + 1, False)])
def test_a_header_has_at_most_eight_mebibytes(size, fits, tmp_path):
    path = file(tmp_path / "a.safetensors", b"{}" + b" " * (size - 2))
    if fits:
        assert safetensors_files.header(path).tensors == {}
    else:
        with pytest.raises(limits.Refused, match=r"declares a header of 8 MiB\. Valid: at most 8 MiB"):
            safetensors_files.header(path)


def test_a_file_of_more_than_65536_tensors_is_refused(tmp_path, monkeypatch):
    path = file(tmp_path / "a.safetensors", dict.fromkeys(map(str, range(2**16 + 1))))
    with pytest.raises(limits.Refused, match=r"declares 65,537 tensors\. Valid: at most 65,536 in a file"):
        safetensors_files.header(path)
    monkeypatch.setattr(safetensors_files, "TENSORS", 2)
    two = file(tmp_path / "b.safetensors", {"w": entry(0, 4), "v": entry(4, 8)}, bytes(8))
    assert len(safetensors_files.header(two).tensors) == 2


@pytest.mark.parametrize(
    "table, data, message",
    [
        ({"w": entry(0, 8, (3,))}, bytes(8), r"'w' has 8 bytes, but F32 \[3\] would need 12"),
        ({"w": entry(0, 4), "v": entry(8, 12)}, bytes(12), "v begins at byte .*, but what comes before it ends at"),
        ({"w": entry(0, 4), "v": entry(0, 4)}, bytes(4), "[vw] begins at byte .*, but what comes before it ends at"),
        ({"w": entry(0, 4)}, bytes(8), "it has .* bytes, but declares"),
        ({"w": entry(0, 4)}, bytes(3), "it has .* bytes, but declares"),
        ({"w": entry(4, 0)}, bytes(4), "its entry for 'w' is"),
        ({"w": entry(-4, 0)}, bytes(4), "its entry for 'w' is"),
        ({"w": entry(False, 4)}, bytes(4), "its entry for 'w' is"),
        ({"w": entry(0, 4, dtype=None)}, bytes(4), "its entry for 'w' is"),
        ({"w": [0, 4]}, bytes(4), "its entry for 'w' is"),
        (["w"], b"", "its header is a list instead of a table"),
        ({"__metadata__": {"step": 3}}, b"", "its __metadata__ is not a table of texts"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, table, data, message):
    path = file(tmp_path / "a.safetensors", table, data)
    with pytest.raises(limits.Refused, match=rf"a\.safetensors is not a whole safetensors file: {message}"):
        safetensors_files.header(path)


@pytest.mark.parametrize("content", [b"", bytes(7), struct.pack("<Q", 3) + b"{}"])
def test_a_header_that_is_longer_than_its_file_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(limits.Refused, match=f"it has {len(content)} bytes, but declares a header of"):
        safetensors_files.header(tmp_path / "a.safetensors")


def test_a_file_of_an_empty_header_is_refused_for_its_header(tmp_path):
    """Its eight bytes declare a header of none, which is as long as the file has it."""
    (tmp_path / "a.safetensors").write_bytes(bytes(8))
    with pytest.raises(limits.Refused, match=r"the header of .*a\.safetensors is not valid JSON"):
        safetensors_files.header(tmp_path / "a.safetensors")


def test_tensors_of_another_type_are_refused_when_they_are_read(tmp_path):
    header = safetensors_files.header(file(tmp_path / "a.safetensors", {"w": entry(0, 3, (2,), "F4")}, bytes(3)))
    with pytest.raises(limits.Refused, match="w is stored as F4, which is not supported"):
        header.tensors["w"].read()


def test_a_tensor_without_numbers_has_its_shape_and_type(tmp_path):
    path = file(
        tmp_path / "a.safetensors", {"w": entry(0, 0, (2, 0), "F16"), "v": entry(0, 4)}, np.float32(3).tobytes()
    )
    tensors = safetensors_files.header(path).tensors
    empty = tensors["w"].read()
    assert empty.shape == (2, 0) and empty.dtype == np.float16 and tensors["v"].read() == 3


def test_arrays_are_written_row_by_row_whatever_their_order_in_memory(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"w": np.asfortranarray(array), "v": array.T, "u": array[0, ::2]}
    safetensors_files.save(tmp_path / "a.safetensors", arrays)
    shapes = {"w": (2, 3), "v": (3, 2), "u": (2,)}
    safetensors_files.write(tmp_path / "b.safetensors", shapes, "float32", iter(arrays.items()), {"format": "pt"})
    for name in ("a", "b"):
        tensors = safetensors_files.header(tmp_path / f"{name}.safetensors").tensors
        np.testing.assert_array_equal(tensors["w"].read(), array)
        np.testing.assert_array_equal(tensors["v"].read(), array.T)
        np.testing.assert_array_equal(tensors["u"].read(), [0, 2])


@pytest.mark.parametrize(
    "name, array", [("v", np.zeros(2, np.float32)), ("w", np.zeros(3, np.float32)), ("w", np.zeros(2))]
)
def test_an_array_that_its_header_did_not_announce_is_refused(tmp_path, name, array):
    with pytest.raises(ValueError, match=rf"the header announced w \(2,\) float32, but the next array is {name}"):
        safetensors_files.write(tmp_path / "a.safetensors", {"w": (2,)}, "float32", iter([(name, array)]), {})
    assert not (tmp_path / "a.safetensors").exists()
