"""Features of sets of images: their moments, batch by batch, in files from which a killed process goes on.

A file's name is a hash of the images, their preparation and the network's weights, so that only the same three find it.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from diffusion.io import failures, files, limits, npz
from diffusion.metrics import features, frechet, image_sets, inception, protocols, statistics
from diffusion.metrics.image_sets import ImageSet, ImageSetError
from diffusion.metrics.statistics import Statistics, StatisticsError

CHUNK = 512  # images, or frames, between two merges of moments: constant, so that an interruption changes no bit
SAVE_SECONDS = 15  # between two writes of the moments so far
VERSIONS = ("jax", "numpy", "pillow")


class Space(NamedTuple):
    """A space of features to compare images in.

    Attributes:
        extract: a function from images uint8 [B, H, W, C] to {tap: features [B, D]} of these taps.
        taps: the names of these taps.
        main: the tap of the Frechet distance, KID, precision and recall.
        rounding: the map from floating images to bytes, a name of `protocols.ROUNDINGS`.
        identity: the fields that must be the same on both sides: JSON-able.
        dimensions: the number of the main tap's features, where this number identifies a file without a description;
            0 where it does not.
        neighbours: k of precision and recall.
        overlap_rows: the most rows of each set in precision, recall, density and coverage; 0: all.
        edm2: the name of the Frechet distance in it in EDM2's tools; "" if they do not know it.
        frechet: the name of the Frechet distance in it in the literature.
        usual: number of samples of published figures; 0 where none is usual.
        equal_rows: whether precision, recall, density and coverage are of equally many rows of both sets; else of all.
    """

    extract: Callable[[np.ndarray], dict[str, np.ndarray]]
    taps: tuple[str, ...]
    main: str
    rounding: str
    identity: dict
    dimensions: int = 0
    neighbours: int = 3
    overlap_rows: int = 0
    edm2: str = ""
    frechet: str = "fd"
    usual: int = 0
    equal_rows: bool = True

    @property
    def name(self) -> str:
        """Its name in a table: "Inception-v3", "pixels", or the name in the extractor's record."""
        return statistics.INCEPTION if self.main in inception.TAPS else str(self.identity.get("features", self.main))


class Gathered(NamedTuple):
    """The features of a set.

    Attributes:
        statistics: the moments of the features, tap by tap.
        rows: tap -> float32 [N, D] for the taps in `keep`, possibly on disk.
        seconds: the time of computation; 0 if all features were on disk.
        from_disk: number of images whose features were on disk already.
    """

    statistics: Statistics
    rows: dict[str, np.ndarray]
    seconds: float
    from_disk: int


class Reference(NamedTuple):
    """The reference with which samples are compared.

    Attributes:
        spec: the name that was passed.
        statistics: the statistics in its file, or None.
        images: its images, or None; ADM's files have both.
    """

    spec: str
    statistics: Statistics | None
    images: ImageSet | None


def inception_space(net: inception.Inception, protocol: protocols.Protocol, taps: Sequence[str] = ("2048",)) -> Space:
    """Inception features under a protocol.

    Args:
        net: the network.
        protocol: resize, scaling, rounding.
        taps: the taps to read, names of `inception.TAPS`; "2048" among them.
    """
    prepare = functools.partial(protocols.preprocess, protocol)
    extract = lambda images: inception.extract(net.params, images, taps, prepare)
    identity = {"weights": net.digest, "resize": protocol.resize, "scaling": protocol.scaling, "size": inception.SIZE}
    facts = {"edm2": "fid", "frechet": "fid", "usual": 50_000, "equal_rows": protocol.equal_rows}
    return Space(extract, tuple(taps), "2048", protocol.rounding, identity, **facts)


def function_space(extractor: features.Extractor, rounding: str = protocols.PROTOCOLS["edm"].rounding) -> Space:
    """A space defined by a function: pixels, or any network of your own, such as DINOv2 or CLIP.

    Args:
        extractor: the function and its record for a report, above all the sha256 of its weights.
        rounding: the map from floating images to bytes.

    Returns:
        The space, with one tap "features".
    """
    extract = lambda images: {"features": np.asarray(extractor.extract(images))}
    return Space(extract, ("features",), "features", rounding, dict(extractor.record))


