"""Triangle meshes from text files (OBJ, OFF, ASCII PLY, ASCII STL), points uniform by area on them, and PLY clouds.

Nothing but positions and faces is read. A face of more corners than three is cut into a fan from its first.
"""

__all__ = ["READERS", "Mesh", "area", "read", "surface_points", "write_points"]

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion import public
from diffusion.io import files, limits

BYTES = 2**26  # of a file: a text of a million triangles


class Mesh(NamedTuple):
    """Triangles in space.

    Attributes:
        vertices: float64 [V, 3].
        triangles: int64 [T, 3], rows of `vertices`.
    """

    vertices: np.ndarray
    triangles: np.ndarray


def read(path: str | os.PathLike) -> Mesh:
    """Reads a mesh by the ending of its name.

    Raises:
        ValueError: for another format, a damaged file, a mesh without triangles, positions that are not finite, a
            triangle of vertices that are not there, or a surface without area; it names the file.
        OSError: if the file cannot be read.
    """
    path = pathlib.Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: {path.suffix or 'a name without ending'} is no mesh. Valid: {', '.join(READERS)}")
    if path.stat().st_size > BYTES:
        raise limits.Refused(f"{path} has {limits.size(path.stat().st_size)}. Valid: at most {limits.size(BYTES)}")
    content = path.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path} is binary. Valid: the same mesh as text (ASCII)")
    try:
        vertices, faces = reader(content.decode("utf-8", "replace"))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is no sound {path.suffix[1:].upper()} file: {error}") from error
    triangles = [(face[0], face[i], face[i + 1]) for face in faces for i in range(1, len(face) - 1)]
    mesh = Mesh(np.array(vertices, float).reshape(-1, 3), np.array(triangles, np.int64).reshape(-1, 3))
    if not len(mesh.triangles):
        raise ValueError(f"{path} holds no triangle: {len(mesh.vertices)} points without a face have no surface")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError(f"{path}: vertex {int(np.argmin(np.isfinite(mesh.vertices).all(axis=1)))} is NaN or infinite")
    outside = (mesh.triangles < 0) | (mesh.triangles >= len(mesh.vertices))
    if outside.any():
        wrong = int(mesh.triangles[outside][0])
        raise ValueError(f"{path}: a face names vertex {wrong}, counted from 0, and there are {len(mesh.vertices)}")
    if not area(mesh) > 0:
        raise ValueError(f"{path}: all {len(mesh.triangles)} triangles have no area, so that no point lies on them")
    return mesh


def area(mesh: Mesh) -> float:
    """The area of all triangles."""
    return float(_areas(mesh).sum())


def surface_points(mesh: Mesh, number: int, rng: np.random.Generator) -> np.ndarray:
    """Independent points, uniform by area on the triangles.

        p = (1 - u^(1/2)) a + u^(1/2) (1 - v) b + u^(1/2) v c,     u, v ~ U(0, 1)

    Args:
        mesh: with an area.
        number: of points.
        rng: the generator.

    Returns:
        float64 [number, 3].

    Reference: Osada et al. 2002, "Shape Distributions".
    """
    areas = _areas(mesh)
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles[rng.choice(len(areas), number, p=areas / areas.sum())]], 1, 0)
    u, v = np.sqrt(rng.uniform(size=(number, 1))), rng.uniform(size=(number, 1))
    return (1 - u) * a + u * (1 - v) * b + u * v * c


