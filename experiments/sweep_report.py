"""Writes the report of a sweep as one HTML file with its table, charts, pictures and commands.

    diffusion sweep_report --workdir=runs/weightings
    diffusion sweep_report --workdir=runs/weightings --watch=10

The sweep need not be finished. The file DIR/report.html needs no server, so you can open it from disk or send it to
others. With --watch, the command rewrites the file whenever a run has changed, until the sweep is finished. An open
page updates itself.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "folder of the sweep, e.g. runs/weightings")
    flags.DEFINE_float(
        "watch",
        None,
        "interval in seconds at which to look for changes and rewrite the report, until all runs have finished",
        0.5,
    )
    flags.mark_flags_as_required(["workdir"])
    command_line.begin()

import pathlib
import time

from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sweeps import html_report, results, sweep_folder


def main(argv: list[str]) -> None:
    """Writes the report once, or with --watch whenever it changes until the sweep is finished."""
    directory = pathlib.Path(flags.FLAGS.workdir)
    version = ""
    while True:
        now = results.collect(directory)
        before = version
        version = html_report.write(now, before)
        if version != before:
            print(f"{directory / 'report.html'}: {sweep_folder.tally(run.status for run in now.runs)}", flush=True)
        if flags.FLAGS.watch is None or not html_report.content(now)["live"]:
            return
        time.sleep(flags.FLAGS.watch)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