def open_reference(
    spec: str, data_dir: str = "", side: int = 0, opened: Callable[[str], ImageSet] | None = None
) -> Reference:
    """Opens the reference with which samples are compared.

    Args:
        spec: a statistics file (.safetensors of ours; .npz with mu and sigma, as ADM, EDM and pytorch-fid publish, or
            with dgm-eval's reps; EDM2's .pkl), or images as `image_sets.open_set` takes them.
        data_dir: folder of prepared datasets.
        side: the side of `image_sets.open_set`.
        opened: a function that opens a name in place of `image_sets.open_set`, such as one for clips.

    Raises:
        StatisticsError, ImageSetError: if it does not exist, is damaged, or holds neither.
    """
    opened = opened or functools.partial(image_sets.open_set, data_dir=data_dir, side=side)
    path = pathlib.Path(spec)
    if path.suffix == ".npz" and path.is_file():
        try:
            there = npz.names(path)
        except (OSError, limits.Refused) as error:
            raise StatisticsError(str(error)) from error
        has_images = any(name in there for name in image_sets.ARRAYS)
        has_statistics = bool({"mu", "reps"} & there) or not has_images
        return Reference(spec, statistics.read(path) if has_statistics else None, opened(spec) if has_images else None)
    if path.suffix in (".safetensors", ".pkl", ".pickle", ".pt", ".pth") and not path.is_dir():
        return Reference(spec, statistics.read(path), None)
    return Reference(spec, None, opened(spec))


def in_space(reference: Reference, space: Space) -> Reference:
    """The reference, its statistics under the names of the space; refuses statistics of other features.

    Args:
        reference: the reference, with or without statistics.
        space: the space of the samples' features.

    Returns:
        The reference; if its file has no description, the features with as many dimensions are now the main tap's.

    Raises:
        StatisticsError: names the two spaces, or the fields that differ.
    """
    stated = reference.statistics
    if stated is None:
        return reference
    statistics.require_same(reference.spec, stated, space.identity)
    tap = str(space.dimensions)
    if not space.dimensions or space.main in stated.moments:
        return reference
    if tap not in stated.moments:
        has = " and ".join(f"{len(moments.mean):,}" for moments in stated.moments.values())
        raise StatisticsError(
            f"{reference.spec} has statistics of {has} features in a space that it does not name, but the samples "
            f"have the {space.dimensions:,} features of {space.name}. Make the reference again under this protocol."
        )
    return reference._replace(statistics=stated._replace(moments={space.main: stated.moments[tap]}))


def cache_folder() -> pathlib.Path:
    """The folder of features: "features" in DIFFUSION_CACHE, or else in ~/.cache/diffusion."""
    return files.cache("features")


