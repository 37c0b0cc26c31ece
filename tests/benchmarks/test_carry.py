"""Pieces of files: whole again in any order, damage seen, nothing unpacked before all are there."""

import pytest

from benchmarks.gpu import carry


def made(tmp_path, size=3000):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "weights").write_bytes(b"w" * 3001)
    return carry.cut({"data": tmp_path / "data", "inception": tmp_path / "weights"}, tmp_path / "carry", size)


def test_parts_are_joined_in_any_order(tmp_path):
    parts = made(tmp_path)
    assert len(parts) > 8
    assert all(part.stat().st_size <= 3000 for part in parts)
    store = tmp_path / "store"
    into = tmp_path / "into"
    order = [*range(1, len(parts), 2), *range(0, len(parts), 2)]
    for taken, number in enumerate(order, start=1):
        assert not into.exists()
        assert carry.put(parts[number], store, into) == sorted(set(order) - set(order[:taken]))
    assert (into / "data" / "deep" / "a").read_bytes() == bytes(range(256)) * 40
    assert (into / "inception").read_bytes() == b"w" * 3001
    assert carry.put(parts[0], store, into) == []  # once more does no harm


def test_a_damaged_piece_is_refused(tmp_path):
    part = made(tmp_path)[1]
    content = bytearray(part.read_bytes())
    content[-10] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        carry.put(part, tmp_path / "store", tmp_path / "into")
    part.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no piece"):
        carry.put(part, tmp_path / "store", tmp_path / "into")


def test_parts_of_another_cut_replace_the_old_ones(tmp_path):
    carry.put(made(tmp_path)[0], tmp_path / "store", tmp_path / "into")
    (tmp_path / "weights").write_bytes(b"other")
    parts = carry.cut({"inception": tmp_path / "weights"}, tmp_path / "carry", 10**6)
    assert [part.name for part in (tmp_path / "carry").iterdir()] == ["0"]
    assert carry.put(parts[0], tmp_path / "store", tmp_path / "into") == []
    assert (tmp_path / "into" / "inception").read_bytes() == b"other"
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_the_command_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 30_000)
    assert carry.main(["cut", f"--out={tmp_path / 'c'}", "--megabytes=0.02", f"named={tmp_path / 'file'}"]) == 0
    places = [f"--store={tmp_path / 's'}", f"--into={tmp_path / 'i'}"]
    parts = sorted((tmp_path / "c").iterdir())
    statuses = [carry.main(["put", str(part), *places]) for part in parts]
    assert statuses == [75] * (len(parts) - 1) + [0] and len(parts) == 3
    assert (tmp_path / "i" / "named").stat().st_size == 30_000
    with pytest.raises(FileNotFoundError, match="absent"):
        carry.main(["cut", f"--out={tmp_path / 'c'}", "absent"])
    with pytest.raises(ValueError, match="too small"):
        carry.main(["cut", f"--out={tmp_path / 'c'}", "--megabytes=0.001", str(tmp_path / "file")])
