"""Runs many trainings, or many samplings of one, by a file that names what varies; goes on where it was stopped.

    python -m experiments.sweep --sweep=configs/sweeps/digits_weightings.py --dry-run
    python -m experiments.sweep --sweep=configs/sweeps/digits_weightings.py --workdir=runs/weightings --jobs=2
    python -m experiments.sweep --workdir=runs/weightings --table --figures=fd_pixels,asked_class

Each run has a folder DIR/NAME, named by what differs, and its commands (train, sample, evaluate by default) are
ordinary ones, which --dry-run shows. A run that fails is left, and the others go on; --retry=1 tries failed runs once
more, also those of an earlier time. Ctrl-C or SIGTERM asks the running ones to save, and ends the sweep; the same
command goes on with all of them. --table works while the sweep runs, and writes table.md, table.csv and runs.csv.

On a cluster each task runs one: --run=INDEX (launch/slurm_array.py, launch/kubernetes_array.py). See docs/sweeps.md.

Exit status: 0 all runs are done; 1 some failed, or were stopped by someone else; 2 a mistake, before anything started;
130 after Ctrl-C, 143 after SIGTERM. With --run that of the run's command.
"""

import contextlib
import pathlib
import queue
import shlex
import signal
import sys
from collections.abc import Sequence

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from diffusion.training.runtime import preemption
from experiments import config as configs
from experiments.config import ConfigError
from experiments.run_folder import workdir
from experiments.sweeps import definition, devices, naming, results, runner, state, table
from experiments.sweeps.display import Display
from experiments.sweeps.report_following import following


def dry_run(record: state.Record, directory: pathlib.Path, console: Console) -> None:
    """Prints the runs, what each sets, and the commands of the first."""
    called = naming.labels(record.varies)
    shown = Table(title=f"{record.name}: {len(record.runs)} runs in {directory}", title_justify="left")
    shown.add_column("", justify="right", style="dim")
    for name in called.values():
        shown.add_column(name)
    shown.add_column("status", style="dim")
    for index, plan in enumerate(record.runs):
        values = [naming.text(plan.overrides[field]) if field in plan.overrides else "" for field in called]
        shown.add_row(str(index), *values, state.status(directory / plan.name, len(plan.commands)).status)
    console.print(shown)
    first = record.runs[0]
    console.print(f"Commands of run 0, {first.name}:", markup=False)
    for words in state.commands(directory, first):
        console.print(f"  {shlex.join(words)}", markup=False)


def chosen(record: state.Record, run: str) -> list[state.Plan]:
    """The runs that --run names: all of them, or one by its index or name.

    Raises:
        ConfigError: if there is no such run.
    """
    if not run:
        return record.runs
    names = [plan.name for plan in record.runs]
    if run.isdigit() and int(run) < len(names):
        return [record.runs[int(run)]]
    if run in names:
        return [record.runs[names.index(run)]]
    raise ConfigError(f"--run={run}: the sweep has no such run. Valid: 0 .. {len(names) - 1}, or a run's name.")


def tries(plans: Sequence[state.Plan], directory: pathlib.Path, retry: int, asked_for: bool) -> dict[str, int]:
    """How often each run may be begun: not if it is done, and a failed one only by --retry, or where it is asked for.

    Args:
        plans: the runs.
        directory: of the sweep.
        retry: attempts after a failure.
        asked_for: whether --run names the run.
    """
    found = {}
    for plan in plans:
        status = state.status(directory / plan.name, len(plan.commands)).status
        fresh = status != state.FAILED or asked_for
        found[plan.name] = 0 if status == state.DONE else retry + fresh
    return found


