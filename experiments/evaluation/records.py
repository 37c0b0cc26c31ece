"""The record of a measurement: a JSON file with its results, settings and code, by which it can be repeated."""

import datetime
import hashlib
import json
import pathlib
import time
from collections.abc import Mapping

import jax

import diffusion
from diffusion.experiments.evaluation import comparison, reconstructions, report
from diffusion.experiments.evaluation.comparison import Request
from diffusion.experiments.evaluation.image_metrics import ELSEWHERE
from diffusion.experiments.sampling import sample_files
from diffusion.io import json_files, limits, opener
from diffusion.metrics import references
from diffusion.package import commands

FORMAT = 1  # raised when a change makes older readers wrong
# How far a value may change when it is measured again: (absolute tolerance, relative tolerance), which add up. Features
# from other hardware agree to about 1e-5. A share may also change by the images that lie on a boundary.
TOLERANCES = {
    "fid": (1e-3, 1e-4),
    "sfid": (1e-3, 1e-4),
    "fid_infinity": (1e-2, 1e-3),
    "kid": (1e-6, 1e-3),
    "cmmd": (1e-4, 1e-3),
    "mind": (1e-3, 1e-3),
    "is": (1e-3, 1e-4),
    "precision": (2e-3, 0),
    "recall": (2e-3, 0),
    "density": (2e-3, 2e-3),
    "coverage": (2e-3, 0),
    "authenticity": (2e-3, 0),
    "rfid": (1e-3, 1e-4),
    "psnr": (1e-2, 0),
    "ssim": (1e-4, 0),
}
TOLERANCES |= {other: TOLERANCES[name] for name, other in ELSEWHERE.items()}
TOLERANCES |= dict.fromkeys(("fd", "fvd", "cd_fvd"), TOLERANCES["fid"])
INPUTS = {  # the entries that two records must share for their figures to compare
    "samples": ("sha256", "count"),
    "reference": ("sha256", "count", "fingerprint"),
    "weights": ("sha256",),
    "protocol": ("resize", "scaling", "rounding", "score_splits"),
}


class ResultError(ValueError):
    """A record cannot be used; the message says which, why, and what to do."""


def measure(request: Request, fresh: bool = False) -> dict:
    """Measures the samples of a request, or the reconstructions of its autoencoder.

    Args:
        request: the request of the command line, or of a record.
        fresh: whether to compute the features of the samples even where the cache holds them.

    Returns:
        The record, as JSON holds it; "sha256" covers everything else in it.
    """
    measured = (reconstructions if request.autoencoder else comparison).run(request, fresh)
    samples = pathlib.Path(request.samples)
    sampling = None
    if request.samples and (samples.is_dir() or samples.name == "samples.npz"):  # diffusion sample writes these
        sampling = sample_files.read_record(samples if samples.is_dir() else samples.parent)
    content = {
        "format": FORMAT,
        **measured,
        "request": request._asdict(),
        "sampling": sampling,
        "config_hash": sampling.get("config") if sampling else None,
        "git_commit": report.git_commit(),
        "versions": {"diffusion": diffusion.__version__, **references.versions()},
        "device": jax.devices()[0].device_kind,
        "finished": datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(timespec="seconds"),
        "command": command(request),
    }
    content = json_files.finite(json_files.plain(content))
    return {**content, "sha256": _digest(content)}


def command(request: Request) -> str:
    """The command line of a request, for people to copy; no code executes it."""
    words = []
    for name, value in request._asdict().items():
        if value != Request._field_defaults.get(name):
            words.append(f"--{name}={','.join(value) if name == 'metrics' else value}")
    return commands.line("evaluate", *words)


