"""Metrics of two sets of features, such as FID, which `evaluation.comparison` computes by name.

To add one: a function of FeatureSets below, a line in METRICS, and its tolerance in records.py.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.experiments.evaluation.figures import HIGHER, LOWER
from diffusion.metrics import (
    bootstrap,
    extrapolation,
    frechet,
    frechet_error,
    inception,
    inception_score,
    kernel_distance,
    manifold,
    memorisation,
    mind,
)
from diffusion.metrics.references import Gathered, Space


class FeatureSets(NamedTuple):
    """The features of samples and of their reference."""

    samples: Gathered
    reference: Gathered  # its moments, from a file of statistics if there is one, and its rows if it has images
    space: Space
    seed: int  # seed of random subsets
    score_splits: str  # splits of the Inception Score, see `protocols.Protocol`


SUBSET = 1000  # rows of a subset of KID
ERROR_ROWS = 5000  # most rows that the standard error of KID is computed from: its cost grows as their square


class NotMeasured(Exception):
    """A figure cannot be measured here; the message says why, and what it needs."""


# A metric: (FeatureSets) -> {figure: {"value", "standard_error", "samples", "reference", "better" (if known), ...}}


def _distance(sets: FeatureSets, tap: str) -> dict:
    reference = sets.reference.statistics
    statistics = sets.samples.statistics
    if tap not in reference.moments:
        raise NotMeasured(f"the reference has no statistics of {tap} features, only of {', '.join(reference.moments)}")
    return {
        "value": frechet.frechet_distance(statistics.moments[tap], reference.moments[tap]),
        "standard_error": frechet_error.standard_error(sets.samples.rows[tap], reference.moments[tap]),
        "samples": statistics.count,
        "reference": reference.count,
        "features": len(statistics.moments[tap].mean),
        "better": LOWER,
    }


def _rows(sets: FeatureSets, tap: str) -> tuple[np.ndarray, np.ndarray]:
    if tap not in sets.reference.rows:
        raise NotMeasured("this figure needs the images of the reference, which holds only statistics")
    return sets.samples.rows[tap], sets.reference.rows[tap]


def _equal(sets: FeatureSets, tap: str, most: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sets in equal numbers, drawn by the seed: such metrics depend on the numbers of rows.

    Args:
        sets: the features.
        tap: the name of the features.
        most: the largest number of rows; 0 for no limit.
    """
    samples, reference = _rows(sets, tap)
    count = min(len(samples), len(reference), *([most] if most else []))
    rng = np.random.default_rng(sets.seed)
    draw = lambda rows: rows if len(rows) == count else rows[np.sort(rng.permutation(len(rows))[:count])]
    return draw(samples), draw(reference)


# The literature has these names only for figures of Inception features; in other spaces the figures are called so.
ELSEWHERE = {"fid_infinity": "fd_infinity", "kid": "kd", "rfid": "rfd"}


def called(space: Space, name: str) -> str:
    """The name of a figure in a space: "fid" in Inception's features, "fd" for a Frechet distance in other features."""
    if name == "fid":
        return space.frechet
    return name if space.main in inception.TAPS else ELSEWHERE.get(name, name)


def fid(sets: FeatureSets) -> dict:
    """Frechet distance, with the standard error over draws of the samples."""
    return {called(sets.space, "fid"): _distance(sets, sets.space.main)}


def sfid(sets: FeatureSets) -> dict:
    """Frechet distance of spatial features."""
    return {"sfid": _distance(sets, "spatial")}


def fid_infinity(sets: FeatureSets) -> dict:
    """The distance extrapolated to infinitely many samples."""
    rows = sets.samples.rows[sets.space.main]
    tap = sets.space.main
    try:
        fit = extrapolation.extrapolate(rows, sets.reference.statistics.moments[tap], seed=sets.seed)
    except ValueError as error:
        raise NotMeasured(str(error)) from error
    figure = {
        "value": fit.value,
        "standard_error": fit.standard_error,
        "samples": len(rows),
        "reference": sets.reference.statistics.count,
        "slope": fit.slope,
        "sizes": fit.sizes.tolist(),
        "distances": fit.distances.tolist(),
        "better": LOWER,
    }
    return {called(sets.space, "fid_infinity"): figure}


def kid(sets: FeatureSets) -> dict:
    """Unbiased kernel distance: the mean over 100 subsets of 1,000 rows, or of all rows if a set has at most 1,000.

    Its standard error is over draws of both sets. The scatter over the subsets does not contain it, since they share
    their rows.
    """
    samples, reference = _rows(sets, sets.space.main)
    if min(len(samples), len(reference)) <= SUBSET:
        distance = kernel_distance.mmd2(kernel_distance.cubic, samples, reference)
    else:
        distance = kernel_distance.kid(samples, reference, size=SUBSET, seed=sets.seed)
        over_draws = _error_over_draws(*_equal(sets, sets.space.main, ERROR_ROWS), min(len(samples), len(reference)))
        distance = distance._replace(standard_error=float(np.hypot(distance.standard_error, over_draws)))
    return {called(sets.space, "kid"): {**distance._asdict(), "better": LOWER}}


