"""Reads triangle meshes from text files (OBJ, OFF, ASCII PLY, ASCII STL), draws points on them, and writes PLY clouds.

Only positions and faces are read. A face with more than three corners is cut into a fan of triangles from its first
corner.
"""

__all__ = ["READERS", "Mesh", "area", "read", "surface_points", "write_points"]

import array
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.io import files, limits, opener
from diffusion.package import public

BYTES = 2**26  # largest file: a text of a million triangles
MOST = 2**21  # the most points, and the most triangles
CORNERS = 2**16  # most corners of a face


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
            triangle with a missing vertex, or a surface without area; the message names the file.
        OSError: if the file cannot be read.
    """
    path = pathlib.Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: {path.suffix or 'a name without ending'} is not a format of meshes. Valid: {', '.join(READERS)}"
        )
    content = opener.read(path, most=BYTES)
    if b"\0" in content:
        raise ValueError(f"{path} is binary. Valid: the same mesh as text (ASCII)")
    surface = _Surface()
    try:
        reader(content.decode("utf-8", "replace"), surface)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not an intact {path.suffix[1:].upper()} file: {limits.reason(error)}") from error
    mesh = surface.mesh()
    if not len(mesh.triangles):
        raise ValueError(f"{path} holds no triangles: {len(mesh.vertices)} points without faces form no surface")
    if not np.isfinite(mesh.vertices).all():
        raise ValueError(f"{path}: vertex {int(np.argmin(np.isfinite(mesh.vertices).all(axis=1)))} is NaN or infinite")
    outside = (mesh.triangles < 0) | (mesh.triangles >= len(mesh.vertices))
    if outside.any():
        wrong = int(mesh.triangles[outside][0])
        raise ValueError(
            f"{path}: a face names vertex {wrong}, counted from 0, but there are only {len(mesh.vertices)}"
        )
    if not area(mesh) > 0:
        raise ValueError(
            f"{path}: all {len(mesh.triangles)} triangles have zero area, so no points can be drawn from the surface"
        )
    return mesh


def area(mesh: Mesh) -> float:
    """The area of all triangles."""
    return float(_areas(mesh).sum())


def surface_points(mesh: Mesh, number: int, rng: np.random.Generator) -> np.ndarray:
    """Independent points, uniform by area on the triangles.

        p = (1 - u^(1/2)) a + u^(1/2) (1 - v) b + u^(1/2) v c,     u, v ~ U(0, 1)

    Args:
        mesh: the mesh, of positive area.
        number: the number of points to draw.
        rng: the random numbers.

    Returns:
        The points, float64 [number, 3].

    Reference: Osada et al. 2002, "Shape Distributions".
    """
    areas = _areas(mesh)
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles[rng.choice(len(areas), number, p=areas / areas.sum())]], 1, 0)
    u, v = np.sqrt(rng.uniform(size=(number, 1))), rng.uniform(size=(number, 1))
    return (1 - u) * a + u * (1 - v) * b + u * v * c


def write_points(path: str | os.PathLike, points: np.ndarray) -> None:
    """Writes points [N, 3] as an ASCII PLY file, atomically."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must have the shape [N, 3]; got {list(points.shape)}")
    head = ["ply", "format ascii 1.0", f"element vertex {len(points)}", *(f"property float {name}" for name in "xyz")]
    rows = (" ".join(f"{value:.6g}" for value in point) for point in points)
    files.write_text(pathlib.Path(path), "\n".join([*head, "end_header", *rows]) + "\n")


def _areas(mesh: Mesh) -> np.ndarray:
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles], 1, 0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


# ==== Formats: text -> points and faces of any number of corners, counted from 0 ====


class _Surface:
    """The points and triangles of a mesh that have been read so far."""

    def __init__(self):
        self._positions = array.array("d")
        self._corners = array.array("q")

    @property
    def number(self) -> int:
        """The number of points so far."""
        return len(self._positions) // 3

    def add_point(self, words: Sequence[str], line: str) -> None:
        """Adds a point by its first three words."""
        if len(words) < 3:
            raise ValueError(f"the vertex {line.strip()!r} does not have three numbers")
        if self.number >= MOST:
            raise ValueError(f"it has more than {MOST:,} points")
        self._positions.extend(float(word) for word in words[:3])

    def add_face(self, corners: Sequence[int]) -> None:
        """Adds the fan of a face from its first corner."""
        if len(corners) > CORNERS:
            raise ValueError(f"a face has {len(corners):,} corners. Valid: at most {CORNERS:,}")
        for corner in corners:
            if abs(corner) > BYTES:  # a file cannot have so many vertices, and the number might not fit an int64
                raise ValueError(f"a face names vertex {corner}, counted from 0")
        if len(self._corners) // 3 + len(corners) - 2 > MOST:
            raise ValueError(f"it has more than {MOST:,} triangles")
        for second, third in itertools.pairwise(corners[1:]):
            self._corners.extend((corners[0], second, third))

    def mesh(self) -> Mesh:
        return Mesh(np.array(self._positions).reshape(-1, 3), np.array(self._corners, np.int64).reshape(-1, 3))


