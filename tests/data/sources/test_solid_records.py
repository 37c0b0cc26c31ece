"""Sources of shapes: solids, each a function of its row, and folders of meshes and clouds."""

import re

import numpy as np
import pytest

from diffusion.data import solids, sources
from diffusion.data.sources import DamagedRecord, mesh_records
from tests.io.test_mesh_files import ONE, TEXTS


def test_a_record_is_a_function_of_its_row():
    few, many, test = (sources.solid_points(split, points=32, number=n) for split, n in (
        ("train", 5), ("train", 9), ("test", 5)))  # fmt: skip
    assert (few.spec.shape, few.spec.classes, few.spec.name) == ((32, 3), tuple(solids.KINDS), "solid_points")
    np.testing.assert_array_equal(many[4]["x"], few[4]["x"])  # the fifth first
    assert few[4]["label"] == many[4]["label"]
    assert few.fingerprint() != test.fingerprint()
    np.testing.assert_array_equal(few.surface(few[0]["x"], np.random.default_rng(0)), few[0]["x"])


def test_records_are_of_solids_of_their_own_with_points_of_their_own():
    """Boxes of several proportions; the signs of coordinates, which no proportion changes, agree in half of them."""
    boxes = sources.solid_points(points=64, number=4, kinds=("box",))
    clouds = np.stack([boxes[row]["x"] for row in range(4)])
    sides = np.abs(clouds).max(1)
    assert len(np.unique(sides.round(4), axis=0)) == 4
    agree = [(np.sign(clouds[i]) == np.sign(clouds[j])).mean() for i in range(4) for j in range(i)]
    assert 0.35 < min(agree) and max(agree) < 0.65


def test_a_class_is_the_place_of_its_kind_among_those_that_are_chosen():
    """Each point of a box has a coordinate that is half a side, as hardly any of a torus."""
    clouds = sources.solid_points(points=64, number=12, kinds=("torus", "box"))
    for record in map(clouds.__getitem__, range(12)):
        on_a_face = np.isclose(np.abs(record["x"]), np.abs(record["x"]).max(0), rtol=1e-5).any(1)
        assert on_a_face.mean() > 0.99 if record["label"] else on_a_face.mean() < 0.2
    assert {clouds[row]["label"] for row in range(12)} == {0, 1}


def test_distances_are_of_the_same_solids_as_the_points():
    points = sources.solid_points("test", number=12)
    distances = sources.solid_distances("test", number=12, side=16, truncation=0.5)
    assert distances.spec.shape == (16, 16, 16, 1) and distances.spec.num_classes == 8
    for row in range(12):
        of = distances[row]
        assert of["label"] == points[row]["label"]
        assert of["x"].max() == 1 and of["x"].min() < 0
        surface = distances.surface(of["x"], np.random.default_rng(0))
        away = np.linalg.norm(surface[:, None] - points[row]["x"], axis=2).min(axis=0)
        assert np.median(away) < 0.15, row  # 128 points of either, and cells of 1/8


def test_the_least_sizes_are_valid():
    assert sources.solid_distances(number=1, side=1)[0]["x"].shape == (1, 1, 1, 1)
    assert sources.solid_points(number=1, points=1)[0]["x"].shape == (1, 3)


def test_kinds_are_chosen_and_mistakes_refused():
    tori = sources.solid_points(number=3, points=8, kinds=("torus",))
    assert tori.spec.classes == ("torus",) and tori[2]["label"] == 0
    for arguments, words in (
        ({"split": "validation"}, "Valid: train, test"),
        ({"points": 0}, "points = 0"),
        ({"number": 0}, "number = 0"),
        ({"kinds": ("ball",)}, "kinds holds 'ball'. Valid: superellipsoid"),
        ({"kinds": ("box", "torus", "box")}, "kinds names 'box' twice"),
    ):
        with pytest.raises(ValueError, match=words):
            sources.solid_points(**arguments)
    with pytest.raises(ValueError, match="truncation = 0"):
        sources.solid_distances(truncation=0.0)


def test_a_folder_of_meshes_and_clouds(tmp_path):
    rng = np.random.default_rng(0)
    for name, text in TEXTS.items():
        (tmp_path / "box").mkdir(exist_ok=True)
        (tmp_path / "box" / f"one.{name}").write_text(text)
    (tmp_path / "dust").mkdir()
    np.save(tmp_path / "dust/a.npy", rng.normal(size=(50, 3)))  # clouds of two sizes
    np.save(tmp_path / "dust/b.npy", rng.normal(size=(70, 3)).astype(np.float32))
    source = sources.mesh_clouds(str(tmp_path), points=40, draws=2)
    assert (len(source), source.spec.shape, source.spec.classes) == (12, (40, 3), ("box", "dust"))
    x = np.stack([source[row]["x"] for row in range(12)])
    assert x.dtype == np.float32 and np.linalg.norm(x, axis=2).max() <= 1 + 1e-6
    assert [source[row]["label"] for row in (0, 7, 8, 11)] == [0, 0, 1, 1]
    assert np.abs(x[0] - x[1]).max() > 0.1  # another draw
    # The box of 1 x 1 x 2 in the unit ball: each point lies on one of its six faces.
    reach = np.sqrt(1 + 1 + 4)
    on_a_face = np.isclose(np.abs(x[:8]), np.array([1, 1, 2]) / reach, atol=1e-5).any(axis=2)
    assert on_a_face.all()
    np.testing.assert_array_equal(sources.mesh_clouds(str(tmp_path), points=40, draws=2)[9]["x"], x[9])
    parts = [sources.mesh_clouds(str(tmp_path), split, points=40) for split in ("train[:50%]", "train[50%:]")]
    assert [len(part) for part in parts] == [3, 3]


