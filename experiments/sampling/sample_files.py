"""Reads the samples of a run as diffusion sample writes them, and checks them against a dataset."""

import pathlib

import numpy as np

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import limits, npz, opener
from diffusion.recipe.extensions import way_on


def read_samples(folder: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads samples.npz in a folder: (images `[N, ...]`, labels int64 `[N]`); nothing in it is executed.

    Samples that are pytrees have arrays "images/NAME". They are packed to float32 `[N, D]`, see `data.packing`.

    Raises:
        WorkdirError: if the file is missing, damaged, or lacks an array; it names the command that makes it.
    """
    path = pathlib.Path(folder) / "samples.npz"
    again = f"Make it by: {way_on('sample', folder)}"
    if not path.is_file():
        raise WorkdirError(f"{path} does not exist. {again}")
    try:
        limits.no_links(path.parent)
        names = npz.headers(path)
        leaves = tuple(name for name in names if name.startswith("images/"))
        if missing := ({"labels"} if leaves else {"images", "labels"}) - names.keys():
            raise WorkdirError(f"{path} lacks {', '.join(sorted(missing))}; it holds only {list(names)}. {again}")
        if leaves:
            *parts, labels = npz.load(path, (*leaves, "labels")).values()  # leaves in the order of the pytree
            images = np.concatenate([part.reshape(len(labels), -1) for part in parts], axis=1).astype(np.float32)
        else:
            images, labels = npz.load(path, ("images", "labels")).values()
    except (ValueError, OSError) as error:
        raise WorkdirError(f"{path} cannot be read ({error}). {again}") from error
    if labels.dtype.kind not in "iu":
        raise WorkdirError(f"{path}: labels are {labels.dtype}. Valid: integers. {again}")
    return images, labels.astype(np.int64)


def read_record(folder: str | pathlib.Path) -> dict | None:
    """The settings of the samples from samples.json; None if it is missing or cannot be read."""
    try:
        content = opener.read_json(pathlib.Path(folder) / "samples.json")
    except (FileNotFoundError, NotADirectoryError, limits.Refused):
        return None
    return content if isinstance(content, dict) else None


def check_samples(images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], classes: int) -> None:
    """Refuses samples that cannot be compared with a dataset of images.

    Args:
        images: the samples, which must be uint8 `[N, *shape]` with N >= 2.
        labels: their classes, int `[N]`; they must include all classes, or classes 0 .. N - 1 if N is smaller.
        shape: the shape of the dataset's images.
        classes: the number of classes; 0 for none.

    Raises:
        WorkdirError: for other samples; it says what they are and what is valid.
    """
    if images.dtype != np.uint8:
        raise WorkdirError(f"the samples have images of type {images.dtype}. Valid: uint8 (bytes 0..255)")
    if images.ndim != 4 or images.shape[1:] != tuple(shape):
        raise WorkdirError(
            f"the samples have images of shape {list(images.shape)}. Valid: [N, {', '.join(map(str, shape))}], as in "
            "the dataset"
        )
    if labels.shape != (len(images),):
        raise WorkdirError(
            f"the samples have {len(images)} images, but labels of shape {list(labels.shape)}. Valid: [{len(images)}]"
        )
    if len(images) < 2:
        raise WorkdirError(
            f"there are only {len(images)} samples, but a distance needs at least 2. Raise config.sample.number"
        )
    if classes:
        wrong = sorted(set(np.unique(labels).tolist()) - set(range(classes)))
        if wrong:
            raise WorkdirError(
                f"the samples have labels {wrong[:5]}, which are not classes of the dataset. Valid: 0 to {classes - 1}"
            )
        absent = sorted(set(range(min(classes, len(images)))) - set(np.unique(labels).tolist()))
        if absent:
            raise WorkdirError(
                f"the samples have none of the classes {absent[:10]}, so a distance to a dataset that has them would "
                "mean nothing. Sample all classes: leave out --labels"
            )
