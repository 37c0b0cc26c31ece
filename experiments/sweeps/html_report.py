"""The report of a sweep: one HTML file that contains everything it shows, and follows a running sweep.

DIR/report.html can be opened from disk or sent to others, and needs no network. DIR/news.js beside it names the newest
version of the page. A page that was opened from disk cannot read another file, but it can run a script: it runs news.js
from time to time, and reloads itself when the version is new. The parts of the page lie in page/.
"""

import contextlib
import datetime
import hashlib
import html
import json
import math
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sweeps import naming
from diffusion.experiments.sweeps.embedded_pictures import embedded
from diffusion.experiments.sweeps.results import Results, Run, collect, over_seeds, usual
from diffusion.experiments.sweeps.sweep_folder import QUEUED, RUNNING
from diffusion.io.files import write_text
from diffusion.package import commands

PAGE = pathlib.Path(__file__).parent / "page"
SCRIPTS = ("state", "rows", "table", "filters", "chart", "against", "curves", "pictures", "main")  # in this order
NEWS = "news.js"
POLL = 2000  # milliseconds between two runs of news.js
SHARE = 50  # the wait until the next update, as a multiple of the time that the last one took: at most 2 % of a core
USUAL = (
    "fid",
    "fd_inception",
    "fd_classifier",
    "fd_pixels",
    "asked_class",
    "held_out_loss",
    "nfe",
    "loss",
)  # the figures whose columns are shown at first
NOTES = {
    True: "A line is a setting; a figure is the mean over its finished runs, which differ only in {seeds}. {alike}± is "
    "half the width of Student's 95 % interval of that mean, which is wide for two or three runs, or the standard "
    "deviation. Small dots in the charts are single runs. A click on a figure or a point opens the commands that "
    "made it.",
    False: "A line is a run; ± is half the width of the 95 % interval over its samples, if the evaluation has one. "
    "It does not include the variation between trainings. A click on a figure or a point opens the commands that "
    "made it.",
}


def content(results: Results) -> dict[str, Any]:
    """The data of the page as plain values, with the paths of its pictures; page/rows.js reads it."""
    runs = [_with_total(run) for run in results.runs]
    groups = over_seeds(results._replace(runs=runs))
    values = naming.distinct_texts([run.overrides for run in runs], results.fields)
    group_of = {run.name: index for index, group in enumerate(groups) for run in group.runs}
    number = {run.name: index for index, run in enumerate(runs)}
    figures = list(dict.fromkeys([*USUAL, *(name for run in runs for name in run.figures)]))
    known = [name for name in figures if any(name in run.figures for run in runs)]
    shown = usual(runs, known, USUAL) or known[:4]
    ways = {name: way for run in runs for name, way in run.measured.better.items()}
    alike = f"Runs with the same {results.seeds[0]} count as one, by their mean. " if len(results.seeds) > 1 else ""
    return {
        "name": results.name,
        "file": results.file,
        "fields": list(naming.labels_beside(results.fields, results.seeds).values()),
        "seeds": list(naming.labels_beside(results.seeds, results.fields).values()),
        "note": NOTES[bool(results.seeds)].format(seeds=" and ".join(results.seeds), alike=alike),
        "command": results.command,
        "page_command": commands.line("sweep_report", f"--workdir={results.directory}"),
        "figures": [{"name": name, "better": ways.get(name), "usual": name in shown} for name in known],
        "groups": [
            {
                "name": group.name,
                "values": values[number[group.runs[0].name]],
                "runs": [number[run.name] for run in group.runs],
                "figures": group.figures,
            }
            for group in groups
        ],
        "runs": [_run(run, group_of[run.name], row, results) for run, row in zip(runs, values)],
        "live": any(run.status in (RUNNING, QUEUED) for run in runs),
        "news": NEWS,
        "poll": POLL,
    }


def _with_total(run: Run) -> Run:
    seconds = [figure.value for name, figure in run.figures.items() if name.startswith("seconds/")]
    if len(seconds) < 2:
        return run
    return run.with_seconds({"seconds/total": math.fsum(seconds)})


def _run(run: Run, group: int, values: list[str], results: Results) -> dict[str, Any]:
    curve = lambda points: [[step for step, _ in points], [float(f"{value:.5g}") for _, value in points]]
    measured = run.measured
    content = run._asdict() | measured._asdict()
    del content["measured"], content["overrides"]
    return content | {
        "group": group,
        "values": values,
        "seeds": naming.texts(run.overrides, results.seeds),
        "sample_seed": run.overrides.get("sample.seed"),
        "seconds": round(run.seconds, 1),
        "workdir": str(run.workdir),
        "curves": {name: curve(points) for name, points in measured.curves.items()},
        "images": {kind: str(path) for kind, path in measured.images.items()},
    }


def page(data: Mapping[str, Any], pictures: Sequence[str], version: str, written: str) -> str:
    """The page as one text.

    Args:
        data: the result of `content`, with the indices of pictures in place of their paths.
        pictures: the pictures as "data:" addresses.
        version: the version of the page.
        written: the time of writing, as text.
    """
    parts = {
        "title": html.escape(f"{data['name']}: sweep"),
        "style": (PAGE / "page.css").read_text("utf-8"),
        "data": _embed({**data, "version": version, "written": written}),
        "pictures": _embed(pictures),
        "script": "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in SCRIPTS),
    }
    first, *rest = (PAGE / "page.html").read_text("utf-8").split("{{")
    return first + "".join(parts[name] + after for name, after in (part.split("}}", 1) for part in rest))


def _embed(value: Any) -> str:
    """JSON for a script element; "</script>" in a run's name stays text, and does not end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write(results: Results, before: str = "") -> str:
    """Writes DIR/report.html and then DIR/news.js unless they have not changed; returns their version.

    Args:
        results: the results of the sweep.
        before: the version that was written before; "" for none.
    """
    data = content(results)
    paths = list(dict.fromkeys(path for run in data["runs"] for path in run["images"].values()))
    pictures = embedded([pathlib.Path(path) for path in paths])
    shown = {path: address for path in paths if (address := pictures[path])}
    numbers = {path: index for index, path in enumerate(shown)}
    for run in data["runs"]:
        run["images"] = {kind: numbers[path] for kind, path in run["images"].items() if path in numbers}
    addresses = list(shown.values())
    version = hashlib.sha256(json.dumps([data, addresses], sort_keys=True).encode()).hexdigest()[:16]
    if version != before:
        written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        write_text(results.directory / "report.html", page(data, addresses, version, written))
        write_text(results.directory / NEWS, f"sweepNews({json.dumps(version)});\n")
    return version


@contextlib.contextmanager
def following(directory: pathlib.Path, every: float = 10.0) -> Iterator[None]:
    """Keeps DIR/report.html up to date during a `with` block, from a thread, and writes it once more at the end.

    If the report cannot be written, the runs continue, and each reason is printed once.

    Args:
        directory: the folder of the sweep.
        every: the least number of seconds between two updates.
    """
    over = threading.Event()
    version = ""
    printed = set()

    def look() -> float:
        nonlocal version
        began = time.monotonic()
        try:
            version = write(collect(directory), version)
        except (WorkdirError, OSError, LookupError, TypeError, ValueError) as error:  # a run may be writing these files
            if str(error) not in printed:
                printed.add(str(error))
                print(f"the report of {directory} could not be written: {error}", file=sys.stderr)
        return max(every, SHARE * (time.monotonic() - began))

    def follow() -> None:
        wait = 0.0
        while not over.wait(wait):
            wait = look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
