"""Figures of two sets of features: what `experiments.evaluation.score` can measure.

To add one: a function of a Pair below, a line in METRICS, and its tolerance in experiments/evaluation/records.py.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.metrics import (
    extrapolation,
    frechet,
    frechet_error,
    inception,
    inception_score,
    kernel_distance,
    manifold,
    memorisation,
)
from diffusion.metrics.references import Gathered, Space


class Pair(NamedTuple):
    """Both sides, gathered.

    Attributes:
        samples: features of the samples.
        reference: moments of the reference, and rows where it has images; its rows are those of the images, and its
            statistics those of the file where both are there.
        space: the features.
        seed: of subsets.
        score_splits: of the Inception Score, see `protocols.Protocol`.
    """

    samples: Gathered
    reference: Gathered
    space: Space
    seed: int
    score_splits: str


SUBSET = 1000  # rows of a subset of KID


class NotMeasured(Exception):
    """A figure has no value here; the message says why, and what it needs."""


# (Pair) -> {figure: {"value", "standard_error", "samples", "reference", ...}}


def _distance(pair: Pair, tap: str) -> dict:
    reference, own = pair.reference.statistics, pair.samples.statistics
    if tap not in reference.moments:
        raise NotMeasured(f"the reference has no statistics of {tap} features, only {', '.join(reference.moments)}")
    error = frechet_error.standard_error(pair.samples.rows[tap], reference.moments[tap])
    return {
        "value": frechet.frechet_distance(own.moments[tap], reference.moments[tap]),
        "standard_error": error,
        "samples": own.count,
        "reference": reference.count,
        "features": len(own.moments[tap].mean),
    }


def _rows(pair: Pair, tap: str) -> tuple[np.ndarray, np.ndarray]:
    if tap not in pair.reference.rows:
        raise NotMeasured("the reference holds statistics alone, and this figure needs its images")
    return pair.samples.rows[tap], pair.reference.rows[tap]


def _equal(pair: Pair, tap: str) -> tuple[np.ndarray, np.ndarray]:
    """As many rows of each, drawn by the seed from the larger set: figures of unequal numbers do not compare."""
    both = _rows(pair, tap)
    count = min(map(len, both))
    rng = np.random.default_rng(pair.seed)
    return tuple(rows if len(rows) == count else rows[np.sort(rng.permutation(len(rows))[:count])] for rows in both)


# What the figures of Inception features, which alone have these names in the literature, are called in other spaces.
ELSEWHERE = {"fid": "fd", "fid_infinity": "fd_infinity", "kid": "kd", "rfid": "rfd"}


def called(space: Space, name: str) -> str:
    """The name of a figure in a space: "fid" is of FID's Inception features alone, "fd" a Frechet distance of any."""
    return name if space.main in inception.TAPS else ELSEWHERE.get(name, name)


def fid(pair: Pair) -> dict:
    """Frechet distance, with the standard error over draws of the samples."""
    return {called(pair.space, "fid"): _distance(pair, pair.space.main)}


def sfid(pair: Pair) -> dict:
    """Frechet distance of spatial features."""
    return {"sfid": _distance(pair, "spatial")}


def fid_infinity(pair: Pair) -> dict:
    """The distance extrapolated to infinitely many samples."""
    rows = pair.samples.rows[pair.space.main]
    tap = pair.space.main
    try:
        found = extrapolation.extrapolate(rows, pair.reference.statistics.moments[tap], seed=pair.seed)
    except ValueError as error:
        raise NotMeasured(str(error)) from error
    figure = {
        "value": found.value,
        "standard_error": found.standard_error,
        "samples": len(rows),
        "reference": pair.reference.statistics.count,
        "slope": found.slope,
        "sizes": found.sizes.tolist(),
        "distances": found.distances.tolist(),
    }
    return {called(pair.space, "fid_infinity"): figure}


def kid(pair: Pair) -> dict:
    """Kernel distance, unbiased: over 100 subsets of 1,000, or of all rows at once where there are no more."""
    samples, reference = _rows(pair, pair.space.main)
    if min(len(samples), len(reference)) <= SUBSET:
        found = kernel_distance.mmd2(kernel_distance.cubic, samples, reference)
    else:
        found = kernel_distance.kid(samples, reference, size=SUBSET, seed=pair.seed)
    return {called(pair.space, "kid"): found._asdict()}


def cmmd(pair: Pair) -> dict:
    """CLIP-MMD, for a space of CLIP's image embeddings: another space has another scale, and the kernel is fixed."""
    if pair.space.main in inception.TAPS:
        raise NotMeasured("it is defined in CLIP's embeddings; give them as a function, see docs/evaluation.md")
    return {"cmmd": kernel_distance.cmmd(*_rows(pair, pair.space.main))._asdict()}


def pr(pair: Pair) -> dict:
    """Precision and recall, k = 3, of equal numbers."""
    return _overlap(pair, ("precision", "recall"), "manifold_k")


def dc(pair: Pair) -> dict:
    """Density and coverage, k = 5, of equal numbers."""
    return _overlap(pair, ("density", "coverage"), "density_k")


def _overlap(pair: Pair, names: Sequence[str], k: str) -> dict:
    found = manifold.overlap(*_equal(pair, pair.space.main))
    return {
        name: {
            "value": getattr(found, name),
            "standard_error": found.standard_errors[name],
            "samples": found.samples,
            "reference": found.reference,
            "k": getattr(found, k),
        }
        for name in names
    }


def score(pair: Pair) -> dict:
    """Inception Score, over the protocol's splits; the deviation is that over the splits."""
    if "logits" not in pair.samples.rows:
        raise NotMeasured("this copy of the network has no logits")
    logits = pair.samples.rows["logits"]
    splits = {"ten, shuffled": 10, "every 5,000": max(1, round(len(logits) / 5000)), "one": 1}[pair.score_splits]
    seed = pair.seed if pair.score_splits == "ten, shuffled" else None
    found = inception_score.inception_score(logits, splits, seed)
    return {
        "is": {
            "value": found.value,
            "standard_deviation": found.standard_deviation,
            "samples": found.samples,
            "splits": splits,
        }
    }


def authenticity(pair: Pair) -> dict:
    """Share of samples that are no near copies of a reference image: name the training set as the reference."""
    found = memorisation.authenticity(*_rows(pair, pair.space.main))
    return {
        "authenticity": {
            "value": found.value,
            "interval": list(found.interval),
            "samples": found.samples,
            "reference": found.train,
        }
    }


METRICS: dict[str, Callable[[Pair], dict]] = {
    "fid": fid,
    "sfid": sfid,
    "fid_infinity": fid_infinity,
    "kid": kid,
    "cmmd": cmmd,
    "pr": pr,
    "dc": dc,
    "is": score,
    "authenticity": authenticity,
}
TAPS = {"sfid": ("spatial",), "is": ("logits",)}  # besides the main one
OF_ROWS = ("kid", "cmmd", "pr", "dc", "authenticity")  # what needs the rows of the reference
