"""Pickles of tables of arrays: NumPy's are read without being run, NumPy reads ours, and others are refused."""

import pickle

import numpy as np
import pytest

from diffusion.io import array_pickles, limits

TABLE = {
    "num_images": 50_000,
    "fid": {"mu": np.arange(3.0), "sigma": np.arange(9.0).reshape(3, 3)},
    "fd_dinov2": {"mu": np.arange(2, dtype=np.float32), "sigma": np.asfortranarray(np.arange(4.0).reshape(2, 2))},
    "big": np.arange(4, dtype=">i4"),
}


def same(found, table=TABLE):
    assert found.keys() == table.keys()
    for name, value in table.items():
        if isinstance(value, dict):
            same(found[name], value)
        else:
            np.testing.assert_array_equal(found[name], value)
            assert np.asarray(found[name]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_numpy_pickles_is_read(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(TABLE, protocol))
    same(array_pickles.read(tmp_path / "a.pkl"))


def test_an_array_whose_axes_are_in_another_order_is_read(tmp_path):
    """NumPy writes its bytes as they lie in memory, and from version 2.4 on the order of the axes beside them."""
    turned = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": turned}, 5))
    same(array_pickles.read(tmp_path / "a.pkl"), {"a": turned})
    function = np._core.numeric._frombuffer
    about = (np.arange(24.0).tobytes(), np.dtype("float64"), (2, 3, 4), "K")
    for axes in ((1, 0, 2), (1, 0), (0, 0, 1), "012"):
        (tmp_path / "b.pkl").write_bytes(pickle.dumps({"b": Hostile(function, (*about, axes))}, 5))
        if axes == (1, 0, 2):
            same(array_pickles.read(tmp_path / "b.pkl"), {"b": turned})
        else:
            with pytest.raises(limits.Refused):
                array_pickles.read(tmp_path / "b.pkl")


def test_what_is_written_is_read_by_numpy_of_any_version_and_here(tmp_path):
    array_pickles.write(tmp_path / "a.pkl", TABLE)
    content = (tmp_path / "a.pkl").read_bytes()
    assert b"numpy._core" not in content and b"multiarray" not in content  # whose place differs between NumPy 1 and 2
    same(pickle.loads(content))
    same(array_pickles.read(tmp_path / "a.pkl"))


class Hostile:
    """A call, and with a third element the state that comes after it."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


TWICE: dict = {"a": 1.0}
ENDLESS: tuple = ()
for _ in range(40):
    ENDLESS = (ENDLESS, ENDLESS)  # 2^40 brackets to print
DEEP: dict = {}
for _ in range(40):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "value, message",
    [(Hostile(print, ("executed",)), "names 'builtins.print'"), ({"a": Hostile(eval, ("1",))}, "builtins.eval"),
     ({"a": np.array([None])}, r"type 'O8'\. Valid: numbers"), ([1.0], "list where only a table or"), (1.0, "a float"),
     ({1: 2.0}, "int where only a str is valid"), ({"a": TWICE, "b": TWICE}, "it holds the same table twice"),
     (DEEP, "more than 16 deep"),
     ({"a": Hostile(np.ndarray, ((2**40,), "<f8", b""))}, "whose content has 0 bytes"),
     ({"a": Hostile(np.ndarray, ((-1,), "<f8", b""))}, r"side 0 is -1\. Valid: at most 64 whole numbers"),
     ({"a": Hostile(np.ndarray, ((2**200,), "<f8", b""))}, r"side 0 is beyond 2\^128"),
     ({"a": Hostile(np.ndarray, ((2**128,) * 65, "<f8", b""))}, "an array declares a shape with 65 sides"),
     ({"a": Hostile(np.ndarray, ((ENDLESS,), "<f8", b""))}, "side 0 is a tuple"),
     ({"a": Hostile(np.ndarray, (ENDLESS, "<f8", b""))}, "side 0 is a tuple"),
     ({"a": Hostile(np.dtype, ("<f8",), (3, ENDLESS))}, r"byte order other than <, >, \| and ="),
     ({"a": Hostile(np.ndarray, ((1,), "<f8", "text"))}, "not bytes"), ({"a": {1.5}}, "step")],
)  # fmt: skip
def test_anything_else_is_refused_and_nothing_runs(tmp_path, capsys, value, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(limits.Refused, match=message):
        array_pickles.read(tmp_path / "a.pkl")
    assert "executed" not in capsys.readouterr().out


def test_tables_are_read_up_to_sixteen_deep(tmp_path):
    table = {"a": 1.0}
    for _ in range(15):
        table = {"a": table}
    for value, fits in ((table, True), ({"a": table}, False)):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, 4))
        if fits:
            assert array_pickles.read(tmp_path / "a.pkl") == value
        else:
            with pytest.raises(limits.Refused, match="nested more than 16 deep"):
                array_pickles.read(tmp_path / "a.pkl")


def test_a_damaged_file_is_refused(tmp_path):
    whole = pickle.dumps(TABLE, 4)
    for content in (b"", b"\x80", whole[:-1], whole[: len(whole) // 2], b"\x00" * 100, b"not a pickle"):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(limits.Refused):
            array_pickles.read(tmp_path / "a.pkl")


def test_an_array_where_the_table_belongs_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.ones(3), 4))
    with pytest.raises(limits.Refused, match="holds a array where only a table or an array is valid"):
        array_pickles.read(tmp_path / "a.pkl")