def _error_over_draws(samples: np.ndarray, reference: np.ndarray, count: int) -> float:
    """The standard error of the kernel distance of all rows, from a draw of them: its square falls as 1 / rows."""
    error = kernel_distance.mmd2(kernel_distance.cubic, samples, reference).standard_error
    return error * (len(samples) / count) ** 0.5


def cmmd(sets: FeatureSets) -> dict:
    """CLIP-MMD, for CLIP's image embeddings; its kernel is fixed, and features of another scale do not fit it."""
    if sets.space.main in inception.TAPS:
        raise NotMeasured("this figure is defined in CLIP's embeddings; use --protocol=cmmd, see docs/evaluation.md")
    distance = kernel_distance.cmmd(*_rows(sets, sets.space.main))
    return {"cmmd": {**distance._asdict(), "better": LOWER}}


def monge(sets: FeatureSets) -> dict:
    """Sliced Wasserstein distance of equal numbers of rows, along 1,000 directions."""
    distance = mind.mind(*_equal(sets, sets.space.main), seed=sets.seed)
    return {"mind": {**distance._asdict(), "reference": distance.samples, "better": LOWER}}


def pr(sets: FeatureSets) -> dict:
    """Precision and recall, with k = 3 or the k of the space, of equal numbers of rows unless the space takes all."""
    return _overlap(sets, ("precision", "recall"), "manifold_k")


def dc(sets: FeatureSets) -> dict:
    """Density and coverage with k = 5, of the same rows."""
    return _overlap(sets, ("density", "coverage"), "density_k")


def _overlap(sets: FeatureSets, names: Sequence[str], k: str) -> dict:
    tap = sets.space.main
    rows = _equal(sets, tap, sets.space.overlap_rows) if sets.space.equal_rows else _rows(sets, tap)
    overlap = manifold.overlap(*rows, manifold_k=sets.space.neighbours)
    return {
        name: {
            "value": getattr(overlap, name),
            **_error(overlap, name),
            "samples": overlap.samples,
            "reference": overlap.reference,
            "k": getattr(overlap, k),
            "better": HIGHER,
        }
        for name in names
    }


def _error(overlap: manifold.Overlap, name: str) -> dict:
    """The standard error; Wilson's interval of a share where all rows agree, so that the error would be 0."""
    if error := overlap.standard_errors[name]:
        return {"standard_error": error}
    if name == "density":  # a mean of counts
        return {"standard_error": None}
    rows = overlap.samples if name == "precision" else overlap.reference
    interval = bootstrap.wilson_interval(round(getattr(overlap, name) * rows), rows)
    return {"standard_error": None, "interval": list(interval)}


def score(sets: FeatureSets) -> dict:
    """Inception Score, with its standard deviation over the protocol's splits."""
    if "logits" not in sets.samples.rows:
        raise NotMeasured("this copy of the network has no logits")
    logits = sets.samples.rows["logits"]
    score = {
        "ten, shuffled": lambda: inception_score.inception_score(logits, 10, sets.seed),
        "every 5,000": lambda: inception_score.inception_score_of_parts(logits, 5000),
        "one": lambda: inception_score.inception_score(logits, 1, None),
    }[sets.score_splits]()
    figure = {"value": score.value, "standard_deviation": score.standard_deviation, "samples": score.samples}
    return {"is": {**figure, "splits": score.splits, "better": HIGHER}}


def authenticity(sets: FeatureSets) -> dict:
    """The share of samples that are not near copies of a reference image; the reference should be the training set."""
    return {"authenticity": describe_share(memorisation.authenticity(*_rows(sets, sets.space.main)))}


def describe_share(share: memorisation.Share) -> dict:
    """A share of samples that are not near copies, as a figure."""
    interval = list(share.interval)
    return {"value": share.value, "interval": interval, "samples": share.samples, "reference": share.train}


METRICS: dict[str, Callable[[FeatureSets], dict]] = {
    "fid": fid,
    "sfid": sfid,
    "fid_infinity": fid_infinity,
    "kid": kid,
    "cmmd": cmmd,
    "mind": monge,
    "pr": pr,
    "dc": dc,
    "is": score,
    "authenticity": authenticity,
}
TAPS = {"sfid": ("spatial",), "is": ("logits",)}  # the features that a metric reads besides the main ones
NEEDS_ROWS = ("kid", "cmmd", "mind", "pr", "dc", "authenticity")  # metrics that need the rows of the reference
