"""Solids with drawn proportions as records: point clouds, and signed distances on a grid of voxels."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.data import level_sets, solids
from diffusion.data.sources.sequences import SPLITS, Computed, Records, check_made

SEED = 2029


class SurfaceRecords(Records):
    """Records of surfaces in space.

    Attributes:
        surface: (example, generator) -> points of its surface, float64 [N, 3].
    """

    def __init__(
        self,
        name: str,
        make: Callable[[int], dict[str, Any]],
        number: int,
        classes: tuple[str, ...],
        split: str,
        surface: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    ):
        super().__init__(Computed(number, functools.cache(make)), len(classes), split)
        self.spec = self.spec._replace(name=name, classes=classes)
        self.surface = surface


def solid_points(
    split: str = "train", *, points: int = 128, number: int = 10_000, kinds: tuple[str, ...] = ()
) -> SurfaceRecords:
    """Point clouds float32 [points, 3], uniform by area on the surfaces of solids, whose kind is the class.

    A record depends only on its row and split.

    Args:
        split: "train" or "test".
        points: number of points of a cloud, at least 1.
        number: how many clouds there are, at least 1.
        kinds: names in `solids.KINDS`, in the order of their classes; () for all.

    Raises:
        ValueError: for another split or kind, or a number below 1.
    """
    draw = _maker(split, number, kinds)
    _positive("points", points)

    def make(row: int) -> dict[str, Any]:
        solid, label, rng = draw(row)
        return {"x": solids.surface_points(solid, points, rng).astype(np.float32), "label": label}

    return SurfaceRecords("solid_points", make, number, _classes(kinds), split, level_sets.cloud_points)


def solid_distances(
    split: str = "train", *, side: int = 16, truncation: float = 0.25, number: int = 10_000, kinds: tuple[str, ...] = ()
) -> SurfaceRecords:
    """Solids as truncated signed distances at the centres of voxels, float32 [side, side, side, 1].

        x = clip(distance / truncation, -1, 1),     negative inside, over the cube [-1, 1]^3

    Args:
        split: "train" or "test".
        side: voxels along an axis.
        truncation: the distance at which values are clipped, above 0.
        number: how many solids there are, at least 1.
        kinds: names in `solids.KINDS`, in the order of their classes; () for all.

    Raises:
        ValueError: for another split or kind, or a number that is not positive.
    """
    draw = _maker(split, number, kinds)
    _positive("side", side)
    if not truncation > 0:
        raise ValueError(f"truncation = {truncation}. Valid: a positive distance")
    centres = solids.grid(side)

    def make(row: int) -> dict[str, Any]:
        solid, label, _ = draw(row)
        x = np.clip(solids.signed_distance(solid, centres) / truncation, -1, 1)
        return {"x": x.reshape(side, side, side, 1).astype(np.float32), "label": label}

    return SurfaceRecords("solid_distances", make, number, _classes(kinds), split, level_sets.crossings)


def _classes(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(kinds) or tuple(solids.KINDS)


def _maker(
    split: str, number: int, kinds: tuple[str, ...]
) -> Callable[[int], tuple[solids.Solid, int, np.random.Generator]]:
    """The function row -> (solid, class, generator in its state after both are drawn)."""
    check_made("solids", split, number)
    classes = _classes(kinds)
    if wrong := [kind for kind in classes if kind not in solids.KINDS]:
        raise ValueError(f"kinds holds {wrong[0]!r}. Valid: {', '.join(solids.KINDS)}")
    if twice := [kind for kind in classes if classes.count(kind) > 1]:
        raise ValueError(f"kinds names {twice[0]!r} twice. Valid: each kind once, since it is a class")

    def draw(row: int) -> tuple[solids.Solid, int, np.random.Generator]:
        rng = np.random.default_rng((SEED, SPLITS.index(split), row))
        label = int(rng.integers(len(classes)))
        return solids.draw(classes[label], rng), label, rng

    return draw


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}. Valid: at least 1")
