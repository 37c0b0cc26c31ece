"""The text of docs/remakes.md, from the records of the remakes."""

from collections.abc import Iterable, Mapping
from typing import Any

from diffusion.experiments.evaluation import report
from diffusion.experiments.remake.claims import Remake
from diffusion.training.runtime import progress

LEFT_OUT = (  # (what, why)
    (
        "Tong et al. 2024, arXiv 2302.00482, table 2",
        "we could not read the table in the text of the paper; `plane_pairs` covers its methods and point clouds "
        "from a later paper of the authors",
    ),
    (
        "Cardoso et al. 2023, arXiv 2308.07983 (MCGDiff), the table of Gaussian mixtures",
        "we could not read the values in the text of the paper or in the authors' code",
    ),
    (
        "Sun et al. 2022, arXiv 2211.16750 (SDDM), table 1",
        "our copies of the paper end before the table, and no code quotes its values; `sddm_toy` covers SDDM on "
        "the same point clouds from a later paper",
    ),
)
HEADER = ("figure", "published", "our value", "verdict")
TOP = """# Reproductions of published figures

This page compares published figures with our measurements of the same figures. The command `diffusion remake NAME`
measures the figures of a published table, with code that was fixed before the first run. `diffusion remake --list`
lists all tables.

A figure counts as reproduced if our value lies in the published interval, widened by twice our standard error. The half
width of the published interval is the standard error in the paper, or half a unit of the last printed digit. The page
also shows the figures that lie outside, with their distance in combined standard errors, and says what differs. Where a
table tests statements of a paper, 1 means that the statement holds. `diffusion remake --page=docs/remakes.md` writes
this page from the records in `docs/remakes/`.
"""
CORES = {1: "one core", 2: "two cores"}


def verdict_text(figure: Mapping[str, Any]) -> str:
    """The verdict on one figure of a record, in words."""
    if figure["reproduced"]:
        return "reproduced"
    return "outside" if figure["distance"] is None else f"outside, by {figure['distance']:.2g}"


def rows(record: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rows of a record's table."""
    lines = []
    for figure in record["figures"]:
        interval = f" ± {figure['half_width']:.2g}" if figure["half_width"] else ""
        error = f" ± {figure['standard_error']:.2g}" if figure["standard_error"] else ""
        published, here = f"{figure['published']:.7g}{interval}", f"{figure['value']:.8g}{error}"
        lines.append((figure["figure"], published, here, verdict_text(figure)))
    return lines + [(name, "—", f"{value:.8g}", "—") for name, value in record.get("beside", {}).items()]


def summary(record: Mapping[str, Any]) -> str:
    """A phrase that says how many figures of a record are reproduced."""
    count = sum(figure["reproduced"] for figure in record["figures"])
    return f"{count} of {len(record['figures'])} figures reproduced"


def page(entries: Iterable[tuple[Remake, Mapping[str, Any]]], waiting: Iterable[Remake]) -> str:
    """The page: remakes with their records, remakes without a record, and what is left out.

    Args:
        entries: the remakes that are measured, each with its record.
        waiting: the remakes that are not measured yet.
    """
    entries, waiting = list(entries), list(waiting)
    minutes = sum(remake.minutes for remake in [*(remake for remake, _ in entries), *waiting])
    all_of_them = "All tables, including those not measured yet," if waiting else "All tables"
    sections = [
        f"{all_of_them} take about {progress.duration(60 * minutes)} on two cores without other work.\n"
        "The times below are those of the measurements, which are longer where other programs ran.\n"
    ]
    sections += [_section(remake, record) for remake, record in entries]
    lines = [
        f"- `{remake.name}`: {remake.title} ({remake.paper}; {remake.place}). It would take about "
        f"{progress.duration(60 * remake.minutes)} on two cores."
        for remake in waiting
    ]
    if lines:
        sections.append("## Not measured yet\n\n" + "\n".join(lines) + "\n")
    left_out = "\n".join(f"- {what}: {why}." for what, why in LEFT_OUT)
    return "\n".join([TOP, *sections, f"## Left out\n\n{left_out}\n"])


def _section(remake: Remake, record: Mapping[str, Any]) -> str:
    commit = (record["git_commit"] or "unknown")[:12]
    facts = [
        f"- Paper: {remake.paper}; {remake.place}. We read the values in {remake.source}.",
        f"- `diffusion remake {remake.name} --workdir=runs/remake/{remake.name}`: "
        f"{progress.duration(record['seconds'])} on {CORES[remake.cores]}, at commit {commit}.",
        *(f"- Not stated in the paper: {text}" for text in remake.unstated),
        *([f"- What differs: {remake.differs}"] if remake.differs else []),
        *([f"- Left out: {remake.left_out}"] if remake.left_out else []),
    ]
    table = report.table(HEADER, rows(record))
    picture = f"![{remake.title}](remakes/{remake.name}.png)\n\n" if remake.draw else ""
    return f"## {remake.title}\n\n" + "\n".join(facts) + f"\n\n**{summary(record)}.**\n\n{picture}{table}\n"
