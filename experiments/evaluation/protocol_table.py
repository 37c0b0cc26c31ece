"""Measures one set of samples under every protocol of the Frechet distance whose network is available.

    diffusion evaluate --samples=a.npz --reference=cifar10@train --protocol=all --inception=inception.safetensors \\
        --encoder=dgm-eval=dinov2-large,cmmd=clip-vit-large-patch14-336 --out=protocols

Each protocol has a record in the folder, NAME.json, which `diffusion evaluate --verify` measures again. protocols.md is
the table. Features are computed once for protocols that prepare pictures in the same way.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion.experiments.evaluation import records, report
from diffusion.experiments.evaluation.comparison import Request
from diffusion.io.files import write_text
from diffusion.metrics import encoder_protocols, protocols
from diffusion.metrics.statistics import StatisticsError
from diffusion.recipe import ConfigError, unknown

ALL = "all"
FILE = "protocols.md"
RESIZES = {  # names of `resizing.RESIZES` in words
    "bilinear_tf1": "TensorFlow 1's bilinear resize: pixels at corners, no antialiasing",
    "bilinear_torch": "PyTorch's bilinear resize: pixels at centres, no antialiasing",
    "bicubic_pil": "Pillow's bicubic resize, antialiased",
}
HEADER = ("protocol", "figure", "value", "minus the first of its kind", "how it prepares pictures")


def networks(encoder: str) -> dict[str, str]:
    """The files of encoders by protocol, from the text of --encoder: NAME=FOLDER,NAME=FOLDER.

    Protocols of the same network share a file, unless --encoder names one for each.

    Raises:
        ConfigError: for a text of another form, or a protocol that is not known.
    """
    named: dict[str, str] = {}
    for part in filter(None, encoder.split(",")):
        name, equals, path = part.partition("=")
        if not equals or not path:
            raise ConfigError(
                f"--encoder={encoder}: with --protocol=all write NAME=FOLDER, e.g. dgm-eval=dinov2-large."
            )
        if name not in encoder_protocols.PROTOCOLS:
            raise unknown("--encoder", name, encoder_protocols.PROTOCOLS, "protocol")
        if name in named:
            raise ConfigError(f"--encoder={encoder}: {name} is named twice. Valid: one folder for each protocol.")
        named[name] = path
    files: dict[str, str] = {}
    for name, path in named.items():
        network = encoder_protocols.PROTOCOLS[name].network
        for other, protocol in encoder_protocols.PROTOCOLS.items():
            if protocol.network == network:
                files.setdefault(other, named.get(other, path))
    return files


def requests(request: Request) -> dict[str, Request]:
    """The request of each protocol that can be measured, in the order of the table.

    Args:
        request: the samples and the reference, with the files of the networks.

    Raises:
        ConfigError: if no file of a network is named.
    """
    by_protocol = {}
    if request.inception:
        for name, protocol in protocols.PROTOCOLS.items():
            if "fid" in protocol.reports:
                by_protocol[name] = request._replace(protocol=name, encoder="", metrics=("fid",))
    for name, path in networks(request.encoder).items():
        first = encoder_protocols.PROTOCOLS[name].reports[0]
        by_protocol[name] = request._replace(
            protocol=name, inception="", inception_sha256="", encoder=path, metrics=(first,)
        )
    if not by_protocol:
        raise ConfigError(
            "--protocol=all measures only with the networks that you name: --inception=FILE, --encoder=NAME=FOLDER."
        )
    return by_protocol


def how(name: str) -> str:
    """One line on how a protocol prepares a picture for its network."""
    if protocol := encoder_protocols.PROTOCOLS.get(name):
        return f"{protocol.network}, {protocol.size} pixels; {protocol.resize}; floats by {protocol.rounding}"
    inception = protocols.PROTOCOLS[name]
    return f"{RESIZES[inception.resize]}; bytes b as {inception.scaling}; floats by {inception.rounding}"


def measure(request: Request, folder: pathlib.Path) -> dict[str, Any]:
    """Measures the samples under each protocol, and writes the records and the table into a folder.

    Args:
        request: the request, as in `requests`.
        folder: the folder, made if missing.

    Returns:
        {protocol: {"figure", "value" (None if it cannot be measured), "standard_error", "difference" (from the first
        protocol of the same figure and network), "how", "why" (it has no value), "warnings", "reference"}}.

    Raises:
        ConfigError: as `requests`; or if no protocol could be measured.
    """
    rows: dict[str, Any] = {}
    firsts: dict[tuple[str, str], float] = {}
    for name, one in requests(request).items():
        row: dict[str, Any] = {"how": how(name), "reference": one.reference, "warnings": []}
        try:
            record = records.measure(one)
        except StatisticsError as error:  # a file of statistics belongs to one protocol
            rows[name] = row | {"figure": one.metrics[0], "value": None, "why": str(error)}
            continue
        records.write(folder / f"{name}.json", record)
        (figure, content), *_ = record["figures"].items()
        kind = (figure, one.inception or one.encoder)
        value = content["value"]
        if value is not None:
            firsts.setdefault(kind, value)
        rows[name] = row | {
            "figure": figure,
            "value": value,
            "standard_error": content.get("standard_error"),
            "difference": None if value is None else value - firsts[kind],
            "why": None if value is not None else content.get("why", report.NOT_FINITE),
            "warnings": record["warnings"],
        }
    if all(row["value"] is None for row in rows.values()):
        raise ConfigError(next(row["why"] for row in rows.values()))
    write_text(folder / FILE, markdown(rows))
    return rows


def cells(rows: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's rows as text."""
    lines = []
    for name, row in rows.items():
        value = "—" if row["value"] is None else report.with_error(row)
        difference = "" if row.get("difference") is None else f"{row['difference']:+.3g}"
        lines.append((name, row["figure"], value, difference, row["how"] if row["value"] is not None else row["why"]))
    return lines


def markdown(rows: Mapping[str, Any]) -> str:
    """The table as Markdown, followed by the warnings of its records."""
    notes = [f"- {text}" for text in _warnings(rows)]
    return "\n\n".join(filter(None, [report.table(HEADER, cells(rows)), "\n".join(notes)])) + "\n"


def _warnings(rows: Mapping[str, Any]) -> list[str]:
    """The warnings of all rows, each once."""
    return list(dict.fromkeys(text for row in rows.values() for text in row["warnings"]))


def show(rows: Mapping[str, Any], request: Request, folder: pathlib.Path) -> None:
    """Prints the table, its warnings, and where the records are."""
    report.show(f"{request.samples} against {request.reference} under every protocol", HEADER, cells(rows))
    for text in _warnings(rows):
        print(f"note: {text}")
    print(f"{folder / FILE}, and beside it a record for each protocol, which --verify measures again")