def run(record: state.Record, directory: pathlib.Path, given: flags.FlagValues) -> int:
    """Runs what is not done; returns the exit status."""
    plans = chosen(record, given.run)
    gpus = given.devices if given.devices is not None else devices.found_gpus()
    jobs = 1 if given.run else given.jobs or len(gpus) or 1
    slots = (
        [devices.Slot({}, frozenset())]
        if given.run
        else devices.slots(jobs, gpus, devices.found_cores() if jobs > 1 else ())
    )
    definition.settle(directory, record)
    allowed = tries(plans, directory, given.retry, bool(given.run))
    told = lambda plan: state.told(directory / plan.name, len(plan.commands)).status
    before = [state.QUEUED if allowed[plan.name] else told(plan) for plan in plans]
    signals = queue.SimpleQueue()
    got = []

    def note(number, frame):
        if number in preemption.NOTICES:
            if got:
                return
            number = signal.SIGTERM
        got.append(number)
        signals.put(number)

    heard = [number for number in preemption.NOTICES if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, *heard)}
    try:
        counts = {status: before.count(status) for status in state.STATUSES}
        reporting = contextlib.nullcontext() if given.run else following(directory)  # a task is one of many
        with Display(counts, jobs) as display, reporting:
            display.say(f"{record.name}: {len(plans)} runs in {directory}, {jobs} at a time")
            if not given.run:
                display.say(f"To see how they do, open {directory / 'report.html'}: it follows them")
            stop = signal.SIGINT if given.run else signal.SIGTERM
            ended = runner.run(directory, plans, slots, allowed, display, signals, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return _conclude(record, plans, directory, ended, got, bool(given.run))


def _conclude(record, plans, directory, ended, got, single) -> int:
    """Says how the runs stand and what can be done; returns the exit status."""
    now = {plan.name: state.status(directory / plan.name, len(plan.commands)).status for plan in plans}
    count = {status: list(now.values()).count(status) for status in state.STATUSES}
    go_on = shlex.join(["python", "-m", "experiments.sweep", *sys.argv[1:]])
    print(", ".join(f"{number} {status}" for status, number in count.items() if number))
    if count[state.FAILED]:
        print(f"Failed runs are tried again with --retry=1; their output is in {directory}/NAME/output.log")
    if count[state.DONE] + count[state.FAILED] < len(plans):
        print(f"To go on:\n  {go_on}")
    if count[state.DONE] and not single:
        print(f"The figures: {configs.printed('sweep', f'--workdir={directory}', '--table')}")
    if count[state.DONE] == len(plans):
        return 0
    if got:
        return 128 + got[0]
    return ended.get(plans[0].name, 1) if single else 1


def main(argv: list[str]) -> None:
    """Runs the command line."""
    try:
        _main()
    except KeyboardInterrupt:  # before the first run was begun
        sys.exit(130)


def _main() -> None:
    jax.config.update("jax_platforms", "cpu")  # what is checked here needs no GPU, and must not take its memory
    given = flags.FLAGS
    console = Console(highlight=False, soft_wrap=True)
    if not given.sweep:
        if not given.workdir:
            raise ConfigError(
                "--sweep is missing: the sweep to run, e.g. --sweep=configs/sweeps/digits_weightings.py; "
                "or --workdir, with --table, of one that was begun."
            )
        if not given.table:
            given.sweep = state.read(pathlib.Path(given.workdir)).file
    directory = pathlib.Path(given.workdir or f"runs/{definition.name_of(given.sweep)}")
    if given.table:
        found = results.collect(directory)
        made = table.table(found, given.figures or ())
        table.show(made, found.name)
        print("wrote " + ", ".join(map(str, table.write(found, made))))
        return
    record = definition.record(definition.load(given.sweep), given.sweep, directory)
    if given["dry-run"].value:
        return dry_run(record, directory, console)
    with contextlib.ExitStack() as stack:
        if not given.run and stack.enter_context(state.hold(directory / ".lock")) is None:
            raise workdir.WorkdirError(
                f"--workdir={directory} is in use: another sweep runs there. Wait until it has "
                "ended, stop it, or choose another folder."
            )
        sys.exit(run(record, directory, given))


if __name__ == "__main__":
    flags.DEFINE_string("sweep", None, "file of the sweep, with its preset, e.g. configs/sweeps/digits_weightings.py")
    flags.DEFINE_string("workdir", None, "folder of the sweep, made if missing; runs/NAME by default")
    flags.DEFINE_integer("jobs", None, "runs side by side; by default one for each GPU, or one")
    flags.DEFINE_list("devices", None, "GPUs to deal out to them, e.g. 0,1,2,3; by default all; 0,0 shares one")
    flags.DEFINE_integer("retry", 0, "attempts more for a run that failed, also before", lower_bound=0)
    flags.DEFINE_string("run", "", "one run alone, by its index or name, as a task of a cluster has it")
    flags.DEFINE_bool("dry-run", False, "show the runs and run nothing")
    flags.DEFINE_bool("table", False, "show and write the table of the figures so far, and run nothing")
    flags.DEFINE_list("figures", None, "of the table, e.g. fd_pixels,loss; or all")
    configs.run(main, workdir.FAILURES)
