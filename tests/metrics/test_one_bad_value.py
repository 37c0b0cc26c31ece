"""One value that is not a number, among many that are, is refused by every metric, whichever argument has it."""

import itertools
import math

import numpy as np
import pytest

from diffusion.metrics import (
    bootstrap,
    clip_score,
    crps,
    detection,
    frechet,
    inception_score,
    kernel_distance,
    manifold,
    memorisation,
    pairwise,
    point_clouds,
    preference,
    protocols,
    vbench,
    vector_distances,
)
from diffusion.metrics.mind import mind
from diffusion.metrics.prompt_following import readers
from diffusion.metrics.prompt_following.readers import Embedder

RNG = np.random.default_rng(0)
ROWS, OTHERS, THIRD = RNG.normal(size=(3, 6, 4))
CLOUDS, MORE_CLOUDS = RNG.normal(size=(2, 3, 5, 3))
BATCH = RNG.uniform(-1, 1, (3, 2, 2, 3))
PICTURES = [np.zeros((2, 2, 3), np.uint8)] * 3
moments = lambda mean, m2: frechet.covariance(frechet.Moments(6, mean, m2))
# The arrays of a call, and the call.
METRICS = {
    "percentile_interval": ((ROWS[:, 0],), bootstrap.percentile_interval),
    "clip_score": ((ROWS, OTHERS), clip_score.clip_score),
    "crps fair": ((ROWS, OTHERS[0]), crps.fair),
    "crps plug-in": ((ROWS, OTHERS[0]), crps.plug_in),
    "crps coverage": ((ROWS, OTHERS[0]), lambda samples, y: crps.coverage(samples, y, 0.9)),
    "auroc": ((ROWS[0], OTHERS[0]), detection.auroc),
    "frechet update": ((ROWS,), lambda rows: frechet.update(frechet.init(4), rows)),
    "frechet covariance": ((ROWS[0], ROWS.T @ ROWS), moments),
    "inception_score": ((ROWS,), lambda logits: inception_score.inception_score(logits, 2)),
    "mmd2": ((ROWS, OTHERS), lambda x, y: kernel_distance.mmd2(kernel_distance.cubic, x, y)),
    "kid": ((ROWS, OTHERS), lambda x, y: kernel_distance.kid(x, y, 3, 4)),
    "cmmd": ((ROWS, OTHERS), kernel_distance.cmmd),
    "overlap": ((ROWS, OTHERS), lambda x, y: manifold.overlap(x, y, 1, 2)),
    "nearest": ((ROWS, OTHERS), memorisation.nearest),
    "authenticity": ((ROWS, OTHERS), memorisation.authenticity),
    "copied_by_ratio": ((ROWS, OTHERS), memorisation.copied_by_ratio),
    "data_copying": ((ROWS, OTHERS, THIRD), lambda x, y, z: memorisation.data_copying(x, y, z, least=1)),
    "mind": ((ROWS, OTHERS), lambda x, y: mind(x, y, 3)),
    "energy": ((ROWS, OTHERS), vector_distances.energy),
    "sliced_wasserstein": ((ROWS, OTHERS), lambda x, y: vector_distances.sliced_wasserstein(x, y, np.eye(4))),
    "chamfer": ((CLOUDS, MORE_CLOUDS), lambda a, b: point_clouds.distances(a, b, point_clouds.chamfer)),
    "preferred": ((ROWS[0], OTHERS[0]), preference.preferred),
    "to_bytes": ((BATCH,), lambda images: protocols.to_bytes("round(y * 255)", images)),
    "vbench consistency": ((CLOUDS,), vbench.consistency),
    "vbench text_consistency": ((CLOUDS, CLOUDS[:, 0]), vbench.text_consistency),
    "embedded_texts": ((ROWS[:3],), lambda rows: readers.embedded_texts(Embedder(None, lambda _: rows), "abc")),
    "embedded_pictures": (
        (ROWS[:3],),
        lambda rows: readers.embedded_pictures(Embedder(lambda _: rows, None), PICTURES),
    ),
    "depths": ((BATCH[..., 0],), lambda maps: readers.depths(lambda _: list(maps), PICTURES)),
}


@pytest.mark.parametrize("name", METRICS)
def test_one_bad_value_among_many_is_refused(name):
    arrays, call = METRICS[name]
    call(*arrays)  # without it the values are fine
    for number, array in enumerate(arrays):
        for place, bad in itertools.product((0, array.size // 2, array.size - 1), (math.nan, math.inf, -math.inf)):
            broken = array.copy()
            broken.flat[place] = bad
            with pytest.raises(ValueError):
                call(*arrays[:number], broken, *arrays[number + 1 :])


@pytest.mark.parametrize("place, row", [(0, 0), (6, 1), (23, 5)])
def test_the_message_names_the_row(place, row):
    broken = ROWS.copy()
    broken.flat[place] = math.nan
    for call, words in (
        (lambda: pairwise.checked("rows", broken), f"row {row} "),
        (lambda: frechet.update(frechet.init(4), broken), f"row {row} "),
        (lambda: protocols.to_bytes("round(y * 255)", broken[:, None, None]), f"image {row} "),
        (lambda: point_clouds.distances(broken[:, None], ROWS[:, None], point_clouds.chamfer), f"cloud {row} "),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_row_is_counted_from_the_first_of_all(monkeypatch):
    """The rows are checked block by block."""
    monkeypatch.setattr(pairwise, "BLOCK", 4)
    rows = np.ones((11, 2))
    rows[9, 1] = np.nan
    with pytest.raises(ValueError, match="rows must be finite, but row 9 holds NaN"):
        pairwise.checked("rows", rows)
