"""The competitors of an arena: named sets of pictures, with the request for each picture."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.experiments.sampling import sample_files
from diffusion.io import limits, opener, pictures
from diffusion.metrics import image_sets
from diffusion.recipe import ConfigError


class Competitor(NamedTuple):
    """A set of pictures that votes compare with others.

    Attributes:
        name: the run folder, or the name of another set of images, as the user typed it.
        images: the pictures.
        requests: the class ("class 3") or prompt that each picture was made for; None if they are not known.
        fingerprint: a sha256 of all pictures and requests, in hexadecimal.
    """

    name: str
    images: image_sets.ImageSet
    requests: list[str] | None
    fingerprint: str

    def picture(self, index: int) -> np.ndarray:
        """One picture, uint8 [H, W, C]."""
        return self.images.read(index, index + 1)[0]


def opened(name: str, data_dir: str = "") -> Competitor:
    """Opens a competitor.

    Args:
        name: a run folder with samples, or any set of images that `image_sets.open_set` opens. For a folder of PNG
            files by a text-to-image model, the prompts stored in the files become the requests.
        data_dir: the folder of prepared datasets; "" for TFDS's default.

    Raises:
        ConfigError: if the set cannot be opened, or its pictures are not uint8.
        WorkdirError: if the samples of a run are missing or damaged.
    """
    path = pathlib.Path(name)
    requests = None
    is_run = (path / "samples.npz").is_file() or (path / "config.json").is_file()
    if is_run:
        samples, labels = sample_files.read_samples(path)
        images = _set(lambda: image_sets.from_array(samples, name))
        requests = [f"class {label}" for label in labels]  # 0 of a run without classes, which `_has_no_classes` tells
    else:
        images = _set(lambda: image_sets.open_set(name, data_dir))
        if path.is_dir():
            requests = _prompts(path)
    if images.record["dtype"] != "uint8":
        raise ConfigError(f"--runs={name}: its images have the type {images.record['dtype']}. Valid: uint8.")
    content = "\n".join([images.fingerprint, *(requests or ())])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return Competitor(name, images, None if is_run and _has_no_classes(path) else requests, fingerprint)


def _has_no_classes(folder: pathlib.Path) -> bool:
    """Whether the config of the run in a folder, or in the folder above it, says that its network has no classes."""
    for place in (folder, folder.resolve().parent):
        if (place / "config.json").is_file():
            try:
                model = opener.read_table(place / "config.json").get("model")
            except (OSError, limits.Refused):
                return False
            return isinstance(model, dict) and model.get("num_classes") == 0
    return False


def _set(open_set: Callable[[], image_sets.ImageSet]) -> image_sets.ImageSet:
    try:
        return open_set()
    except image_sets.ImageSetError as error:
        raise ConfigError(f"--runs: {error}") from error


def _prompts(folder: pathlib.Path) -> list[str] | None:
    """The prompts stored in a folder's files, in the order of `image_sets.files_of`; None if a file has no prompt."""
    prompts = []
    for path in image_sets.files_of(folder):
        try:
            prompts.append(pictures.settings_of(path).get("prompt"))
        except ValueError:
            return None
    return prompts if all(isinstance(prompt, str) for prompt in prompts) else None


def matched(first: Competitor, second: Competitor) -> list[tuple[int, int, str]]:
    """The pairs of two competitors' pictures for the same request, as (index, index, request) in order.

    The first competitor's k-th picture for a request is paired with the second competitor's k-th picture for it. If one
    competitor's requests are not known, pictures with the same index are paired, and the request is "".
    """
    if first.requests is None or second.requests is None:
        return [(index, index, "") for index in range(min(first.images.count, second.images.count))]
    waiting: dict[str, list[int]] = {}
    for index, request in enumerate(second.requests):
        waiting.setdefault(request, []).append(index)
    queues = {request: iter(indices) for request, indices in waiting.items()}
    met = ((index, next(queues.get(request, iter(())), None), request) for index, request in enumerate(first.requests))
    return [(index, other, request) for index, other, request in met if other is not None]
