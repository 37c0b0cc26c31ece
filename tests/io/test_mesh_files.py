"""Meshes of four formats: the same cube from each, points uniform on it, and what is refused."""

import os
import re

import numpy as np
import pytest

from diffusion.io import mesh_files

CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [1.0, 1.0, 2.0]
FACES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
rows = lambda of: "\n".join(" ".join(str(value) for value in row) for row in of)
PLY = (
    "ply\nformat ascii 1.0\ncomment made here\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
    "property uchar red\nelement face 6\nproperty list uchar int vertex_indices\nend_header\n"
)
TRIANGLES = [(face[0], face[i], face[i + 1]) for face in FACES for i in (1, 2)]
STL = "\n".join(
    "facet normal 0 0 0\nouter loop\n"
    + "\n".join(f"vertex {rows([CORNERS[i]])}" for i in triangle)
    + "\nendloop\nendfacet"
    for triangle in TRIANGLES
)
TEXTS = {
    "obj": "# a box\n"
    + "\n".join(f"v {rows([corner])}" for corner in CORNERS)
    + "\nvn 0 0 1\n"
    + "\n".join("f " + " ".join(f"{i + 1}//1" if i % 2 else str(i - 8) for i in face) for face in FACES),
    "off": f"OFF\n8 6 12\n{rows(CORNERS)}\n" + "\n".join(f"4 {rows([face])} 255 0 0" for face in FACES) + "\n",
    "ply": PLY + rows(np.column_stack([CORNERS, np.arange(8)])) + "\n" + "\n".join(f"4 {rows([f])}" for f in FACES),
    "stl": f"solid box\n{STL}\nendsolid box\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_the_same_box_from_every_format(kind, tmp_path):
    path = tmp_path / f"box.{kind.upper()}"
    path.write_text(TEXTS[kind])
    mesh = mesh_files.read(path)
    np.testing.assert_array_equal(np.unique(mesh.vertices, axis=0), CORNERS)
    np.testing.assert_array_equal(mesh.vertices[mesh.triangles], CORNERS[np.array(TRIANGLES)])
    assert mesh_files.area(mesh) == 2 * (1 + 2 + 2)


def test_points_are_uniform_by_area_and_come_back_from_ply(tmp_path):
    mesh = mesh_files.Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]]), np.array([[0, 1, 2], [0, 1, 3]]))
    points = mesh_files.surface_points(mesh, 4000, np.random.default_rng(0))
    flat = points[points[:, 2] == 0]
    assert abs(len(flat) / 4000 - 1 / 4) < 0.03  # of areas 1/2 and 3/2
    assert (flat >= 0).all() and (flat.sum(axis=1) <= 1).all()
    np.testing.assert_allclose(flat[:, :2].mean(axis=0), 1 / 3, atol=0.03)
    np.testing.assert_allclose(flat[:, 0].var(), 1 / 18, atol=0.006)
    mesh_files.write_points(tmp_path / "points.ply", points[:5])
    lines = (tmp_path / "points.ply").read_text().splitlines()
    assert lines[2] == "element vertex 5"
    np.testing.assert_allclose(np.array([line.split() for line in lines[-5:]], float), points[:5], rtol=1e-5)
    with pytest.raises(ValueError, match=r"points must have the shape \[N, 3\]; got \[5, 2\]"):
        mesh_files.write_points(tmp_path / "flat.ply", points[:5, :2])
    with pytest.raises(ValueError, match="5 points without faces form no surface"):
        mesh_files.read(tmp_path / "points.ply")


OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n"


def test_numbers_behind_the_positions_of_off_files_are_no_positions(tmp_path):
    """Colours or normals stand on the vertex's line; ModelNet has counts on the first line."""
    for name, text in (
        ("plain", OFF + "3 0 1 2\n"),
        ("first", OFF.replace("OFF\n3", "OFF3") + "3 0 1 2\n"),
        ("coloured", OFF.replace("1 0 0\n", "1 0 0 255 0 0 # red\n\n") + "3 0 1 2\n"),
    ):
        (tmp_path / f"{name}.off").write_text(text)
        mesh = mesh_files.read(tmp_path / f"{name}.off")
        assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]], name
        assert mesh.triangles.tolist() == [[0, 1, 2]]


ONE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


