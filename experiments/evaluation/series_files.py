"""Writes the user's series with filled gaps, in the same format; each gap is filled with the mean of the samples."""

import pathlib
from typing import Any

import numpy as np

from diffusion.data.sources.series import StandardSeries
from diffusion.io import files
from diffusion.io.files import write_text

NAMES = ("filled.csv", "filled.npz")


def write(source: Any, samples: np.ndarray, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes filled.csv for a .csv file, and filled.npz for another file, if any of its missing values was sampled.

    It prints how many missing values have no sample, since these stay empty.

    Args:
        source: the source of the run's conditions.
        samples: the samples of its records in turn, `[N, L, C]`.
        folder: the folder of the run's samples.

    Returns:
        [the file]; [] for other sources, and if nothing is filled.
    """
    if not isinstance(source, StandardSeries):
        return []
    filled = source.filled(np.asarray(samples))
    if all(np.array_equal(filled[name], one, equal_nan=True) for name, one in source.series.items()):
        return []
    empty, missing = (sum(int(np.isnan(one).sum()) for one in some.values()) for some in (filled, source.series))
    if empty:
        why = "no window of the split hides them"
        if len(samples) < len(source):
            why = (
                f"they are not in the first {len(samples)} of {len(source)} windows, which were sampled. With "
                f"config.sample.number = {len(source)} every window is"
            )
        print(f"{empty} of the {missing} missing values stay empty: {why}")
    if not source.where.endswith(".csv"):
        with files.atomic(folder / NAMES[1]) as file:
            np.savez(file, allow_pickle=False, **filled)
        return [folder / NAMES[1]]
    (table,) = filled.values()
    lines = [",".join(source.columns)] if source.columns else []
    lines += [",".join("" if np.isnan(value) else f"{value:.9g}" for value in row) for row in table]
    write_text(folder / NAMES[0], "\n".join(lines) + "\n")
    return [folder / NAMES[0]]