def test_vertices_of_no_triangle_change_nothing(tmp_path):
    for name, more in (("a", ""), ("b", "v 100 0 0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.obj").write_text(f"v 0 0 0\nv 1 0 0\nv 0 2 0\n{more}f 1 2 3\n")
    bare, more = (sources.mesh_clouds(str(tmp_path / name), points=8)[0]["x"] for name in ("a", "b"))
    np.testing.assert_array_equal(bare, more)


def meshes_in(folder, names):
    for size, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, np.diag([1.0, 2.0, 2.0 + size]))
    return str(folder)


def test_parts_share_no_file(tmp_path):
    """The eight draws of a file are all before the cut or all behind it, whatever the cut."""
    path = meshes_in(tmp_path, [f"{i}.npy" for i in range(10)])
    for cut, sizes in (("90%", [72, 8]), ("3", [24, 56])):
        parts = [sources.mesh_clouds(path, f"train[{part}]", points=3, draws=8) for part in (f":{cut}", f"{cut}:")]
        assert [len(part) for part in parts] == sizes
        spreads = [{round(float(np.ptp(part[row]["x"], axis=0)[2]), 5) for row in range(len(part))} for part in parts]
        assert not spreads[0] & spreads[1] and sum(map(len, spreads)) == 10


@pytest.mark.parametrize("layout", ["{split}/{kind}/a.npy", "{kind}/{split}/a.npy"])
def test_folders_of_splits(layout, tmp_path):
    names = [layout.format(split=split, kind=kind) for split in ("train", "test") for kind in ("train_1", "chair")]
    path = meshes_in(tmp_path, names)
    for split in ("train", "test"):
        source = sources.mesh_clouds(path, split, points=3)
        assert (len(source), source.spec.classes) == (2, ("chair", "train_1"))
    with pytest.raises(ValueError, match="no split 'val'; its splits are test, train"):
        sources.mesh_clouds(path, "val")


def test_a_mesh_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "box.off").write_text(TEXTS["off"])
    read, opened = mesh_records.mesh_files.read, []
    monkeypatch.setattr(mesh_records.mesh_files, "read", lambda file: opened.append(file) or read(file))
    source = sources.mesh_clouds(str(tmp_path), points=8, draws=3)
    found = [[source[row]["x"] for row in range(3)] for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert len(opened) == 1
    monkeypatch.setattr(mesh_records, "KEPT", 0)
    anew = sources.mesh_clouds(str(tmp_path), points=8, draws=3)
    np.testing.assert_array_equal([anew[row]["x"] for row in range(3)], found[0])
    assert len(opened) > 3


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.obj", ONE + "f 1 1 2", "all 1 triangles have"),
        ("a.npy", np.arange(15.0).reshape(5, 3), "it has 5 points, fewer than points = 8"),
        ("a.npy", np.zeros((9, 3)), "all its points coincide"),
        ("a.npy", np.full((9, 3), np.nan), "point 0 is NaN"),
        ("a.npy", np.zeros((0, 3)), "0, 3]. Valid: a cloud of floating-point numbers [N, 3"),
        ("a.npy", np.zeros((9, 3), int), "int64 [9, 3]. Valid: a cloud of floating-point numbers [N, 3"),
        ("a.npy", np.zeros((9, 2)), "9, 2]. Valid: a cloud of floating-point numbers [N, 3"),
        ("a.txt", "", "holds no files that end in .obj or .off or .ply or .stl or .npy"),
    ],
)
def test_bad_clouds_are_refused(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_text(content) if isinstance(content, str) else np.save(path, content)
    with pytest.raises((DamagedRecord, ValueError), match=re.escape(words)):
        sources.mesh_clouds(str(tmp_path), points=8)[0]


def test_other_mistakes_of_a_folder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        sources.mesh_clouds(str(tmp_path / "none"))
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "one.off", tmp_path / "a/two.off"):
        path.write_text(TEXTS["off"])
    with pytest.raises(ValueError, match=r"one\.off beside folders of classes"):
        sources.mesh_clouds(str(tmp_path))
    with pytest.raises(ValueError, match="no split 'test'"):
        sources.mesh_clouds(str(tmp_path / "a"), "test")
    with pytest.raises(ValueError, match="draws = 0"):
        sources.mesh_clouds(str(tmp_path / "a"), draws=0)
