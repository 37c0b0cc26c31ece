"""Pieces of files: whole again in any order, damage seen, nothing unpacked before all are there."""

import pytest

from benchmarks.gpu import carry


def made(tmp_path, size=3000):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "weights").write_bytes(b"w" * 3001)
    return carry.cut({"data": tmp_path / "data", "inception": tmp_path / "weights"}, tmp_path / "carry", size)


def test_pieces_are_whole_again_in_any_order(tmp_path):
    pieces = made(tmp_path)
    assert len(pieces) > 8
    assert all(piece.stat().st_size <= 3000 for piece in pieces)
    store = tmp_path / "store"
    into = tmp_path / "into"
    order = [*range(1, len(pieces), 2), *range(0, len(pieces), 2)]
    for taken, number in enumerate(order, start=1):
        assert not into.exists()
        assert carry.put(pieces[number], store, into) == sorted(set(order) - set(order[:taken]))
    assert (into / "data" / "deep" / "a").read_bytes() == bytes(range(256)) * 40
    assert (into / "inception").read_bytes() == b"w" * 3001
    assert carry.put(pieces[0], store, into) == []  # once more does no harm


def test_a_damaged_piece_is_refused(tmp_path):
    piece = made(tmp_path)[1]
    content = bytearray(piece.read_bytes())
    content[-10] ^= 1
    piece.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        carry.put(piece, tmp_path / "store", tmp_path / "into")
    piece.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no piece"):
        carry.put(piece, tmp_path / "store", tmp_path / "into")


def test_pieces_of_another_cut_take_the_place_of_the_old_ones(tmp_path):
    carry.put(made(tmp_path)[0], tmp_path / "store", tmp_path / "into")
    (tmp_path / "weights").write_bytes(b"other")
    pieces = carry.cut({"inception": tmp_path / "weights"}, tmp_path / "carry", 10**6)
    assert [piece.name for piece in (tmp_path / "carry").iterdir()] == ["0"]
    assert carry.put(pieces[0], tmp_path / "store", tmp_path / "into") == []
    assert (tmp_path / "into" / "inception").read_bytes() == b"other"
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_the_command_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 30_000)
    assert carry.main(["cut", f"--out={tmp_path / 'c'}", "--megabytes=0.02", f"named={tmp_path / 'file'}"]) == 0
    places = [f"--store={tmp_path / 's'}", f"--into={tmp_path / 'i'}"]
    pieces = sorted((tmp_path / "c").iterdir())
    statuses = [carry.main(["put", str(piece), *places]) for piece in pieces]
    assert statuses == [75] * (len(pieces) - 1) + [0] and len(pieces) == 3
    assert (tmp_path / "i" / "named").stat().st_size == 30_000
    with pytest.raises(FileNotFoundError, match="absent"):
        carry.main(["cut", f"--out={tmp_path / 'c'}", "absent"])
    with pytest.raises(ValueError, match="too small"):
        carry.main(["cut", f"--out={tmp_path / 'c'}", "--megabytes=0.001", str(tmp_path / "file")])
