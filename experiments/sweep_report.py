"""Writes the report of a sweep, finished or not: one HTML file with its table, charts, pictures and commands.

    python -m experiments.sweep_report --workdir=runs/weightings
    python -m experiments.sweep_report --workdir=runs/weightings --watch=10

The file is DIR/report.html: open it from the disk, or send it round. With --watch it is written anew whenever something
has changed, until the sweep is finished; a page that is open follows.
"""

import pathlib
import time

from absl import flags

from experiments import config as configs
from experiments.run_folder import workdir
from experiments.sweeps import report, results

WORKDIR = flags.DEFINE_string("workdir", None, "the sweep's folder, e.g. runs/weightings")
WATCH = flags.DEFINE_float("watch", None, "seconds between two looks at the folder, until all runs are finished", 0.5)


def main(argv: list[str]) -> None:
    """Writes the report once, or as long as the sweep runs."""
    directory = pathlib.Path(WORKDIR.value)
    version = ""
    while True:
        found = results.collect(directory)
        version, before = report.write(found, version), version
        if version != before:
            print(f"{directory / 'report.html'}: {tally(found)}", flush=True)
        if WATCH.value is None or not report.content(found)["live"]:
            return
        time.sleep(WATCH.value)


def tally(found: results.Results) -> str:
    """How many runs have each status: "12 done, 2 running"."""
    statuses = [run.status for run in found.runs]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    configs.run(main, workdir.FAILURES)
