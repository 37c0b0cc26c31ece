"""Runs many trainings, or many samplings of one run, from a file that lists what varies; continues when interrupted.

    diffusion sweep --sweep=digits_weightings --dry-run
    diffusion sweep --sweep=digits_weightings --workdir=runs/weightings --jobs=2
    diffusion sweep --workdir=runs/weightings --table --figures=fd_pixels,asked_class

Each run has a folder DIR/NAME, where NAME states its differing settings. Its commands (by default train, sample and
evaluate) are ordinary commands, which --dry-run shows. If a run fails, the others continue. --retry=1 tries failed runs
once more, including runs that failed in an earlier start. At Ctrl-C or SIGTERM the current runs save their state, and
the sweep ends; the same command continues all of them. If the file has more runs than before, the command adds them.
--table also works while the sweep runs, and writes table.md, table.csv and runs.csv.

On a cluster, each task executes one run with --run=INDEX (diffusion launch slurm_array or kubernetes_array). See
docs/sweeps.md.

Exit status: 0 all runs are done; 1 some failed, or were stopped by another process; 2 a mistake, before any run
started; 130 after Ctrl-C, 143 after SIGTERM. With --run, the status is the run's own.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "sweep", None, "name of a sweep with its preset, or a file of your own: digits_weightings, mine.py"
    )
    flags.DEFINE_string("workdir", None, "folder for the sweep, created if missing; runs/NAME by default")
    flags.DEFINE_integer(
        "jobs", None, "number of runs at the same time; by default one per GPU, or one without GPUs", lower_bound=1
    )
    flags.DEFINE_list(
        "devices", None, "GPUs for the runs, e.g. 0,1,2,3; by default all; 0,0 runs two at once on one GPU"
    )
    flags.DEFINE_integer(
        "retry",
        0,
        "number of further attempts for each failed run, including runs that failed in an earlier start",
        lower_bound=0,
    )
    flags.DEFINE_string("run", "", "index or name of one run, which a task of a cluster then executes")
    flags.DEFINE_bool("dry-run", False, "show the runs without running them")
    flags.DEFINE_bool("table", False, "show and write the table of results so far, without running anything")
    flags.DEFINE_list("figures", None, "figures to show in the table, e.g. fd_pixels,loss; or all")
    command_line.begin()

import collections
import contextlib
import pathlib
import queue
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence

import jax

from diffusion.experiments.evaluation import report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sweeps import definition, devices, naming, results, runner, sweep_folder, table
from diffusion.experiments.sweeps.html_report import following
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, QUEUED, Plan, Record
from diffusion.experiments.sweeps.terminal import Display
from diffusion.recipe import ConfigError
from diffusion.recipe.extensions import printed
from diffusion.training.runtime import preemption


def dry_run(record: Record, directory: pathlib.Path) -> None:
    """Prints the runs with the fields that each sets, and the commands of the first run."""
    called = naming.labels(record.varies)
    statuses = sweep_folder.statuses(directory, record.runs)
    rows = [
        [index, *naming.texts(plan.overrides, called), statuses[plan.name]] for index, plan in enumerate(record.runs)
    ]
    report.show(f"{record.name}: {len(rows)} runs in {directory}", ["", *called.values(), "status"], rows)
    first = record.runs[0]
    print(f"Commands of run 0, {first.name}:")
    for words in sweep_folder.commands(directory, first):
        print(f"  {shlex.join(words)}")


def chosen(record: Record, run: str) -> list[Plan]:
    """The runs to execute: all of them, or the one that --run names by its index or name."""
    if not run:
        return record.runs
    names = [plan.name for plan in record.runs]
    if run.isdecimal() and int(run) < len(names):
        return [record.runs[int(run)]]
    if run in names:
        return [record.runs[names.index(run)]]
    raise ConfigError(f"--run={run}: the sweep has no such run. Valid: 0 .. {len(names) - 1}, or the name of a run.")


def recorded_file(directory: pathlib.Path) -> str:
    """The value of --sweep by which the sweep in a folder was begun: its file, with its preset."""
    file = sweep_folder.read(directory).file
    path = pathlib.Path(file.partition(":")[0])
    if path.suffix == ".py" and not path.is_file():
        raise ConfigError(
            f"--workdir={directory} was begun by --sweep={file}, but {path.absolute()} does not exist. Start the "
            "command in the folder where the sweep was begun, or name its file by --sweep."
        )
    return file


def tries(plans: Sequence[Plan], directory: pathlib.Path, retry: int, requested: bool) -> dict[str, int]:
    """{name of a run: how often it may begin}: 0 if it is done; a failed run begins only by --retry or by --run.

    Args:
        plans: the runs.
        directory: the folder of the sweep.
        retry: the number of further attempts for each failed run.
        requested: whether --run names the run.
    """
    statuses = sweep_folder.statuses(directory, plans)
    return {name: 0 if now == DONE else retry + (now != FAILED or requested) for name, now in statuses.items()}


@contextlib.contextmanager
def receiving(signals: queue.SimpleQueue) -> Iterator[list[int]]:
    """Collects requests to stop during a `with` block; yields the list of the signals received so far."""
    received: list[int] = []

    def receive(number, frame):
        if number in preemption.NOTICES:
            if received:
                return
            number = signal.SIGTERM
        received.append(number)
        signals.put(number)

    notices = [number for number in preemption.NOTICES if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM, *notices)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(record: Record, directory: pathlib.Path, settings: flags.FlagValues) -> int:
    """Executes the runs that are not done; returns the exit status."""
    plans = chosen(record, settings.run)
    single = bool(settings.run)
    gpus = settings.devices if settings.devices is not None else devices.visible_gpus()
    jobs = 1 if single else settings.jobs or len(gpus) or 1
    cores = devices.usable_cores() if jobs > 1 else ()
    slots = [devices.Slot({}, frozenset())] if single else devices.slots(jobs, gpus, cores)
    added = definition.settle(directory, record)
    allowed = tries(plans, directory, settings.retry, single)
    logged = lambda plan: sweep_folder.logged_status(directory / plan.name, len(plan.commands)).status
    before = [QUEUED if allowed[plan.name] else logged(plan) for plan in plans]
    signals = queue.SimpleQueue()
    reporting = contextlib.nullcontext() if single else following(directory)  # many tasks would write one report
    with receiving(signals) as received, Display(collections.Counter(before)) as display, reporting:
        display.say(f"{record.name}: {len(plans)} runs in {directory}, {jobs} at a time")
        if added:
            display.say(f"New runs: {added}. The other runs stay as they are.")
        if not single:
            display.say(f"To follow the runs, open {directory / 'report.html'}; it updates itself")
        ended = runner.run(
            directory, plans, slots, allowed, display, signals, signal.SIGINT if single else signal.SIGTERM
        )
    statuses = sweep_folder.statuses(directory, plans)
    _say_how_to_go_on(list(statuses.values()), directory, single)
    if set(statuses.values()) == {DONE}:
        return 0
    if received:
        return 128 + received[0]
    return ended.get(plans[0].name, 1) if single else 1


def _say_how_to_go_on(statuses: Sequence[str], directory: pathlib.Path, single: bool) -> None:
    print(sweep_folder.tally(statuses))
    if FAILED in statuses:
        print(f"Failed runs are tried again with --retry=1; their output is in {directory}/NAME/output.log")
    if not set(statuses) <= {DONE, FAILED}:
        print(f"To go on:\n  {workdir.command('diffusion sweep')}")
    if DONE in statuses and not single:
        print(f"The figures: {printed('sweep', f'--workdir={directory}', '--table')}")


def main(argv: list[str]) -> None:
    """Runs the command line."""
    try:
        _main()
    except KeyboardInterrupt:  # before the first run was begun
        sys.exit(130)


def _main() -> None:
    """Runs the sweep, or shows its runs or its table."""
    jax.config.update("jax_platforms", "cpu")  # these checks need no GPU, and must not take its memory
    settings = flags.FLAGS
    if not settings.sweep:
        if not settings.workdir:
            raise ConfigError(
                "--sweep is missing: name the sweep to run, e.g. --sweep=digits_weightings, or the --workdir of a "
                "sweep that has begun."
            )
        if not settings.table:
            settings.sweep = recorded_file(pathlib.Path(settings.workdir))
    how = ("jobs", "devices", "retry", "run")  # the flags that control how the runs are executed
    if settings.table:
        flag_errors.refuse([*how, "dry-run"], "has no effect with --table, which runs nothing.")
    else:
        flag_errors.refuse(["figures"], "is only for the table: --table.")
    if settings["dry-run"].value:
        flag_errors.refuse(how, "has no effect with --dry-run, which runs nothing.")
    if settings.run:
        flag_errors.refuse(["jobs", "devices"], "has no effect with --run, which executes one run.")
    directory = pathlib.Path(settings.workdir or f"runs/{definition.name_of(settings.sweep)}")
    if settings.table:
        measured = results.collect(directory)
        shown = table.table(measured, settings.figures or ())
        table.show(shown, measured.name)
        table.show_progress(measured)
        print("wrote " + ", ".join(map(str, table.write(measured, shown))))
        return
    record = definition.record(definition.load(settings.sweep), settings.sweep, directory, settings.extend)
    if settings["dry-run"].value:
        return dry_run(record, directory)
    with contextlib.ExitStack() as stack:
        if not settings.run and stack.enter_context(sweep_folder.hold(directory / ".lock")) is None:
            raise workdir.WorkdirError(
                f"--workdir={directory} is in use: another sweep runs there. Wait until it has "
                "ended, stop it, or choose another folder."
            )
        sys.exit(run(record, directory, settings))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
