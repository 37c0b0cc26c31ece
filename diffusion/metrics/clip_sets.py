"""Sets of clips to measure: an `image_sets.ImageSet` whose images are clips [F, H, W, C] of one length.

One clip is measured from each film. It begins at a frame that is drawn by (seed, number of the film) among the frames
from which it fits, so that a film of just its length is taken whole.
"""

__all__ = ["from_array", "from_records", "open_set"]

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.arrays.arguments import is_count
from diffusion.data.sources import clip_files
from diffusion.io import clips, limits, npz, pictures
from diffusion.metrics.image_sets import ImageSet, ImageSetError, files_digest, npz_array
from diffusion.package import public


def open_set(spec: str, frames: int, every: int = 1, side: int = 0, seed: int = 0) -> ImageSet:
    """Opens clips.

    Args:
        spec: a .npz with clips [N, F, H, W, C] named arr_0, images or samples; or a folder of films (GIF, MP4,
            WebM ...) and of folders of numbered pictures, or one of them.
        frames: the number of frames of a clip, >= 1.
        every: the step between the frames of a film that are taken: every `every`-th, >= 1.
        side: the side of the squares that frames of any size become, the middle of each; 0 for films of one size.
        seed: the seed of the frame at which a clip begins.

    Raises:
        ImageSetError: if it does not exist, is damaged, or holds clips that are too short or of several sizes; if
            frames or every is below 1.
    """
    path = pathlib.Path(spec)
    how = {"frames": frames, "every": every, "seed": seed, "side": side}
    try:
        if path.suffix == ".npz" and path.is_file():
            return _npz(spec, path, how)
        if path.is_dir() or (path.suffix.lower() in clip_files.FILMS and path.is_file()):
            return _films(spec, path, how)
    except ImageSetError:
        raise
    except (limits.Refused, OSError, ValueError) as error:
        raise ImageSetError(f"{spec}: {error}") from error
    raise ImageSetError(
        f"{spec} is not a set of clips. Valid: a .npz file, a folder of films ({', '.join(clip_files.FILMS)}), a "
        'folder of folders of numbered pictures, or a source as {"name": ...}@SPLIT.'
    )


def from_array(array: np.ndarray, frames: int, every: int = 1, seed: int = 0, name: str = "an array") -> ImageSet:
    """The set of the clips in memory, [N, F, H, W, C], uint8 or floating; the other arguments as in `open_set`."""
    array = np.ascontiguousarray(array)
    how = {"frames": frames, "every": every, "seed": seed, "side": 0}
    fingerprint = hashlib.sha256(array.data).hexdigest()
    return _of_array(name, "array", lambda start, stop: array[start:stop], array.shape, array.dtype, fingerprint, how)


def from_records(
    spec: str,
    shape: Sequence[int],
    read: Callable[[int, int], np.ndarray],
    fingerprint: str,
    frames: int,
    every: int = 1,
    seed: int = 0,
) -> ImageSet:
    """The set of clips of a data source, uint8.

    Args:
        spec: the source's name, for reports.
        shape: the shape of the source, [N, F, H, W, C].
        read: (start, stop) -> [stop - start, F, H, W, C].
        fingerprint: a text that changes with the clips; if it covers only some clips, also give the set a `stamp`.
        frames, every, seed: the arguments of `open_set`.

    Raises:
        ImageSetError: as `open_set`.
    """
    how = {"frames": frames, "every": every, "seed": seed, "side": 0}
    return _of_array(spec, "source", read, tuple(shape), np.dtype(np.uint8), fingerprint, how)


def _of_array(spec: str, kind: str, read: Callable, shape: tuple, dtype: np.dtype, fingerprint: str, how: Mapping):
    if len(shape) != 5 or shape[4] not in (1, 3) or 0 in shape:
        raise ImageSetError(
            f"{spec}: clips have shape {list(shape)}. Valid: [N, F, H, W, 3], or [N, F, H, W, 1] for grey."
        )
    if dtype != np.uint8 and dtype.kind != "f":
        raise ImageSetError(f"{spec}: clips are {dtype}. Valid: uint8 in 0..255, or floats in [-1, 1].")
    span = _span(spec, shape[1], how)
    if how["side"] not in (0, *({shape[2]} & {shape[3]})):
        raise ImageSetError(
            f"{spec}: clips have {shape[2]} x {shape[3]} pixels, which are not squares of --size={how['side']}; leave "
            "--size out."
        )

    def cut(start: int, stop: int) -> np.ndarray:
        rows = read(start, stop)
        begins = [_begin(how, number, shape[1] - span) for number in range(start, stop)]
        return np.stack([row[begin : begin + span : how["every"]] for row, begin in zip(rows, begins)])

    return ImageSet(
        shape[0], (how["frames"], *shape[2:]), cut, _with(fingerprint, how), _record(spec, kind, dtype, how)
    )


