"""Trains for a given time with sampling, evaluation and saves in the loop, and shows whether anything grows.

    python -m benchmarks.soak --minutes=30 --workdir=/tmp/soak --figure=docs/images/soak.png

The run is the digits recipe in a separate process. The command reads its resident memory, open files and threads from
/proc every two seconds, and its recompilations from timing.jsonl. The slope is that of the least squares line through
the memory, without the first fifth of the time, in which caches fill.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

SECONDS = 2.0  # between two samples
WARM_UP = 0.2  # share of the time that is left out of the slope
FLAGS = ("config.train.steps=100000000", "config.train.log_every=20", "config.evaluate.every=100",
         "config.evaluate.number=100", "config.sample.steps=5", "config.sample.batch_size=100",
         "config.checkpoint.every=100", "config.optimizer.decay=constant")  # fmt: skip


class Sample(NamedTuple):
    """The state of a process at one moment: seconds since the first sample, resident MiB, open files, threads."""

    seconds: float
    memory: float
    files: int
    threads: int


class Report(NamedTuple):
    """The results of a soak.

    Attributes:
        minutes: the length of the run.
        steps: the number of training steps.
        evaluations: the number of evaluations.
        slope: the slope of the resident memory after the warm-up, in MiB per hour.
        memory: the median resident MiB in the first and in the last tenth of the time after the warm-up.
        files: the least number of open files in the first and in the last tenth; a save opens some for a moment.
        threads: the least number of threads in the first and in the last tenth.
        recompilations: the number of programs that were compiled again, after their first compilation.
    """

    minutes: float
    steps: int
    evaluations: int
    slope: float
    memory: tuple[float, float]
    files: tuple[int, int]
    threads: tuple[int, int]
    recompilations: int


def sample(pid: int, began: float) -> Sample:
    """Reads the state of a process from /proc/PID.

    Args:
        pid: the id of the process.
        began: the time of `time.monotonic` from which the seconds count.
    """
    folder = pathlib.Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Sample(time.monotonic() - began, memory, len(list((folder / "fd").iterdir())), int(status["Threads"]))


def watch(command: list[str], seconds: float, begun: pathlib.Path | None = None) -> list[Sample]:
    """Runs a command for `seconds` seconds, then stops it by SIGTERM.

    Args:
        command: the words of the command.
        seconds: the time in which samples are taken.
        begun: a file that the command writes when its work begins, from which the seconds count; None counts them from
            the start of the process.

    Returns:
        The samples, one for each `SECONDS`.

    Raises:
        RuntimeError: if the command ends by itself, or does not end after SIGTERM.
    """
    samples = []
    process = subprocess.Popen(command)
    try:
        while begun is not None and not begun.exists() and process.poll() is None:
            time.sleep(SECONDS)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(SECONDS)
            if process.poll() is not None:
                raise RuntimeError(f"the run ended by itself with exit status {process.returncode}")
            samples.append(sample(process.pid, began))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    finally:
        process.kill()
        process.wait()
    return samples


def summary(samples: list[Sample], workdir: pathlib.Path) -> Report:
    """The results of a soak, from its samples and from the files of the run."""
    warm = [moment for moment in samples if moment.seconds >= WARM_UP * samples[-1].seconds]
    columns = Sample(*map(np.array, zip(*warm)))
    tenth = max(1, len(warm) // 10)
    ends = lambda of, values: (of(values[:tenth]).item(), of(values[-tenth:]).item())
    lines = lambda name: [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    timing = lines("timing.jsonl")
    return Report(
        minutes=samples[-1].seconds / 60,
        steps=timing[-1]["step"],
        evaluations=sum("evaluate" in row for row in lines("metrics.jsonl")),
        slope=float(np.polyfit(columns.seconds / 3600, columns.memory, 1)[0]),
        memory=ends(np.median, columns.memory),
        files=ends(np.min, columns.files),
        threads=ends(np.min, columns.threads),
        recompilations=timing[-1]["recompilations"],
    )


def draw(samples: list[Sample], report: Report, path: pathlib.Path) -> None:
    """Draws memory, files and threads against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = Sample(*map(np.array, zip(*samples)))
    minutes = columns.seconds / 60
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 4), layout="constrained")
    above.plot(minutes, columns.memory, linewidth=0.8)
    above.axvspan(0, WARM_UP * minutes[-1], alpha=0.1, color="gray", label="warm-up, left out of the slope")
    above.set_ylim(0, None)
    above.set_ylabel("resident MiB")
    above.set_title(
        f"{report.steps:,} steps, {report.evaluations} evaluations: {report.slope:+.1f} MiB an hour, "
        f"{report.recompilations} recompilations",
        fontsize=10,
    )
    above.legend(fontsize=8)
    below.plot(minutes, columns.files, linewidth=0.8, label="open files")
    below.plot(minutes, columns.threads, linewidth=0.8, label="threads")
    below.set_ylim(0, None)
    below.set_xlabel("minutes")
    below.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def soak(minutes: float, workdir: pathlib.Path, flags: tuple[str, ...] = ()) -> tuple[Report, list[Sample]]:
    """Trains for `minutes` minutes in a new folder.

    Args:
        minutes: the time of the training.
        workdir: the run folder, which must not exist.
        flags: changes of the config in addition to `FLAGS`, each "config.FIELD=value".

    Returns:
        The report and the samples.
    """
    command = [sys.executable, "-m", "diffusion", "train", "--config=digits", f"--workdir={workdir}"]
    samples = watch(
        [*command, *[f"--{flag}" for flag in (*FLAGS, *flags)]], 60 * minutes, begun=workdir / "timing.jsonl"
    )
    return summary(samples, workdir), samples


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the training; default: 30")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="new folder for the run")
    parser.add_argument("--figure", type=pathlib.Path, help="file for the figure; by default none is drawn")
    options = parser.parse_args()
    if options.workdir.exists():
        parser.error(f"--workdir={options.workdir} exists: name a new folder, so that the run starts from step 0")
    report, samples = soak(options.minutes, options.workdir)
    if options.figure:
        draw(samples, report, options.figure)
    print(json.dumps(report._asdict(), indent=2))


if __name__ == "__main__":
    main()
