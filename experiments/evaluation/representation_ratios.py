"""FDr^k from records: the mean of Frechet distances in k feature spaces, divided by those of held-out real images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.evaluation import records, report
from diffusion.io import json_files
from diffusion.metrics.representation_ratio import representation_ratio
from diffusion.recipe import ConfigError

DISTANCES = ("fid", "fd")  # the names of a Frechet distance, in Inception's features and in others


class Record(NamedTuple):
    """The content of a record that `diffusion evaluate --out` wrote, and its Frechet distance."""

    content: Mapping
    distance: Mapping


def measure(samples: Sequence[pathlib.Path], real: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Computes FDr^k.

    Args:
        samples: records of the samples that `diffusion evaluate --out` wrote, one for each space.
        real: records of held-out real images, of the same number, spaces and references.

    Returns:
        {"figures": {"fdr": {"value", "standard_error", "samples", "k"}}, "spaces": {protocol: {"distance", "floor",
        "ratio", "standard_error"}}, "records": {path: sha256}}, as JSON holds it. The standard error of a ratio d / f
        is sqrt(e_d^2 + (d e_f / f)^2) / f; the standard error of the mean is taken as the mean of these, an upper
        bound, since the distances of one set of samples are not independent.

    Raises:
        ConfigError: if the two lists differ in their spaces, references or numbers of images.
        records.ResultError: if a record cannot be used.
    """
    distances = _by_space("--ratio", samples)
    floors = _by_space("--floors", real)
    if distances.keys() != floors.keys():
        raise ConfigError(
            f"--ratio has records under {', '.join(distances) or 'none'}, but --floors under "
            f"{', '.join(floors) or 'none'}. Valid: one record in each, under the same protocols."
        )
    _require_alike("--ratio", distances, lambda content: content["samples"].get("sha256"), "samples")
    _require_alike("--floors", floors, lambda content: content["samples"].get("sha256"), "images")
    spaces = {}
    for name, sampled in distances.items():
        floor = floors[name]
        for part, field in (("reference", "fingerprint"), ("reference", "sha256"), ("weights", "sha256")):
            pair = [(record.content.get(part) or {}).get(field) for record in (sampled, floor)]
            if pair[0] != pair[1]:
                raise ConfigError(
                    f"{name}: the samples and the held-out images were measured with different {part} ({pair[0]}, "
                    f"{pair[1]}). Measure both with the same."
                )
        if sampled.distance["samples"] != floor.distance["samples"]:
            raise ConfigError(
                f"{name}: there are {sampled.distance['samples']:,} samples but {floor.distance['samples']:,} "
                "held-out images. A Frechet distance falls as their number grows, so measure the same number of both."
            )
        spaces[name] = _ratio(sampled.distance, floor.distance)
    values = {key: {name: part[key] for name, part in spaces.items()} for key in ("distance", "floor")}
    errors = [part["standard_error"] for part in spaces.values()]
    figure = {
        "value": representation_ratio(values["distance"], values["floor"]),
        "standard_error": None if None in errors else sum(errors) / len(errors),
        "samples": next(iter(distances.values())).distance["samples"],
        "k": len(spaces),
    }
    used = {str(path): records.read(path)["sha256"] for path in (*samples, *real)}
    return json_files.plain({"figures": {"fdr": figure}, "spaces": spaces, "records": used, **report.software()})


def _by_space(flag: str, paths: Sequence[pathlib.Path]) -> dict[str, Record]:
    by_space: dict[str, Record] = {}
    for path in paths:
        content = records.read(path)
        name = (content.get("protocol") or {}).get("name") or (content.get("features") or {}).get("features", "")
        distance = _distance(content)
        if distance is None:
            raise ConfigError(f"{flag}: {path} has no Frechet distance. Measure it with --metrics=fid.")
        if name in by_space:
            raise ConfigError(f"{flag} has two records under {name}. Valid: one record for each space.")
        by_space[name] = Record(content, distance)
    return by_space


def _distance(content: Mapping) -> Mapping | None:
    figures = content["figures"]
    return next((figures[name] for name in DISTANCES if figures.get(name, {}).get("value") is not None), None)


def _require_alike(flag: str, by_space: Mapping[str, Record], fact, what: str) -> None:
    names = list(by_space)
    for name in names[1:]:
        if fact(by_space[name].content) != fact(by_space[names[0]].content):
            raise ConfigError(f"{flag}: the records under {names[0]} and {name} differ in their {what}.")


def _ratio(distance: Mapping, floor: Mapping) -> dict[str, Any]:
    if not floor["value"] > 0:
        raise ConfigError(f"--floors: a distance of real images is {floor['value']}. Valid: a positive number.")
    ratio = distance["value"] / floor["value"]
    distance_error, floor_error = distance.get("standard_error"), floor.get("standard_error")
    error = None
    if distance_error is not None and floor_error is not None:
        error = (distance_error**2 + (ratio * floor_error) ** 2) ** 0.5 / floor["value"]
    return {"distance": distance["value"], "floor": floor["value"], "ratio": ratio, "standard_error": error}


def show(content: Mapping) -> None:
    """Prints the ratio of each space, and their mean."""
    error = lambda value: "" if value is None else f" ± {value:.2g}"
    rows = [
        (name, f"{part['distance']:.4g}", f"{part['floor']:.4g}", f"{part['ratio']:.4g}{error(part['standard_error'])}")
        for name, part in content["spaces"].items()
    ]
    figure = content["figures"]["fdr"]
    mean = f"{figure['value']:.4g}{error(figure['standard_error'])}"
    title = f"FDr^{figure['k']} of {figure['samples']:,} samples"
    report.show(title, ("", "samples", "held-out images", "ratio"), [*rows, ("mean", "", "", mean)])