def write_points(path: str | os.PathLike, points: np.ndarray) -> None:
    """Writes points [N, 3] as an ASCII PLY, whole or not at all."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"need points [N, 3], got {list(points.shape)}")
    head = ["ply", "format ascii 1.0", f"element vertex {len(points)}", *(f"property float {name}" for name in "xyz")]
    rows = (" ".join(f"{value:.6g}" for value in point) for point in points)
    with files.whole(pathlib.Path(path)) as file:
        file.write(("\n".join([*head, "end_header", *rows]) + "\n").encode())


def _areas(mesh: Mesh) -> np.ndarray:
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


# ==== Formats: text -> (vertices, faces of any number of corners, counted from 0) ====

_Faces = list[list[int]]


def _obj(text: str) -> tuple[list, _Faces]:
    vertices, faces = [], []
    for line in text.splitlines():
        word, *rest = line.split("#")[0].split() or [""]
        if word == "v":
            vertices.append([float(value) for value in rest[:3]])
            if len(rest) < 3:
                raise ValueError(f"the vertex {line.strip()!r} has no three numbers")
        elif word == "f":
            corners = [int(corner.split("/")[0]) for corner in rest]
            if 0 in corners:
                raise ValueError("a face names vertex 0, and they count from 1")
            faces.append([corner - 1 if corner > 0 else len(vertices) + corner for corner in corners])
    return vertices, faces


def _off(text: str) -> tuple[list, _Faces]:
    rows = [row for row in (line.split("#")[0].split() for line in text.splitlines()) if row]
    if not rows or not rows[0][0].startswith("OFF"):
        raise ValueError("it does not begin with OFF")
    first = [word for word in (rows[0][0][3:], *rows[0][1:]) if word]  # "OFF8 6 12" is seen too
    counts, rows = (first, rows[1:]) if first else (rows[1], rows[2:])
    count, number = int(counts[0]), int(counts[1])
    if count < 0 or number < 0 or len(rows) != count + number:
        raise ValueError(f"it declares {count} vertices and {number} faces, and has {len(rows)} lines of them")
    vertices = [[float(value) for value in row[:3]] for row in rows[:count]]  # colours may follow, as behind faces
    if short := [row for row in rows[:count] if len(row) < 3]:
        raise ValueError(f"the vertex {' '.join(short[0])!r} has no three numbers")
    if short := [row for row in rows[count:] if len(row) <= int(row[0])]:
        raise ValueError(f"the face {' '.join(short[0])!r} has fewer corners than it says")
    return vertices, [[int(corner) for corner in row[1 : 1 + int(row[0])]] for row in rows[count:]]


def _ply(text: str) -> tuple[list, _Faces]:
    head, found, body = text.partition("end_header")
    lines = [line.split() for line in head.splitlines() if line.split()]
    if not found or lines[0] != ["ply"]:
        raise ValueError("it has no header from ply to end_header")
    if ["format", "ascii", "1.0"] not in lines:
        raise ValueError("its format is not ascii 1.0")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line[0] == "property":
            elements[-1][2].append(line[1:])
    vertices, faces = [], []
    words = _Words(body.split())
    for name, count, properties in elements:
        for _ in range(count if properties else 0):
            row = {}
            for kind, *rest in properties:
                row[rest[-1]] = [words.take() for _ in range(int(words.take()))] if kind == "list" else words.take()
            if name == "vertex":
                vertices.append([float(row[axis]) for axis in "xyz"] if {*"xyz"} <= row.keys() else [])
            elif name == "face":
                faces.append([int(corner) for corner in row.get("vertex_indices", row.get("vertex_index", []))])
    if any(len(vertex) != 3 for vertex in vertices):
        raise ValueError("its vertices have no properties x, y and z")
    return vertices, faces


def _stl(text: str) -> tuple[list, _Faces]:
    rows = [line.split() for line in text.splitlines() if line.split()]
    if not rows or rows[0][0] != "solid":
        raise ValueError("it does not begin with solid")
    vertices = [[float(value) for value in row[1:4]] for row in rows if row[0] == "vertex"]
    if len(vertices) % 3 or any(len(vertex) != 3 for vertex in vertices):
        raise ValueError(f"its {len(vertices)} vertices are not three for each triangle")
    return vertices, [[i, i + 1, i + 2] for i in range(0, len(vertices), 3)]


class _Words:
    """Words in turn."""

    def __init__(self, words: list[str]):
        self._words = iter(words)

    def take(self) -> str:
        """The next word.

        Raises:
            ValueError: if there is none.
        """
        word = next(self._words, None)
        if word is None:
            raise ValueError("it ends too early")
        return word


READERS: dict[str, Callable[[str], tuple[list, _Faces]]] = {".obj": _obj, ".off": _off, ".ply": _ply, ".stl": _stl}
"""Formats by the ending of a name: a text -> vertices and faces."""

public.declare(__name__)
