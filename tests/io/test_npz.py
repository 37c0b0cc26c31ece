"""Arrays of .npz files: what is read is what was written, and what lies is refused."""

import concurrent.futures
import functools
import io
import time
import zipfile

import numpy as np
import pytest

from diffusion.io import limits, npz


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    arrays = {"images": rng.integers(0, 256, (37, 4, 5, 3), dtype=np.uint8), "mu": rng.normal(size=9)}
    np.savez_compressed(path, **arrays)
    return path, arrays


def test_headers_and_load(file):
    path, arrays = file
    found = npz.headers(path)
    assert {name: header.shape for name, header in found.items()} == {"images": (37, 4, 5, 3), "mu": (9,)}
    loaded = npz.load(path, ["mu", "absent"])
    assert loaded.keys() == {"mu"}
    np.testing.assert_array_equal(loaded["mu"], arrays["mu"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_in_any_order(tmp_path, save):
    images = np.random.default_rng(1).normal(size=(50, 6, 2)).astype(np.float32)
    save(tmp_path / "b.npz", images)
    read = npz.rows(tmp_path / "b.npz", "arr_0")
    for start, stop in [(0, 7), (7, 50), (49, 50), (3, 4), (0, 50)]:
        np.testing.assert_array_equal(read(start, stop), images[start:stop])


@pytest.mark.parametrize("extra", [0, 44, 300, 2000])
def test_a_stored_array_begins_after_the_name_and_the_extra_field_of_its_member(tmp_path, extra):
    """Other programs align arrays by an extra field, of at most 65,535 bytes."""
    content = io.BytesIO()
    np.save(content, np.arange(5))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x", "y" * 300):
            info = zipfile.ZipInfo(f"{name}.npy")
            info.extra = b"\x99\x99" + (extra - 4).to_bytes(2, "little") + bytes(extra - 4) if extra else b""
            archive.writestr(info, content.getvalue())
    starts = npz.stored(tmp_path / "a.npz")
    assert starts.keys() == {"x", "y" * 300}
    data = (tmp_path / "a.npz").read_bytes()
    assert all(data[start:].startswith(content.getvalue()) for start in starts.values())


def damaged(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def test_threads_that_read_at_once_have_their_own_rows(tmp_path, monkeypatch):
    """As the voters of an arena do; they were shown other pictures than those of their votes."""
    np.savez(tmp_path / "a.npz", np.arange(40).reshape(20, 2))
    read, skip = npz.rows(tmp_path / "a.npz", "arr_0"), npz._skip
    monkeypatch.setattr(npz, "_skip", lambda *where: (skip(*where), time.sleep(0.005)))
    rows = [11, 3, 19, 0, 7, 12, 5, 1]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        read_at_once = list(threads.map(lambda row: read(row, row + 1).tolist(), rows))
    assert read_at_once == [[[2 * row, 2 * row + 1]] for row in rows]


def test_damage_is_refused(file):
    path, _ = file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(limits.Refused, match="not a valid"):
        npz.headers(path)
    damaged(path, lambda data: data.clear())
    with pytest.raises(limits.Refused, match="not a valid"):
        npz.headers(path)


def test_a_flipped_byte_shows_while_rows_are_read(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, np.random.default_rng(2).integers(0, 256, (200, 400), dtype=np.uint8))
    damaged(path, lambda data: data.__setitem__(50_000, data[50_000] ^ 1))
    read = npz.rows(path, "arr_0")
    with pytest.raises(limits.Refused, match="damaged"):
        read(0, 200)


@pytest.mark.parametrize("header", [
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (5,", b"{'descr': '|u1', 'fortran_order': False, 'shape': 5L}",
    b"(" * 5000, b"-" * 9000 + b"1", b"{'descr': '|u1', 'fortran_order': 1, 'shape': (5,)}", b"\xff\x00",
    b"{'descr': ('|u1', ('a',)), 'fortran_order': False, 'shape': (5,)}",
    b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (5,)}",
])  # fmt: skip
def test_a_header_that_python_cannot_read_is_refused(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"01234")
    with pytest.raises(limits.Refused, match=r"is not an array|holds Python objects"):
        npz.headers(tmp_path / "e.npz")


def test_a_damaged_compressed_array_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "f.npz", np.random.default_rng(2).integers(0, 256, (200, 400), dtype=np.uint8))
    damaged(tmp_path / "f.npz", lambda data: data.__setitem__(slice(300, 320), bytes(20)))
    with pytest.raises(limits.Refused, match=r"not a valid|not an array|cannot be read"):
        npz.load(tmp_path / "f.npz", ["arr_0"])


def written(path, header, content=b""):
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data.getvalue() + content)
    return path


@pytest.mark.parametrize(
    "header, match",
    [
        ({"shape": (10**9, 10**9), "fortran_order": False, "descr": "|u1"}, "declares .* and this machine has"),
        ({"shape": (100,), "fortran_order": False, "descr": "|u1"}, "declares 100 B, but holds 5 B"),
        ({"shape": (1, 5), "fortran_order": True, "descr": "|u1"}, "column by column"),
        ({"shape": (1,), "fortran_order": False, "descr": "|O"}, "Python objects"),
    ],
)
def test_lies_are_refused(tmp_path, header, match):
    path = written(tmp_path / "d.npz", header, b"01234")
    with pytest.raises(limits.Refused, match=match):
        npz.headers(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(3,), (0, 2), (2**16,)])
def test_the_checksum_of_an_array_is_compared_when_it_is_read(tmp_path, shape, compression):
    """The table of contents states another checksum; what is stored is intact."""
    content = io.BytesIO()
    np.save(content, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("x.npy", content.getvalue())
    np.testing.assert_array_equal(npz.load(tmp_path / "a.npz", ["x"])["x"], np.arange(np.prod(shape)).reshape(shape))
    stated = bytearray((tmp_path / "a.npz").read_bytes())
    at = stated.index(b"PK\1\2") + 16
    stated[at] ^= 1
    (tmp_path / "a.npz").write_bytes(stated)
    with pytest.raises(limits.Refused, match=r"is not a valid \.npz file .*CRC"):
        npz.load(tmp_path / "a.npz", ["x"])


def test_the_arrays_in_a_content_count_as_members(monkeypatch):
    """Empty ones too, of which a small file may hold many."""
    content = io.BytesIO()
    np.savez(content, **{f"a{k}": np.zeros(0) for k in range(3)})
    monkeypatch.setattr(npz.budgets, "Budget", functools.partial(npz.budgets.Budget, members=3))
    assert len(npz.decoded(content.getvalue(), "three")) == 3
    monkeypatch.setattr(npz.budgets, "Budget", functools.partial(npz.budgets.Budget.func, members=2))
    with pytest.raises(limits.Refused, match="three"):
        npz.decoded(content.getvalue(), "three")


@pytest.mark.parametrize("left, whole", [(30, True), (29, False)])
def test_a_member_of_which_no_whole_header_is_there_is_refused(tmp_path, left, whole):
    """The directory at the end of the archive says where each member begins."""
    np.savez(tmp_path / "a.npz", np.arange(5))

    def later(data):
        directory = data.rindex(b"PK\x01\x02")
        data[directory + 42 : directory + 46] = (len(data) - left).to_bytes(4, "little")

    damaged(tmp_path / "a.npz", later)
    if whole:
        assert npz.stored(tmp_path / "a.npz").keys() == {"arr_0"}
    else:
        with pytest.raises(limits.Refused, match=r"a\.npz is truncated"):
            npz.stored(tmp_path / "a.npz")
