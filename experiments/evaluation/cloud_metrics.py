"""Metrics of samples that are surfaces in space.

All surfaces are compared as point clouds, by 1-NNA, coverage and minimum matching distance. For signed distances, the
share of solids in one piece is measured as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.data import level_sets
from diffusion.experiments.evaluation.real_images import balanced_order
from diffusion.experiments.evaluation.subject import has_classes, held_out_source, training_source
from diffusion.metrics import bootstrap, point_clouds
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress

SEED = 0  # seed of the points of a surface, and of the scattered points
VOLUMES = 5  # axes of signed distances [N, S, S, S, 1]
DISTANCES = {"chamfer": point_clouds.chamfer, "earth_movers": point_clouds.earth_movers}


def measure_clouds(subject: Any) -> dict:
    """Compares samples with held-out clouds, and in the same way training clouds (the floor) and scattered points.

    Scattered points are clouds whose points are drawn from all training clouds together, so that they form no shape.
    All sets have the same size, at most config.evaluate.number, and their classes take turns. If a file gives several
    clouds, only the first is used, since the others would be its nearest neighbours. For signed distances,
    `in_one_piece` is the share of connected solids, also by class.

    Args:
        subject: `model_metrics.Subject` of a run on a source of surfaces.

    Raises:
        ConfigError: for a run on other data.
    """
    source = held_out_source(subject)
    surface = getattr(source, "surface", None)
    if surface is None:
        raise ConfigError(
            f"--metrics=clouds is for surfaces in space, but {subject.real.spec.name} holds none. Valid: a run on "
            "solid_points, solid_distances or mesh_clouds, e.g. --config=shapes/points."
        )
    held_out, trained = (
        (split.images[:: getattr(records, "draws", 1)], split.labels[:: getattr(records, "draws", 1)])
        for split, records in ((subject.real, source), (subject.train, training_source(subject)))
    )
    wanted = subject.config.evaluate.number
    number = min(wanted, len(subject.images), len(held_out[0]), len(trained[0]))
    if number < 2:
        raise ConfigError(f"--metrics=clouds compares two sets of at least 2 clouds, but each has only {number}.")

    def clouds(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = balanced_order(labels)[:number]
        return np.stack([surface(images[row], np.random.default_rng((SEED, i))) for i, row in enumerate(rows)])

    reference, real = clouds(*held_out), clouds(*trained)
    every = real.reshape(-1, real.shape[-1])
    scattered = every[np.random.default_rng(SEED).integers(len(every), size=real.shape[:2])]
    sets = {"": clouds(subject.images, subject.labels), "_of_real_shapes": real, "_of_scattered_points": scattered}
    metrics = {}
    with progress.bar("distances of clouds", len(DISTANCES) * (2 * len(sets) + 1) * number, "rows") as advance:
        passed = 0
        for name, distance in DISTANCES.items():

            def between(first: np.ndarray, second: np.ndarray | None, distance: Any = distance) -> np.ndarray:
                nonlocal passed
                values = point_clouds.distances(first, second, distance, lambda done: advance(passed + done))
                passed += number
                return values

            references = between(reference, None)
            for suffix, some in sets.items():
                within, across = between(some, None), between(some, reference)
                figures = {
                    "1nna": point_clouds.nearest_neighbour_accuracy(within, across, references),
                    "coverage": point_clouds.coverage(across),
                    "minimum_matching": point_clouds.minimum_matching_distance(across),
                }
                for figure, value in figures.items():
                    metrics[f"{figure}_{name}{suffix}"] = {"value": value, "samples": number, "reference": number}
    if subject.images.ndim == VOLUMES:
        names = subject.real.spec.classes
        some = {"": (subject.images, subject.labels), "_of_real_shapes": trained}
        for suffix, (images, labels) in some.items():
            rows = balanced_order(labels)[:number]
            shares = in_one_piece(images[rows], labels[rows], names if suffix or has_classes(subject) else ())
            metrics |= {f"{name}{suffix}": share for name, share in shares.items()}
    return dict(sorted(metrics.items()))


def in_one_piece(distances: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict:
    """The share of solids in one piece, of all as "in_one_piece" and of each class as "in_one_piece_NAME".

    Args:
        distances: the signed distances `[N, S, S, S, 1]`.
        labels: the classes, int `[N]`.
        names: the names of the classes.
    """
    single = np.array([level_sets.pieces(distance) == 1 for distance in distances])
    by_class = bootstrap.means_by_class(single, labels, names, bootstrap.proportion)
    return {"in_one_piece": bootstrap.proportion(single)} | {
        f"in_one_piece_{name}": one for name, one in by_class.items()
    }
