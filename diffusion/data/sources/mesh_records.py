"""Point clouds from a folder of meshes (.obj, .off, .ply, .stl as text) or of clouds (.npy).

meshes/chair/one.obj, meshes/chair/two.ply, meshes/table/three.off      # the class is the folder
meshes/train/chair/one.obj or meshes/chair/train/one.off                # with splits
meshes/one.obj, meshes/two.npy                                          # no classes
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import level_sets
from diffusion.data.sources import splits
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import mesh_files, npy, opener

SEED = 2030
OTHERS = (".glb", ".gltf", ".fbx", ".dae", ".3ds", ".blend", ".usd", ".usdz", ".x3d", ".step", ".stp")
CLOUD = ".npy"
KEPT = 2**28  # most bytes of meshes and clouds that stay in memory


def mesh_clouds(
    path: str,
    split: str = "train",
    *,
    points: int = 128,
    draws: int = 1,
    label: str | None = None,
    classes: tuple[str, ...] = (),
) -> "CloudRecords":
    """Opens a folder of meshes and clouds as point clouds float32 [points, 3], centred, in the unit ball.

    Points are drawn uniformly by area from a mesh, and without replacement from the rows of a cloud [N, 3], so that
    clouds of different sizes are records of one size. The points are drawn by the number of the record in the folder,
    so a file that is added before others changes theirs.

    Args:
        path: the folder, with FOLDER/CLASS/FILE or FOLDER/FILE, and with FOLDER/train or FOLDER/CLASS/train where there
            are splits; or one file, or a pattern.
        split: the split, or a part such as "train[:90%]"; parts count files, so that two parts share none.
        points: number of points of a record.
        draws: number of records of a file, each with its own points.
        label: None for the class folders as labels; "" for no labels.
        classes: the names of the class folders in the order of their numbers; () for all, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no meshes, or a number is below 1.
    """
    records = CloudRecords(MeshClouds(path, split, points, draws), split, label=label, classes=classes, together=draws)
    records.draws = draws
    return records


class CloudRecords(Records):
    """Records that are points of surfaces.

    Attributes:
        draws: number of consecutive records that are points of one file.
    """

    draws = 1
    surface = staticmethod(level_sets.cloud_points)


class MeshClouds:
    """Clouds of meshes as a table with the columns "x" and, with class folders, "label"."""

    def __init__(self, path: str, split: str, points: int, draws: int):
        for name, value in (("points", points), ("draws", draws)):
            if value < 1:
                raise ValueError(f"{name} = {value}. Valid: at least 1")
        self._files, self._labels, self.where, self.name = splits.class_files(
            path, (*mesh_files.READERS, CLOUD), splits.parse(split).base
        )
        splits.warn_of_formats(self.where, "meshes", OTHERS, (*mesh_files.READERS, CLOUD))
        self._within = splits.within(self.where)
        self.columns: tuple[str, ...] = ("x", "label") if self._labels else ("x",)
        self._points, self._draws = points, draws
        self._kept: dict[pathlib.Path, _Shape] = {}
        self._room = KEPT

    def __len__(self) -> int:
        return len(self._files) * self._draws

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        value = {"x": self._cloud, "label": lambda row: self._labels[row // self._draws]}
        return [{name: value[name](row) for name in columns} for row in rows]

    def place(self, row: int) -> str:
        return str(self._files[row // self._draws])

    def column(self, name: str) -> Sequence[Any]:
        return [self._labels[row // self._draws] for row in range(len(self))]

    def stamp(self) -> Any:
        return [stamp_of(self._files), self._points, self._draws]

    def _cloud(self, row: int) -> np.ndarray:
        shape = self._shape(self._files[row // self._draws])
        cloud = shape.draw(self._points, np.random.default_rng((SEED, row)))
        return ((cloud - shape.centre) / shape.reach).astype(np.float32)

    def _shape(self, file: pathlib.Path) -> "_Shape":
        """The shape that a file holds; it stays in memory where there is room."""
        if file in self._kept:
            return self._kept[file]
        shape, size = _read(opener.check(file, within=self._within))
        if size <= self._room:
            self._room -= size
            self._kept[file] = shape
        return shape


class _Shape(NamedTuple):
    """A surface or a cloud.

    Attributes:
        draw: (number, generator) -> points float64 [number, 3].
        centre: the centre of its bounding box, float [3].
        reach: the distance of its farthest point from the centre.
    """

    draw: Callable[[int, np.random.Generator], np.ndarray]
    centre: np.ndarray
    reach: float


def _read(file: pathlib.Path) -> tuple[_Shape, int]:
    """The shape in a file, and its size in bytes."""
    if file.suffix.lower() == CLOUD:
        vertices = _points_of(file)
        draw, size = functools.partial(_rows_of, vertices), vertices.nbytes
    else:
        mesh = mesh_files.read(file)
        vertices = mesh.vertices[np.unique(mesh.triangles)]
        draw, size = functools.partial(mesh_files.surface_points, mesh), mesh.vertices.nbytes + mesh.triangles.nbytes
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    reach = np.linalg.norm(vertices - (low + high) / 2, axis=1).max()
    if not reach > 0:
        raise ValueError("all its points coincide, so it has no size")
    return _Shape(draw, (low + high) / 2, float(reach)), size


def _rows_of(cloud: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    if len(cloud) < number:
        raise ValueError(f"it has {len(cloud)} points, fewer than points = {number}")
    return cloud[rng.choice(len(cloud), number, replace=False)]


def _points_of(file: pathlib.Path) -> np.ndarray:
    """The cloud of a .npy file, float64 [N, 3]."""
    points = npy.mapped(file)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f" or not len(points):
        raise ValueError(
            f"it holds {points.dtype} {list(points.shape)}. Valid: a cloud of floating-point numbers [N, 3]"
        )
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"point {int(np.argmin(np.isfinite(points).all(axis=1)))} is NaN or infinite")
    return points
