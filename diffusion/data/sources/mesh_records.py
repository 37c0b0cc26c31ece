"""Point clouds from a folder of meshes (.obj, .off, .ply, .stl as text) or of clouds (.npy), of which each is a record.

meshes/chair/one.obj, meshes/chair/two.ply, meshes/table/three.off      # the class is the folder
meshes/one.obj, meshes/two.npy                                          # no classes
"""

__all__ = ["CloudRecords", "MeshClouds", "mesh_clouds"]

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.data import level_sets
from diffusion.data.sources import splits
from diffusion.data.sources.array_files import mapped
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import mesh_files

SEED = 2030
CLOUD = ".npy"


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
    clouds of different sizes are records of one size. A record is a function of its file and draw alone.

    Args:
        path: of the folder, with FOLDER/CLASS/FILE or FOLDER/FILE.
        split: all of it is "train"; a part as `splits.parse` reads it.
        points: of a record.
        draws: records of each file, of other points.
        label: "" for no labels.
        classes: the names of the class folders in the order of their numbers; () for all, sorted.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no meshes, or a number is below 1.
    """
    return CloudRecords(MeshClouds(path, split, points, draws), split, label=label, classes=classes)


class CloudRecords(Records):
    """The records, which are points of surfaces."""

    surface = staticmethod(level_sets.of_points)


class MeshClouds:
    """Clouds of meshes as a table with the columns "x" and, with class folders, "label"."""

    def __init__(self, path: str, split: str, points: int, draws: int):
        folder = pathlib.Path(path).expanduser()
        self.where, self.name = str(folder), folder.name
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder of meshes.")
        splits.files_of(splits.parse(split).base, ["a file"], self.where)  # all of it is "train"
        for name, value in (("points", points), ("draws", draws)):
            if value < 1:
                raise ValueError(f"{name} = {value}. Valid: at least 1")
        valid = (*mesh_files.READERS, CLOUD)
        self._files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in valid and file.is_file())
        if not self._files:
            raise ValueError(f"{folder} holds no meshes and no clouds ({', '.join(valid)}).")
        folders = [file.relative_to(folder).parts[:-1] for file in self._files]
        if len({bool(parts) for parts in folders}) > 1:
            raise ValueError(f"{folder} holds meshes beside folders of meshes. Valid: all in class folders, or none.")
        self._labels = [parts[0] for parts in folders if parts]
        self.columns: tuple[str, ...] = ("x", "label") if self._labels else ("x",)
        self._points, self._draws = points, draws

    def __len__(self) -> int:
        return len(self._files) * self._draws

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        of = {"x": self._cloud, "label": lambda row: self._labels[row // self._draws]}
        return [{name: of[name](row) for name in columns} for row in rows]

    def place(self, row: int) -> str:
        return str(self._files[row // self._draws])

    def column(self, name: str) -> Sequence[Any]:
        return [self._labels[row // self._draws] for row in range(len(self))]

    def stamp(self) -> Any:
        return [stamp_of(self._files), self._points, self._draws]

    def _cloud(self, row: int) -> np.ndarray:
        file = self._files[row // self._draws]
        rng = np.random.default_rng((SEED, row))
        if file.suffix.lower() == CLOUD:
            whole = _points_of(file)
            if len(whole) < self._points:
                raise ValueError(f"it has {len(whole)} points, fewer than points = {self._points}")
            cloud = whole[rng.choice(len(whole), self._points, replace=False)]
        else:
            mesh = mesh_files.read(file)
            whole = mesh.vertices[np.unique(mesh.triangles)]
            cloud = mesh_files.surface_points(mesh, self._points, rng)
        low, high = whole.min(axis=0), whole.max(axis=0)
        reach = np.linalg.norm(whole - (low + high) / 2, axis=1).max()
        if not reach > 0:
            raise ValueError("all its points are one point, so that it has no size")
        return ((cloud - (low + high) / 2) / reach).astype(np.float32)


def _points_of(file: pathlib.Path) -> np.ndarray:
    """The cloud of a .npy file, float64 [N, 3]."""
    points = mapped(file)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f" or not len(points):
        raise ValueError(f"it holds {points.dtype} {list(points.shape)}, and a cloud is floating-point [N, 3]")
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"point {int(np.argmin(np.isfinite(points).all(axis=1)))} is NaN or infinite")
    return points
