"""Files of statistics of the features of a set of images: our own files, and the files that others publish.

Our own file is in the format safetensors. It holds TAP.mean and TAP.m2 in float64 for each tap of the network, and a
JSON text that describes how they were made. The files of others have no description; these arrays of them are read and
written:

| program                  | arrays              |                                                               |
|--------------------------|---------------------|---------------------------------------------------------------|
| ADM, EDM, pytorch-fid    | .npz: mu, sigma     | mean and covariance                                           |
| EDM2                     | .pkl: {metric:      | for "fid" and "fd_dinov2", and "num_images"; a pickle, of     |
|                          | {mu, sigma}}        | which nothing is executed (`io.array_pickles`)                |
| dgm-eval                 | .npz: reps          | a row for each image; beside them it pickles its settings,    |
|                          |                     | which are left unread                                         |

The .npz of `write_npz` holds mu, sigma and reps, and our description as a text, which these programs do not read.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from diffusion.io import array_pickles, files, limits, npz, opener, safetensors_files, schema
from diffusion.metrics import frechet
from diffusion.metrics.inception_weights import digest

FORMAT = 1  # raised by a change that older readers would misread
_PICKLES = (".pkl", ".pickle")
_TORCH = (".pt", ".pth")
INCEPTION = "Inception-v3"  # the features of a description that names no network
_ROWS = 512  # rows of features between two merges of moments
_FOREIGN = {"mu": "sigma", "mu_s": "sigma_s"}  # mean -> covariance in .npz files
_TABLE = schema.Valid("a table", lambda value: isinstance(value, dict))
_ABOUT = {  # the description in our own files
    "format": schema.integer(1),
    "sha256": schema.text(64),
    "count": schema.integer(1, 2**53),
    "taps": schema.several(schema.text(), most=64),
    "space": schema.optional(_TABLE),
    "images": schema.optional(_TABLE),
    "rows": schema.table(schema.text()),
    "versions": schema.table(schema.text()),
}


class StatisticsError(ValueError):
    """Statistics cannot be used; the message names the file or reference, the reason, and what to do next."""


class Statistics(NamedTuple):
    """Moments of features, with a description of their making.

    Attributes:
        moments: tap -> Moments. Where a file does not record the number of rows, count is 2 and m2 the covariance.
        count: number of images, or None if the file does not record it.
        description: how the statistics were made: "space" (the description of the features' space; None if the file
            does not record it), "images" (the description of the images), "rows" (tap -> sha256 of the rows that are
            kept), "versions"; for the file of another program also "file" and "sha256".
    """

    moments: dict[str, frechet.Moments]
    count: int | None
    description: dict


def write(path: pathlib.Path, statistics: Statistics) -> None:
    """Writes a statistics file, whole or not at all.

    Args:
        path: the file, .safetensors.
        statistics: the statistics, with a known count.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors = {}
    for tap, moments in statistics.moments.items():
        tensors[f"{tap}.mean"] = np.asarray(moments.mean, np.float64)
        tensors[f"{tap}.m2"] = np.asarray(moments.m2, np.float64)
    description = {
        "format": FORMAT,
        "count": statistics.count,
        "taps": list(statistics.moments),
        **statistics.description,
    }
    description["sha256"] = _digest(description, tensors)
    content = safetensors.numpy.save(tensors, metadata={"statistics": json.dumps(description, sort_keys=True)})
    with files.atomic(path) as file:
        file.write(content)


def write_npz(path: pathlib.Path, statistics: Statistics, tap: str, rows: np.ndarray) -> None:
    """Writes the features of one tap for other programs (see the table above), whole or not at all.

    Args:
        path: the file, .npz.
        statistics: the statistics of the features.
        tap: the tap to write.
        rows: the features of the N images, float32 [N, D].

    Raises:
        OSError: if the file cannot be written.
    """
    moments = statistics.moments[tap]
    with files.atomic(path) as file:
        np.savez(
            file,
            mu=moments.mean,
            sigma=frechet.covariance(moments),
            reps=np.asarray(rows),
            space=np.array(json.dumps(statistics.description["space"], sort_keys=True)),
        )


def write_pickle(path: pathlib.Path, statistics: Statistics, tap: str, metric: str) -> None:
    """Writes the moments of one tap as EDM2's calculate_metrics.py reads them, whole or not at all.

    Args:
        path: the file, .pkl.
        statistics: the statistics of the features, with a known count.
        tap: the tap to write.
        metric: EDM2's name for a distance between features of this tap, "fid" or "fd_dinov2".

    Raises:
        OSError: if the file cannot be written.
    """
    moments = statistics.moments[tap]
    named = {"mu": np.asarray(moments.mean, np.float64), "sigma": frechet.covariance(moments)}
    array_pickles.write(path, {"num_images": int(statistics.count or 0), metric: named})


