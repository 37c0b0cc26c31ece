"""Metrics of samples that are symbols: divergences of runs of one to three symbols from those of real sequences."""

from collections.abc import Callable, Mapping

import numpy as np

from diffusion.experiments.evaluation import vector_metrics
from diffusion.experiments.evaluation.real_images import Split
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.metrics import ngrams

HOW = {
    name: f"Jensen-Shannon divergence in bits of the runs of {n} symbols, at all positions together (Lin 1991); 1 "
    "where none is shared"
    for n, name in enumerate(ngrams.NAMES, 1)
}


def measure(
    samples: np.ndarray,
    config: Mapping,
    train: Split,
    real: Split,
    draws: int,
    subsets: int,
    labels: np.ndarray | None = None,
) -> dict:
    """Divergences of samples from real sequences; arguments and result as in `vector_metrics.measure`.

    Raises:
        ConfigError: for features that only pictures have.
        WorkdirError: if the samples do not fit the data, or have symbols that were not predicted.
    """
    vector_metrics.check_features(config, real.spec.name, "symbols", "the symbols")
    shape = real.images.shape[1:]
    if samples.shape[1:] != shape or samples.dtype.kind != "i" or len(samples) < 2:
        raise WorkdirError(
            f"the samples are {samples.dtype} {list(samples.shape)}, but {real.spec.name} has symbols, int32 [N, "
            f"{', '.join(map(str, shape))}]; a divergence needs at least 2"
        )
    if lost := int((samples < 0).reshape(len(samples), -1).any(1).sum()):
        raise WorkdirError(
            f"{lost} of the {len(samples)} samples have the symbol -1, at which the network returned NaN. Valid: "
            "samples without it; make them again with other weights or settings."
        )
    rng = np.random.default_rng(vector_metrics.SEED)
    flat = lambda x: x.reshape(len(x), -1).astype(np.int64)
    compared_samples, strata = vector_metrics.selected(samples, train, labels)
    chosen, reference = flat(compared_samples), flat(real.images)
    size = int(max(part.max() for part in (samples, train.images, real.images))) + 1
    noise = rng.integers(0, size, chosen.shape)
    floors = list(map(flat, vector_metrics.real_subsets(train, len(chosen), subsets, strata is not None, rng)))
    names = ngrams.NAMES[: chosen.shape[1]]
    distances = {name: _divergence(reference, n, size) for n, name in enumerate(names, 1)}
    return vector_metrics.compared(distances, chosen, floors, noise, len(reference), draws, rng, HOW, strata)


def _divergence(real: np.ndarray, n: int, size: int) -> vector_metrics.Distance:
    real_runs = ngrams.codes(real, n, size)

    def distance(rows: np.ndarray) -> Callable[[np.ndarray], float]:
        runs = ngrams.codes(rows, n, size)
        both, places = np.unique(np.concatenate([real_runs.ravel(), runs.ravel()]), return_inverse=True)
        counts = lambda places: np.bincount(places.ravel(), minlength=len(both))
        real_counts = counts(places[: real_runs.size])
        row_places = places[real_runs.size :].reshape(runs.shape)
        return lambda chosen: ngrams.divergence(counts(row_places[chosen]), real_counts)

    return distance
