"""The report of a sweep: one HTML file that holds everything that it shows, and follows the sweep while that runs.

DIR/report.html is to be opened from the disk, or sent round; nothing in it asks a network. Beside it, DIR/news.js says
which version there is: a page in a file can read no other file, but it can run one, and loads itself anew when that
names another version than its own. The parts of the page lie in page/.
"""

import datetime
import hashlib
import html
import json
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.run_folder.workdir import write_text
from experiments.sweeps import naming, state
from experiments.sweeps.report_pictures import embedded
from experiments.sweeps.results import Figure, Group, Results, Run, over_seeds

PAGE = pathlib.Path(__file__).parent / "page"
SCRIPTS = ("state", "rows", "table", "filters", "chart", "against", "curves", "pictures", "main")  # in this order
NEWS = "news.js"
POLL = 2000  # milliseconds between two looks at the news
LOWER, HIGHER = "lower", "higher"  # is better
BETTER = {
    "fd_": LOWER,
    "fid": LOWER,
    "sfid": LOWER,
    "kid": LOWER,
    "cmmd": LOWER,
    "bits_per_dim": LOWER,
    "seconds/": LOWER,
    "rfid": LOWER,
    "is": HIGHER,
    "precision": HIGHER,
    "recall": HIGHER,
    "density": HIGHER,
    "coverage": HIGHER,
    "asked_class": HIGHER,
    "steps_per_second": HIGHER,
    "psnr": HIGHER,
    "ssim": HIGHER,
}  # not the loss: those of different objectives do not compare
USUAL = ("fid", "fd_inception", "fd_classifier", "fd_pixels", "asked_class", "nfe", "loss")  # columns at first
NOTES = {
    True: "A line is a setting; a figure is the mean over its finished runs, which differ in {seeds} alone. ± is half "
    "the width of Student's 95 % interval of that mean, which two or three runs make wide, or the standard "
    "deviation. Small dots in the charts are single runs. A click on a figure or a point opens the commands that "
    "made it.",
    False: "A line is a run; ± is half the width of the 95 % interval over its samples, where the evaluation has one. "
    "It does not hold the variation between trainings. A click on a figure or a point opens the commands that "
    "made it.",
}


def content(results: Results) -> dict[str, Any]:
    """What the page is told, as JSON holds it; see page/rows.js for what becomes of it.

    Args:
        results: from `results.collect`.

    Returns:
        {"name", "fields", "seeds", "runs", "groups", "figures", ...}; the pictures are in it as paths.
    """
    runs = [_with_total(run) for run in results.runs]
    groups = over_seeds(results._replace(runs=runs))
    called = naming.labels(results.fields)
    seeds = naming.labels([*results.fields, *results.seeds])
    of_group = {run.name: index for index, group in enumerate(groups) for run in group.runs}
    number = {run.name: index for index, run in enumerate(runs)}
    names = list(dict.fromkeys([*USUAL, *(name for run in runs for name in run.figures)]))
    there = [name for name in names if any(name in run.figures for run in runs)]
    usual = [name for name in there if name in USUAL] or there[:4]
    return {
        "name": results.name,
        "file": results.file,
        "fields": list(called.values()),
        "seeds": [seeds[field] for field in results.seeds],
        "note": NOTES[bool(results.seeds)].format(seeds=" and ".join(results.seeds)),
        "command": results.command,
        "page_command": shlex.join(["python", "-m", "experiments.sweep_report", f"--workdir={results.directory}"]),
        "figures": [{"name": name, "better": better(name), "usual": name in usual} for name in there],
        "groups": [_group(group, number, called) for group in groups],
        "runs": [_run(run, of_group[run.name], called, results.seeds) for run in runs],
        "live": any(run.status in (state.RUNNING, state.QUEUED) for run in runs),
        "news": NEWS,
        "poll": POLL,
    }


def better(name: str) -> str | None:
    """Whether less or more of a figure is better; None where that is not known."""
    if name.endswith("_of_real_images") or name.startswith("nearest"):
        return None
    found = [way for start, way in BETTER.items() if name == start or (start[-1] in "_/" and name.startswith(start))]
    return found[0] if found else None


def _with_total(run: Run) -> Run:
    seconds = [figure.value for name, figure in run.figures.items() if name.startswith("seconds/")]
    total = {"seconds/total": Figure(math.fsum(seconds))} if len(seconds) > 1 else {}
    return run._replace(figures=run.figures | total)


def _texts(overrides: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    return [naming.text(overrides[field]) if field in overrides else "" for field in fields]


def _figures(figures: Mapping[str, Figure]) -> dict[str, list]:
    return {name: list(figure) for name, figure in figures.items()}


def _group(group: Group, number: Mapping[str, int], called: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": group.name,
        "values": _texts(group.overrides, list(called)),
        "runs": [number[run.name] for run in group.runs],
        "figures": _figures(group.figures),
    }


def _run(run: Run, group: int, called: Mapping[str, str], seeds: Sequence[str]) -> dict[str, Any]:
    shorter = lambda value: float(f"{value:.5g}")
    return {
        "name": run.name,
        "group": group,
        "values": _texts(run.overrides, list(called)),
        "seeds": _texts(run.overrides, seeds),
        "sample_seed": run.overrides.get("sample.seed"),
        "status": run.status,
        "reason": run.reason,
        "attempts": run.attempts,
        "seconds": round(run.seconds, 1),
        "workdir": str(run.workdir),
        "command": run.command,
        "figures": _figures(run.figures),
        "curves": {
            name: [[step for step, _ in points], [shorter(value) for _, value in points]]
            for name, points in run.curves.items()
        },
        "images": {kind: str(path) for kind, path in run.images.items()},
    }


def page(told: Mapping[str, Any], pictures: Sequence[str], version: str, written: str) -> str:
    """The page as one text.

    Args:
        told: from `content`, with the numbers of pictures in place of their paths.
        pictures: "data:" addresses.
        version: of the content, that the news will compare.
        written: the time, for people.
    """
    parts = {
        "title": html.escape(f"{told['name']}: sweep"),
        "style": (PAGE / "page.css").read_text("utf-8"),
        "data": _embed({**told, "version": version, "written": written}),
        "pictures": _embed(pictures),
        "script": "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
    }
    first, *rest = (PAGE / "page.html").read_text("utf-8").split("{{")
    filled = [parts[name] + after for name, after in (piece.split("}}", 1) for piece in rest)]
    return first + "".join(filled)


def _embed(value: Any) -> str:
    """JSON that nothing in it can end early: "</script>" in a run's name stays a text."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write(results: Results, before: str = "") -> str:
    """Writes DIR/report.html and then DIR/news.js, each whole or not at all, if anything changed.

    Args:
        results: from `results.collect`.
        before: the version that was written last; "" writes in any case.

    Returns:
        The version that is there now.
    """
    told = content(results)
    paths = list(dict.fromkeys(path for run in told["runs"] for path in run["images"].values()))
    pictures = embedded([pathlib.Path(path) for path in paths])
    place = {path: index for index, path in enumerate(path for path in paths if pictures[path])}
    for run in told["runs"]:
        run["images"] = {kind: place[path] for kind, path in run["images"].items() if path in place}
    shown = [pictures[path] for path in place]
    version = hashlib.sha256(json.dumps([told, shown], sort_keys=True).encode()).hexdigest()[:16]
    if version != before:
        written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        write_text(results.directory / "report.html", page(told, shown, version, written))
        write_text(results.directory / NEWS, f"sweepNews({json.dumps(version)});\n")
    return version
