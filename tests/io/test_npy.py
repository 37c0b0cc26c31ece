"""Arrays without numbers in NumPy's own format, whose rows only their header counts."""

import io

import numpy as np
import pytest

from diffusion.io import limits, npy


def written(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def test_an_array_without_numbers_has_at_most_2_to_the_20_rows(tmp_path):
    (tmp_path / "a.npy").write_bytes(written(np.zeros((2**20, 0), np.float32)))
    for array in (npy.mapped(tmp_path / "a.npy"), npy.decoded((tmp_path / "a.npy").read_bytes(), "a")):
        assert array.shape == (2**20, 0) and array.dtype == np.float32
    with pytest.raises(limits.Refused, match=r"which holds no numbers\. Valid: at most 1,048,576 empty rows"):
        npy.decoded(written(np.zeros((2**20 + 1, 0))), "a")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_in_the_order_in_which_they_are_stored(tmp_path, order):
    array = np.asarray(np.arange(6, dtype=np.int16).reshape(2, 3), order=order)
    (tmp_path / "a.npy").write_bytes(written(array))
    mapped, decoded = npy.mapped(tmp_path / "a.npy"), npy.decoded(written(array), "a")
    np.testing.assert_array_equal(mapped, array)
    np.testing.assert_array_equal(decoded, array)
    for read in (mapped, decoded):
        assert read.dtype == np.int16 and not read.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            read[0] = 1


def test_a_file_holds_as_many_bytes_as_its_header_declares():
    content = written(np.arange(3.0))
    for wrong in (content[:-1], content + b"\0"):
        with pytest.raises(limits.Refused, match=rf"a declares 24 B, but holds {23 if wrong < content else 25} B"):
            npy.decoded(wrong, "a")
    with pytest.raises(limits.Refused, match="a is not an array"):
        npy.decoded(b"\x93NUMPX", "a")
    with pytest.raises(limits.Refused, match=r"version \(3, 0\) of NumPy's format; only 1.0 and 2.0 are read"):
        npy.decoded(content.replace(b"NUMPY\1", b"NUMPY\3"), "a")


def test_an_array_outside_of_its_folder_is_not_mapped(tmp_path):
    (tmp_path / "a.npy").write_bytes(written(np.arange(3.0)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.npy").symlink_to(tmp_path / "a.npy")
    np.testing.assert_array_equal(npy.mapped(tmp_path / "a.npy", tmp_path), np.arange(3.0))
    with pytest.raises((limits.Refused, OSError)):
        npy.mapped(tmp_path / "folder" / "link.npy", tmp_path / "folder")