def gather(
    images: ImageSet,
    space: Space,
    keep: Sequence[str] = (),
    folder: pathlib.Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Gathered:
    """Moments of the features of all images, and the rows of some taps.

    Without `keep` only the moments and one chunk of features are ever in memory.

    Args:
        images: the set, N >= 2.
        space: the features.
        keep: taps whose rows are kept.
        folder: the folder for finding and keeping features, so that an interrupted gathering can go on; None keeps
            nothing.
        advance: called with the number of images done.

    Returns:
        The features; bit for bit the same, however often the gathering was interrupted.

    Raises:
        ImageSetError: if an image cannot be measured.
        OSError: if the folder cannot be written.
    """
    if images.count < 2:
        raise ImageSetError(f"{images.record['images']} holds {images.count} images; a distance needs at least 2.")
    began = time.perf_counter()
    if folder is None:
        return _go_on(images, space, keep, None, None, advance, began)
    rounding = "" if images.record["dtype"] == "uint8" else space.rounding
    facts = [images.fingerprint, images.count, space.identity, rounding, _chunk(images), *filter(None, [images.stamp])]
    named = json.dumps(facts, sort_keys=True)
    key = hashlib.sha256(named.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{key}.lock"):
        path = folder / f"{key}.safetensors"
        before = _before(path, images, space, keep)
        return _go_on(images, space, keep, path, before, advance, began)


def _chunk(images: ImageSet) -> int:
    """Images of a chunk: 512, or as many clips as have about 512 frames."""
    return max(1, CHUNK // math.prod(images.shape[:-3]))


def _go_on(images, space, keep, path, before, advance, began) -> Gathered:
    """Gathers the images that `before` lacks; writes the result to `path` from time to time, and at the end."""
    done = before.count if before else 0
    moments = dict(before.moments) if before else {}
    rows_sha = dict(before.description["rows"]) if before else dict.fromkeys(keep, "")
    images_sha = before.description["images"]["sha256"] if before else ""
    in_memory = {tap: [] for tap in keep}
    on_disk = done
    saved = time.perf_counter()

    def state():
        description = {
            "space": space.identity,
            "rows": rows_sha,
            "versions": versions(),
            "images": {
                **images.record,
                "shape": list(images.shape),
                "fingerprint": images.fingerprint,
                "sha256": images_sha,
            },
        }
        return Statistics(moments, done, description)

    with contextlib.ExitStack() as stack:
        files = {}
        if path is not None and done < images.count:
            for tap in keep:
                files[tap] = stack.enter_context(open(_rows_path(path, tap), "r+b" if done else "wb"))
                files[tap].seek(0, os.SEEK_END)
        advance(done)
        while done < images.count:
            stop = min(done + _chunk(images), images.count)
            chunk = _bytes(images, space, done, stop)
            for image in chunk:
                images_sha = hashlib.sha256(images_sha.encode() + image.tobytes()).hexdigest()
            for tap, part in space.extract(chunk).items():
                if part.shape[0] != len(chunk) or part.ndim != 2:
                    raise ValueError(
                        f"features of {len(chunk)} images must have shape [{len(chunk)}, D], got {list(part.shape)}"
                    )
                moments[tap] = frechet.update(moments.get(tap) or frechet.init(part.shape[1]), part)
                if tap in keep:
                    part = np.ascontiguousarray(part, np.float32)
                    rows_sha[tap] = hashlib.sha256(rows_sha[tap].encode() + part.tobytes()).hexdigest()
                    files[tap].write(part.data) if path is not None else in_memory[tap].append(part)
            done = stop
            advance(done)
            if path is not None and (done == images.count or time.perf_counter() - saved > SAVE_SECONDS):
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
                statistics.write(path, state())
                saved = time.perf_counter()
    if path is None:
        rows = {tap: np.concatenate(parts) for tap, parts in in_memory.items()}
    else:
        rows = {tap: _mapped(path, tap, images.count, len(moments[tap].mean)) for tap in keep}
    seconds = time.perf_counter() - began if on_disk < images.count else 0.0
    return Gathered(state(), rows, seconds, on_disk)


def _before(path: pathlib.Path, images: ImageSet, space: Space, keep: Sequence[str]) -> Statistics | None:
    """The result of an earlier gathering, if it is intact and has all taps that are needed now."""
    try:
        earlier = statistics.read(path)
        rows_sha = earlier.description["rows"]
        count = earlier.count or 0
        if (
            earlier.description["space"] != space.identity
            or not set(keep) <= rows_sha.keys()
            or not 0 < count <= images.count
        ):
            return None
        for tap in keep:
            size = count * len(earlier.moments[tap].mean) * 4
            os.truncate(_rows_path(path, tap), max(size, 0))  # drops rows that were written after the moments
            if _rows_digest(path, tap, earlier, _chunk(images)) != rows_sha[tap]:
                return None
    except (StatisticsError, OSError, KeyError, TypeError) as error:
        if failures.is_machine_failure(error):
            raise failures.Unreadable(f"{path} could not be read: {error}") from error
        return None
    if earlier.count == images.count:
        return earlier if set(space.taps) <= earlier.moments.keys() else None
    goes_on = earlier.moments.keys() == set(space.taps) and rows_sha.keys() == set(keep)
    return earlier if goes_on else None


def _rows_digest(path: pathlib.Path, tap: str, gathered: Statistics, chunk: int) -> str:
    """The digest of kept rows, chunk by chunk as they were written."""
    rows = _mapped(path, tap, gathered.count or 0, len(gathered.moments[tap].mean))
    total = ""
    for start in range(0, len(rows), chunk):
        total = hashlib.sha256(total.encode() + rows[start : start + chunk].tobytes()).hexdigest()
    return total


def _rows_path(path: pathlib.Path, tap: str) -> pathlib.Path:
    return path.with_suffix(f".{tap}.float32")


def _mapped(path: pathlib.Path, tap: str, count: int, dim: int) -> np.ndarray:
    return np.memmap(_rows_path(path, tap), np.float32, "r", shape=(count, dim))


def _bytes(images: ImageSet, space: Space, start: int, stop: int) -> np.ndarray:
    """A chunk of the images as bytes, after checks of their range."""
    name = images.record["images"]
    try:
        chunk = images.read(start, stop)
        if chunk.dtype.kind == "f" and np.isfinite(chunk).all():
            _check_range(name, chunk, start)
        chunk = protocols.to_bytes(space.rounding, chunk)
    except (limits.Refused, TypeError) as error:
        raise ImageSetError(f"{name}: {error}") from error
    except ValueError as error:
        if isinstance(error, ImageSetError):
            raise
        raise ImageSetError(f"{name}, from image {start}: {error}") from error
    if start == 0 and images.record["dtype"] == "uint8" and chunk.max() <= 1:
        raise ImageSetError(
            f"{name}: all bytes are 0 or 1, as if floats in [0, 1] had been cast without scaling. Save round(255 y), "
            "or floats in [-1, 1]."
        )
    return chunk


def _check_range(name: str, chunk: np.ndarray, start: int) -> None:
    low = float(chunk.min())
    high = float(chunk.max())
    if max(abs(low), abs(high)) > 4:
        raise ImageSetError(f"{name}: floats from {low:g} to {high:g}. Valid: about [-1, 1], or uint8 in 0..255.")
    if start == 0 and low >= 0:
        raise ImageSetError(
            f"{name}: floats from {low:g} to {high:g} may be meant in [0, 1] or in [-1, 1]. Save uint8 in 0..255, or "
            "floats in [-1, 1]."
        )


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Holds a file's lock: the first of two processes writes the features, and the other finds them."""
    with open(path, "w") as file:
        with contextlib.suppress(OSError):  # a file system may lack locks; then no process waits
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def versions() -> dict[str, str]:
    """Versions of the software that determines the figures."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in VERSIONS}}