def _span(name: str, length: int, how: Mapping) -> int:
    """The frames from the first of a clip to its last."""
    if not (is_count(how["frames"]) and is_count(how["every"])):
        raise ImageSetError(
            f"{name}: frames = {how['frames']} and every = {how['every']} must be integers of at least 1."
        )
    span = (how["frames"] - 1) * how["every"] + 1
    if length < span:
        raise ImageSetError(
            f"{name} has {length} frames, but a clip of {how['frames']} frames, one of every {how['every']}, spans "
            f"{span}."
        )
    return span


def _begin(how: Mapping, number: int, most: int) -> int:
    return int(np.random.default_rng((how["seed"], number)).integers(most + 1))


def _with(fingerprint: str, how: Mapping) -> str:
    return hashlib.sha256(json.dumps([fingerprint, dict(how)], sort_keys=True).encode()).hexdigest()


def _record(spec: str, kind: str, dtype: Any, how: Mapping) -> dict:
    return {"images": spec, "kind": kind, "dtype": str(np.dtype(dtype)), **how}


def _npz(spec: str, path: pathlib.Path, how: Mapping) -> ImageSet:
    name, header = npz_array(spec, path, "clips")
    digest = files_digest([path], named=True)
    return _of_array(spec, "npz", npz.rows(path, name), header.shape, header.dtype, digest, how)


def _films(spec: str, path: pathlib.Path, how: Mapping) -> ImageSet:
    films = clip_files.films_of(path)
    if not films:
        raise ImageSetError(
            f"{spec} holds neither films ({', '.join(clip_files.FILMS)}) nor folders of numbered pictures."
        )
    first = _read(films[0], 0, how)

    def read(start: int, stop: int) -> np.ndarray:
        clips = [_read(films[number], number, how) for number in range(start, stop)]
        for film, clip in zip(films[start:stop], clips):
            if clip.shape != first.shape:
                raise ImageSetError(
                    f"{film} has frames of {clip.shape[1]} x {clip.shape[2]} pixels, but the frames of the first film "
                    f"have {first.shape[1]} x {first.shape[2]}. Valid: films of one size, or --size=SIDE."
                )
        return np.stack(clips)

    digest = files_digest([file for film in films for file in clip_files.files_of(film)], named=True)
    digest = _with(f"{digest} viewed", how)  # not that of versions that left turned films as they are stored
    return ImageSet(len(films), first.shape, read, digest, _record(spec, "films", np.uint8, how))


def _read(film: pathlib.Path, number: int, how: Mapping) -> np.ndarray:
    """One clip of a film, uint8 [F, H, W, 3]."""
    try:
        files = clip_files.files_of(film)
        length = len(files) if film.is_dir() else len(clips.properties(film).times)
        begin = _begin(how, number, length - _span(str(film), length, how))
        rows = begin + how["every"] * np.arange(how["frames"])
        if film.is_dir():
            frames = [clip_files.frame_of(files[row]) for row in rows]
        else:
            frames = list(clips.read(film, rows))
        side = how["side"]
        if side and min(frames[0].shape[:2]) < side:
            raise ImageSetError(
                f"{film} has {frames[0].shape[0]} x {frames[0].shape[1]} pixels, fewer than --size={side}."
            )
        if len({frame.shape for frame in frames}) > 1 and not side:
            raise ImageSetError(f"{film} has frames of several sizes. Valid: one size, or --size=SIDE.")
        return np.stack([clip_files.square(frame, side) for frame in frames] if side else frames)
    except (ImageSetError, OSError):
        raise
    except (ValueError, *pictures.DAMAGED) as error:
        raise ImageSetError(str(error)) from error


public.declare(__name__, renamed={"of_records": "from_records"})