def _lines(text: str) -> Iterator[str]:
    """The lines of a text without comments; empty lines are left out."""
    for line in io.StringIO(text):
        if line := line.partition("#")[0].strip():
            yield line


def _obj(text: str, surface: _Surface) -> None:
    """Adds the vertices and faces of a Wavefront file."""
    for line in _lines(text):
        word, *rest = line.split()
        if word == "v":
            surface.add_point(rest, line)
        elif word == "f":
            corners = [int(corner.split("/")[0]) for corner in rest]
            if 0 in corners:
                raise ValueError("a face names vertex 0, but vertices are counted from 1")
            surface.add_face([corner - 1 if corner > 0 else surface.number + corner for corner in corners])


def _off(text: str, surface: _Surface) -> None:
    """Adds the vertices and faces of an OFF file, whose counts must be right."""
    lines = _lines(text)
    first = next(lines, "")
    if not first.startswith("OFF"):
        raise ValueError("it does not begin with OFF")
    counts = (first[3:].split() or next(lines, "").split())[:2]  # some files begin with "OFF8 6 12"
    count, number = (int(word) for word in counts)
    total = 0
    for total, line in enumerate(lines, 1):
        words = line.split()
        if total <= count:
            surface.add_point(words, line)  # colours may follow the numbers
        elif total <= count + number:
            corners = int(words[0])
            if not 0 <= corners < len(words):
                raise ValueError(f"the face {line!r} has fewer corners than it says")
            surface.add_face([int(word) for word in words[1 : 1 + corners]])
    if count < 0 or number < 0 or total != count + number:
        raise ValueError(f"it declares {count} vertices and {number} faces, but has {total} lines for them")


def _ply(text: str, surface: _Surface) -> None:
    """Adds the vertices and faces of an ASCII PLY file."""
    head, end, body = text.partition("end_header")
    lines = [line.split() for line in _lines(head)]
    if not end or lines[0] != ["ply"]:
        raise ValueError("it has no header from ply to end_header")
    if ["format", "ascii", "1.0"] not in lines:
        raise ValueError("its format is not ascii 1.0")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line[0] == "property":
            elements[-1][2].append(line[1:])
    words = _Words(body)
    for name, count, properties in elements:
        if name == "vertex" and properties and not {*"xyz"} <= {property[-1] for property in properties}:
            raise ValueError("its vertices have no properties x, y and z")
        for _ in range(count if properties else 0):
            row = {}
            for kind, *rest in properties:
                row[rest[-1]] = words.some(int(words.take())) if kind == "list" else words.take()
            if name == "vertex":
                surface.add_point([row[axis] for axis in "xyz"], name)
            elif name == "face":
                surface.add_face([int(corner) for corner in row.get("vertex_indices", row.get("vertex_index", []))])


def _stl(text: str, surface: _Surface) -> None:
    """Adds the triangles of an ASCII STL file."""
    lines = _lines(text)
    if next(lines, "").split()[:1] != ["solid"]:
        raise ValueError("it does not begin with solid")
    for line in lines:
        word, *rest = line.split()
        if word == "vertex":
            surface.add_point(rest, line)
            if surface.number % 3 == 0:
                surface.add_face(range(surface.number - 3, surface.number))
    if surface.number % 3:
        raise ValueError(f"its {surface.number} vertices are not three for each triangle")


class _Words:
    """The words of a text in turn."""

    def __init__(self, text: str):
        self._words = (word for line in io.StringIO(text) for word in line.split())

    def take(self) -> str:
        """The next word.

        Raises:
            ValueError: if there is none.
        """
        word = next(self._words, None)
        if word is None:
            raise ValueError("it ends too early")
        return word

    def some(self, number: int) -> list[str]:
        """The next `number` words, which are the entries of a list.

        Raises:
            ValueError: if fewer words are left, or `number` exceeds the corners that a face may have.
        """
        if number > CORNERS:
            raise ValueError(f"a face has {number:,} corners. Valid: at most {CORNERS:,}")
        return [self.take() for _ in range(number)]


READERS: dict[str, Callable[[str, _Surface], None]] = {".obj": _obj, ".off": _off, ".ply": _ply, ".stl": _stl}
"""{ending of a file name: a function that adds the points and faces in a text to a surface}."""

public.declare(__name__)