def test_a_face_without_corners_adds_no_triangle(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n0\n")
    assert len(mesh_files.read(tmp_path / "a.off").triangles) == 1


def test_a_mesh_of_too_many_triangles_or_points_is_refused_as_soon_as_it_has_them(tmp_path, monkeypatch):
    """What is kept grows no further: a file of faces without end ends there."""
    monkeypatch.setattr(mesh_files, "MOST", 4)
    for text in (ONE + "f 1 2 3\n" * 5, ONE + "f 1 2 3 1 2 3 1\n", ONE * 2 + "f 1 2 3\n"):
        (tmp_path / "a.obj").write_text(text + "f no number")
        with pytest.raises(ValueError, match=r"more than 4 (triangles|points)"):
            mesh_files.read(tmp_path / "a.obj")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.obj"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind](path)
    with pytest.raises(
        (ValueError, IsADirectoryError), match=r"a\.obj is (a folder, not a file|not a file, but a (named pipe|device))"
    ):
        mesh_files.read(path)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.obj", "", "holds no triangles: 0 points without faces form no surface"),
        ("a.obj", ONE + "f 1 1 2", "all 1 triangles have"),
        ("a.obj", ONE + "f 1 2 4", "names vertex 3, counted from 0, but there are only 3"),
        ("a.obj", ONE + "f 0 1 2", "vertex 0, but vertices are counted from 1"),
        ("a.obj", ONE.replace("1", "nan") + "f 1 2 3", "vertex 1 is NaN"),
        ("a.obj", "v 0 0\nf 1 1 1", "the vertex 'v 0 0' does not have three numbers"),
        ("a.obj", "v a b c", "a.obj is not an intact OBJ file"),
        ("a.obj", ONE + f"f 1 2 {10**30}", "a.obj is not an intact OBJ file: a face names vertex"),
        ("a.obj", ONE + f"f 1 2 -{10**30}", "a.obj is not an intact OBJ file: a face names vertex"),
        ("a.obj", "v 0 0 0\n" + "f" + " 1" * 70_000, "a face has 70,000 corners. Valid: at most 65,536"),
        ("a.ply", PLY + rows(np.zeros((8, 4))) + "\n70000" + " 1" * 70_000, "a face has 70,000 corners"),
        ("a.off", OFF + f"3 0 1 {10**30}\n", "a.off is not an intact OFF file: a face names vertex"),
        ("a.off", "COFF 1 2 3", "begin with OFF"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0", "declares 3 vertices and 1 faces, but has 2 lines"),
        ("a.off", "OFF\n0 5 0\n", "declares 0 vertices and 5 faces, but has 0 lines"),
        ("a.off", OFF + "4 0 1 2\n", "the face '4 0 1 2' has fewer corners than it says"),
        ("a.off", OFF.replace("1 0 0\n", "1 0\n", 1) + "3 0 1 2\n", "the vertex '1 0' does"),
        ("a.off", OFF + "3 0 1 2\n3 0 1 2\n", "and 1 faces, but has 5 lines for them"),
        ("a.off", "OFF", "a.off is not an intact OFF file"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vertex 2\nend_header\n0 0", "no triangle"),
        ("a.ply", PLY.replace("property float x\n", "") + "1 2 3 " * 20, "x, y and z"),
        ("a.ply", "ply\nformat binary_little_endian 1.0\nend_header\n", "not ascii 1.0"),
        ("a.stl", "solid\nvertex 0 0 0\n", "1 vertices are not three"),
        ("a.stl", "\0binary", "is binary"),
        ("a.fbx", "", "fbx is not a format of meshes. Valid: .obj, .off, .ply, .stl"),
    ],
)
def test_bad_meshes_are_refused_in_one_sentence(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as found:
        mesh_files.read(tmp_path / name)
    assert name in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("corner", [0, 1, 2])
def test_each_corner_has_its_share_of_a_point(corner):
    """The shares of the corners are at least 0 and add up to 1: moved by a vector, a mesh moves its points by it."""
    vertices = np.eye(3)[[corner, (corner + 1) % 3, (corner + 2) % 3]]
    points = lambda moved: mesh_files.surface_points(
        mesh_files.Mesh(vertices + moved, np.array([[0, 1, 2]])), 300, np.random.default_rng(0)
    )
    shares = points(0.0)
    assert (shares >= 0).all() and shares.max() > 0.9
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(shares.mean(axis=0), 1 / 3, atol=0.05)
    np.testing.assert_allclose(points(np.array([5.0, -2.0, 7.0])), shares + [5.0, -2.0, 7.0], rtol=1e-12)


def test_a_mesh_may_have_as_many_points_triangles_and_corners_as_are_allowed(tmp_path, monkeypatch):
    """Four points, and four triangles of which two are a square's."""
    monkeypatch.setattr(mesh_files, "MOST", 4)
    monkeypatch.setattr(mesh_files, "CORNERS", 4)
    square = ONE + "v 1 1 0\nf 1 2 3\nf 1 2 3\nf 1 2 4 3\n"
    (tmp_path / "a.obj").write_text(square)
    mesh = mesh_files.read(tmp_path / "a.obj")
    assert (len(mesh.vertices), len(mesh.triangles)) == (4, 4)
    for more, words in (("f 1 2 3\n", "4 triangles"), ("v 2 2 0\n", "4 points"), ("f 1 2 4 3 1\n", "5 corners")):
        (tmp_path / "a.obj").write_text(square + more)
        with pytest.raises(ValueError, match=words):
            mesh_files.read(tmp_path / "a.obj")
    assert mesh_files._Words("1 2 3 4").some(4) == ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match="a face has 5 corners"):
        mesh_files._Words("1 2 3 4 5").some(5)