def _digest(description: dict, tensors: dict[str, np.ndarray]) -> str:
    text = json.dumps({key: value for key, value in description.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256((text + digest(tensors)).encode()).hexdigest()


def read(path: pathlib.Path | str) -> Statistics:
    """Reads a statistics file of this or another program; nothing in it is executed.

    Args:
        path: the file: a .safetensors from `write`, an .npz with mu and sigma (and perhaps mu_s and sigma_s) or with
            reps, or a .pkl of EDM2.

    Returns:
        The statistics. The taps of another program's file are named by their numbers of features, for example "2048";
        the tap of mu_s is named "spatial".

    Raises:
        StatisticsError: if the file does not exist, is damaged, or holds something else.
    """
    path = pathlib.Path(path)
    if path.suffix in _TORCH:
        raise StatisticsError(
            f"{path} is a PyTorch file that holds no statistics in a known form. Save its arrays by "
            'np.savez("reference.npz", mu=..., sigma=...).'
        )
    try:
        if path.suffix in _PICKLES:
            statistics = _read_pickle(path)
        else:
            statistics = _read_npz(path) if path.suffix == ".npz" else _read_own(path)
    except (OSError, limits.Refused) as error:
        raise StatisticsError(f"{path} cannot be read as statistics: {error}") from error
    for tap, moments in statistics.moments.items():
        _check(f"{path}, tap {tap}", moments)
    return statistics


def _read_own(path: pathlib.Path) -> Statistics:
    header = safetensors_files.header(path)
    text = header.metadata.get("statistics")
    if other := [one for one in header.tensors.values() if one.kind != "F64"]:
        raise StatisticsError(f"{path}: {other[0].name} is {other[0].kind}, not F64.")
    tensors = safetensors_files.load(path)
    try:
        description = limits.parse_json(text or "", str(path))
        schema.check(_ABOUT, description, str(path))
        version = description.pop("format")
        stated = description.pop("sha256")
        count = description.pop("count")
        taps = description.pop("taps")
        if version > FORMAT:
            raise StatisticsError(f"{path} has format {version}; this version reads up to {FORMAT}: update.")
        if stated != _digest({"format": version, "count": count, "taps": taps, **description}, tensors):
            raise StatisticsError(f"{path} is damaged: its checksum does not match its content. Make it again.")
        moments = {tap: frechet.Moments(count, tensors[f"{tap}.mean"], tensors[f"{tap}.m2"]) for tap in taps}
    except StatisticsError:
        raise
    except limits.Refused as refused:
        raise StatisticsError(
            f"{refused} It holds no statistics of features; make them by diffusion evaluate --reference=NAME@SPLIT "
            "--out=FILE.safetensors."
        ) from refused
    except (KeyError, TypeError, AttributeError) as error:
        raise StatisticsError(
            f"{path} holds no statistics of features; make them by diffusion evaluate --reference=NAME@SPLIT "
            "--out=FILE.safetensors."
        ) from error
    return Statistics(moments, count, description)


def _read_npz(path: pathlib.Path) -> Statistics:
    there = npz.names(path)
    pairs = {mean: sigma for mean, sigma in _FOREIGN.items() if {mean, sigma} <= there}
    if not ("mu" in pairs or "reps" in there):
        raise StatisticsError(
            f"{path} holds {', '.join(sorted(there)) or 'nothing'}. Valid: statistics named mu and sigma, or reps."
        )
    wanted = [name for pair in pairs.items() for name in pair] if "mu" in pairs else ["reps"]
    arrays_in_file = npz.headers(path, wanted)
    for name in wanted:
        if arrays_in_file[name].dtype.kind != "f":
            raise StatisticsError(f"{path}: {name} is {arrays_in_file[name].dtype}. Valid: floating-point numbers.")
    with opener.open_file(path) as file:
        total = hashlib.file_digest(file, "sha256").hexdigest()
    description = {"space": _space_of(path, there), "images": None, "file": str(path), "sha256": total}
    if "mu" not in pairs:
        return _of_rows(path, arrays_in_file["reps"].shape, description)
    for mean, sigma in pairs.items():
        _check_shapes(str(path), arrays_in_file[mean].shape, arrays_in_file[sigma].shape)
    arrays = npz.load(path, wanted)
    moments = {}
    for mean, sigma in pairs.items():
        mean_and_covariance = arrays[mean].astype(np.float64), arrays[sigma].astype(np.float64)
        moments["spatial" if mean == "mu_s" else str(arrays[mean].size)] = frechet.Moments(2, *mean_and_covariance)
    return Statistics(moments, None, description)


def _read_pickle(path: pathlib.Path) -> Statistics:
    """The statistics of a file of EDM2: {"num_images": N, "fid": {"mu", "sigma"}, "fd_dinov2": {"mu", "sigma"}}."""
    try:
        table = array_pickles.read(path)
    except limits.Refused as refused:
        raise StatisticsError(
            f"{path} is a pickle. Nothing in it is executed, so only tables of arrays are read from it: {refused} If "
            'you trust it, save what it holds by np.savez("reference.npz", mu=..., sigma=...).'
        ) from refused
    count = table.get("num_images")
    if count is not None and (type(count) is not int or not 2 <= count < 2**53):
        raise StatisticsError(f"{path}: num_images = {limits.short(count)}. Valid: an integer, at least 2.")
    moments = {}
    for metric, entry in table.items():
        if metric == "num_images":
            continue
        arrays = [entry.get(name) if isinstance(entry, dict) else None for name in ("mu", "sigma")]
        if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays):
            raise StatisticsError(
                f"{path}: {limits.short(metric)} is not a table of floating-point arrays mu and sigma."
            )
        mean, covariance = (np.asarray(array, np.float64) for array in arrays)
        _check_shapes(f"{path}, {metric[:100]}", mean.shape, covariance.shape)
        if str(mean.size) in moments:
            raise StatisticsError(
                f"{path}: {limits.short(metric)} and an earlier metric both have {mean.size:,} dimensions, and "
                "statistics are told apart by that number. Valid: one for each number."
            )
        moments[str(mean.size)] = frechet.Moments(count or 2, mean, covariance * ((count or 2) - 1))
    if not moments:
        raise StatisticsError(f"{path} holds no statistics; EDM2 names them fid and fd_dinov2.")
    with opener.open_file(path) as file:
        total = hashlib.file_digest(file, "sha256").hexdigest()
    return Statistics(moments, count, {"space": None, "images": None, "file": str(path), "sha256": total})


def _space_of(path: pathlib.Path, there: set[str]) -> dict | None:
    """The description that `write_npz` put into a file; None for a file of another program."""
    if "space" not in there:
        return None
    text = npz.load(path, ["space"])["space"]
    if text.dtype.kind != "U" or text.shape:
        raise StatisticsError(f"{path}: its space is not a text.")
    space = limits.parse_json(str(text), str(path))
    schema.check({"space": _TABLE}, {"space": space}, str(path))
    return space


def _of_rows(path: pathlib.Path, shape: tuple[int, ...], description: dict) -> Statistics:
    """The statistics of a file that holds the features themselves, one row for each image."""
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise StatisticsError(f"{path}: reps has the shape {list(shape)}, not [N, D] with N >= 2.")
    read_rows = npz.rows(path, "reps")
    moments = frechet.init(shape[1])
    for start in range(0, shape[0], _ROWS):
        part = read_rows(start, min(start + _ROWS, shape[0]))
        if not np.isfinite(part).all():
            raise StatisticsError(f"{path}: reps holds NaN or infinity. Make it again.")
        moments = frechet.update(moments, part)
    return Statistics({str(shape[1]): moments}, shape[0], description)


def _check(name: str, moments: frechet.Moments) -> None:
    """Refuses values that are not a mean and a covariance, whose distance would be a meaningless number."""
    mean, m2 = moments.mean, moments.m2
    _check_shapes(name, mean.shape, m2.shape)
    if not (np.isfinite(mean).all() and np.isfinite(m2).all()):
        raise StatisticsError(f"{name} holds NaN or infinity. Make it again.")
    scale = np.abs(m2).max(initial=0)
    with np.errstate(over="ignore"):  # the difference of 1e308 and -1e308 overflows
        difference = np.abs(m2 - m2.T).max(initial=0)
    if difference > 1e-4 * scale or m2.diagonal().min(initial=0) < -1e-6 * scale:
        raise StatisticsError(
            f"{name}: its covariance is not symmetric, or has a negative diagonal. The file is damaged, or holds "
            "something else."
        )


def _check_shapes(name: str, mean: tuple[int, ...], covariance: tuple[int, ...]) -> None:
    if len(mean) != 1 or covariance != mean * 2:
        raise StatisticsError(
            f"{name}: the mean has the shape {list(mean)} and the covariance {list(covariance)}, which do not fit."
        )


def differences(stated: dict, required: dict) -> list[str]:
    """The fields in which two descriptions of features differ, in words.

    Args:
        stated: the description of the space in which the statistics were made.
        required: the description of the space in which they are needed.

    Returns:
        "FIELD: made with OLD, but needed with NEW" for each field that differs, sorted by the field.
    """
    return [
        f"{field}: made with {stated.get(field)!r}, but needed with {required.get(field)!r}"
        for field in sorted(stated.keys() | required.keys())
        if stated.get(field) != required.get(field)
    ]


def require_same(name: str, statistics: Statistics, space: dict) -> None:
    """Refuses statistics of features that cannot be compared with the samples' features.

    Args:
        name: the reference's name, for the message.
        statistics: the reference's statistics; those without a description of their space pass.
        space: the description of the space of the samples' features.

    Raises:
        StatisticsError: if the two spaces differ; the message names the fields that differ.
    """
    described = statistics.description.get("space")
    if described is None:
        return
    described, space = ({"features": INCEPTION, **description} for description in (described, space))
    if described["features"] != space["features"]:  # two networks' other fields always differ, and say nothing more
        described, space = ({"features": description["features"]} for description in (described, space))
    if differ := differences(described, space):
        raise StatisticsError(
            f"{name} was made under another protocol, so a distance to it would be meaningless: {'; '.join(differ)}. "
            "Choose that protocol, or make the reference again."
        )
