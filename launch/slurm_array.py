r"""Writes the sbatch file of a sweep as a SLURM array, one task for each run, and submits it.

Task i runs COMMAND with --run=i at its end, a flag of diffusion sweep. A task that saves its state at the time limit or
before a preemption is requeued, as with diffusion launch slurm. A task that fails does not end other tasks. To try the
failed runs again, submit the same array again: tasks whose run is done end at once.
"""

import argparse
import re
import shlex
import sys

from diffusion.launch import command as launcher, slurm
from diffusion.launch.command import argument, positive

EXAMPLE = """example:
  diffusion launch slurm_array --runs=45 --at-once=8 --gpus-per-task=1 --time=2:00:00 -- \\
    diffusion sweep --sweep=digits_weightings --workdir=/shared/runs/weightings"""
# The SLURM_JOB_ID of an array's last task is the id of the array, which squeue and scontrol take for all of its tasks.
TASK = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
SCRIPT = (
    """#!/bin/bash
{directives}

set -euo pipefail
status=0
srun {options} {command} --run="$SLURM_ARRAY_TASK_ID" || status=$?
"""
    + slurm.TURNS
)


# The format in which SLURM names tasks.
indices = argument("[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*", "numbers and ranges, e.g. 3,7,10-12")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "slurm_array",
        "Run COMMAND --run=I for each run of a sweep, as a SLURM array. The tasks have this folder and\n"
        "this environment. At the time limit a run saves its state, and its task is requeued.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("--runs", type=positive, required=True, metavar="N", help="number of runs in the sweep, as its --dry-run shows")
    add("--only", type=indices, metavar="I,J-K", help="run only these runs of the sweep, e.g. 3,7,10-12")
    add("--at-once", type=positive, metavar="N", help="largest number of tasks at the same time (default: all)")
    add("--gpus-per-task", type=positive, metavar="G", help="GPUs per run (default: none)")
    add("--cpus-per-task", type=positive, metavar="C", help="CPU cores per run")
    slurm.add_usual(parser, "slurm-%A_%a.out", "%%A = job id, %%a = index of the run")
    options, command = launcher.parse(parser, argv)
    slurm.check_usual(parser, options, command)
    launcher.no_run(parser, command)
    beyond = [index for index in re.findall("[0-9]+", options.only or "") if int(index) >= options.runs]
    if beyond:
        parser.error(
            f"--only={options.only} names run {beyond[0]}, but the runs of --runs={options.runs} are 0 to "
            f"{options.runs - 1}"
        )
    for first, last in re.findall("([0-9]+)-([0-9]+)", options.only or ""):
        if int(last) < int(first):
            parser.error(f"--only={options.only}: {first}-{last} ends before it begins")
    return options, command


def script(options: argparse.Namespace, command: list[str]) -> str:
    """The sbatch file, a bash script whose comments state what the tasks need; the arguments are those of `parse`."""
    tasks = options.only or f"0-{options.runs - 1}"
    limit = f"%{options.at_once}" if options.at_once else ""
    srun = ["--ntasks=1", *([f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else [])]
    return SCRIPT.format(
        directives=slurm.directives(
            options,
            array=tasks + limit,
            nodes=1,
            ntasks=1,
            gpus_per_task=options.gpus_per_task,
            cpus_per_task=options.cpus_per_task,
        ),
        options=" ".join(srun),
        command=shlex.join(command),
        saved=launcher.SAVED,
        job=TASK,
        turns=options.max_requeues,
    )


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    return slurm.submit("slurm_array", script(options, command), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