def _digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write(path: pathlib.Path, content: Mapping) -> None:
    """Writes a record; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    json_files.write(path, content)


def require_value(content: Mapping, path: pathlib.Path) -> None:
    """Refuses a record in which no figure has a value, so that a script does not take it for a measurement.

    Raises:
        ResultError: says why the first figure has no value.
    """
    if all(figure["value"] is None for figure in content["figures"].values()):
        why = [figure["why"] for figure in content["figures"].values() if "why" in figure]
        raise ResultError(f"no figure in {path} has a value: {why[0] if why else 'none is finite'}.")


def read(path: pathlib.Path) -> dict:
    """Reads a record without executing anything in it.

    Raises:
        ResultError: if the record is missing, damaged, altered, or of another version.
    """
    try:
        content = opener.read_json(path)
        if not isinstance(content, dict) or not {"format", "figures", "request", "sha256"} <= content.keys():
            raise ResultError(f"{path} is not a record of a measurement; --out=FILE.json writes one.")
        if content["format"] != FORMAT:
            raise ResultError(f"{path} has format {content['format']!r}, but this version reads only {FORMAT}.")
        if _digest({key: value for key, value in content.items() if key != "sha256"}) != content["sha256"]:
            raise ResultError(f"{path} was altered: its checksum does not match its content.")
        _check(content, path)
    except (OSError, limits.Refused, ValueError) as error:
        raise error if isinstance(error, ResultError) else ResultError(f"{path} cannot be read: {error}") from error
    return content


def _check(content: Mapping, path: pathlib.Path) -> None:
    """Refuses a record whose fields have another form than `measure` gives them, even if its checksum is right."""
    table = lambda value: isinstance(value, dict)
    wrong = [name for name in (*INPUTS, "protocol") if not (content.get(name) is None or table(content[name]))]
    figures = content["figures"] if table(content["figures"]) else {"figures": None}
    number = lambda value: value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    wrong += [f"figures.{name}" for name, one in figures.items() if not table(one)]
    wrong += [
        f"figures.{name}.value"
        for name, one in figures.items()
        if isinstance(one, dict) and not number(one.get("value"))
    ]
    if wrong:
        raise ResultError(f"{path} has another form than a record of this program: {', '.join(wrong[:5])}.")


def verify(path: pathlib.Path) -> list[str]:
    """Measures a record again; returns the differences, one sentence each.

    The request is rebuilt from its parsed fields, and no text of the file is executed. The features of the samples are
    computed again. The features of the reference come from the cache, which checks their hash.
    """
    before = read(path)
    try:
        request = comparison.parse(before["request"])
    except ValueError as error:
        raise ResultError(f"{path} cannot be repeated: {error}.") from error
    return compare(before, measure(request, fresh=True))


def compare(before: Mapping, after: Mapping) -> list[str]:
    """The fields in which two records of one request differ, a sentence each; values may differ by `TOLERANCES`."""
    differences = []
    for part, fields in INPUTS.items():
        for field in fields:
            old, new = ((content.get(part) or {}).get(field) for content in (before, after))
            if old != new:
                differences.append(f"{part}.{field}: {old} in the record, {new} now")
    figures = [_by_current_names(content) for content in (before, after)]
    for name in sorted(figures[0].keys() | figures[1].keys()):
        old, new = (content.get(name, {}).get("value") for content in figures)
        if old is None or new is None:
            if old is not new:
                differences.append(f"figures.{name}.value: {old} in the record, {new} now")
            continue
        if name not in TOLERANCES:
            differences.append(f"figures.{name}: this version has no such figure")
            continue
        absolute, relative = TOLERANCES[name]
        allowed = absolute + relative * abs(old)
        if not abs(new - old) <= allowed:
            differences.append(
                f"figures.{name}.value: {old:.9g} in the record, {new:.9g} now; "
                f"{abs(new - old):.3g} apart, {allowed:.3g} allowed"
            )
    return differences


def _by_current_names(content: Mapping) -> dict:
    """The figures of a record; records of earlier versions called a Frechet distance of pixels "fid" too."""
    inception = content.get("protocol") is not None
    current = {"fid": "fd", **ELSEWHERE}
    return {name if inception else current.get(name, name): figure for name, figure in content["figures"].items()}


def show(content: Mapping) -> None:
    """Prints the figures and the warnings of a record."""
    request = content["request"]
    protocol = content["protocol"]
    under = f", protocol {protocol['name']}" if protocol else f", {content['features']['features']}"
    title = f"{request['samples'] or request['autoencoder']} against {request['reference']}{under}"
    report.show(title, ("", "± standard error", "of"), report.metric_rows(content["figures"]))
    for text in content["warnings"]:
        print(f"note: {text}")
    rate = content["seconds"].get("images_per_second")
    print(f"{content['seconds']['total']:.1f} s" + (f", {rate:.1f} images/s" if rate else ""))
