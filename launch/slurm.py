r"""Writes the sbatch file of a `jax.distributed` job for SLURM, and submits it.

Each task receives the unchanged command and three environment variables, with which diffusion train joins the job:
DIFFUSION_COORDINATOR (the first host of the job, and a port computed from the job id), DIFFUSION_PROCESS_COUNT and
DIFFUSION_PROCESS_INDEX. With GPUs it also receives JAX_LOCAL_DEVICE_IDS, without which JAX uses only one GPU per
process inside SLURM. SLURM sends SIGTERM to the tasks before the time limit and on preemption. A run that then saves
its state and exits with 143 is requeued, unless it was cancelled, and its log continues in the same file. After any
other end (a mistake in the config, a non-finite loss) the job is not requeued.
"""

import argparse
import pathlib
import re
import shlex
import sys

from diffusion.launch import command as launcher
from diffusion.launch.command import argument, positive

EXAMPLE = """example:
  diffusion launch slurm --nodes=2 --gpus-per-node=8 --partition=gpu --time=12:00:00 --cpus-per-task=32 -- \\
    diffusion train --config=imagenet256_dit --workdir=/shared/runs/xl2"""
OWN = re.compile(  # options of sbatch that this launcher writes, or that would change what the tasks see
    r"--(nodes|n?tasks.*|gpu.*|gres.*|cpus-per-(task|gpu)|signal|requeue|no-requeue|open-mode|job-name|partition|time|"
    r"output|array|account|distribution|wrap)([= ].*)?"
)
TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?")

# Double braces are for str.format, which leaves single ones.
TURNS = """
# {saved}: saved after SIGTERM, at the time limit or preempted. A job that was cancelled is no longer RUNNING.
job={job}
if [ "$status" = {saved} ] && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {turns} ]; then
    echo "saved; back into the queue: scontrol requeue $job"
    scontrol requeue "$job"
  else
    echo "saved, but this was turn $((SLURM_RESTART_COUNT + 1)), more than --max-requeues={turns} allows" >&2
  fi
fi
exit "$status"
"""
SCRIPT = (
    """#!/bin/bash
{directives}

set -euo pipefail
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
coordinator="${{hosts%%$'\\n'*}}:$((20000 + SLURM_JOB_ID % 10000))"

# Runs in every task. The coordinator is an argument: srun passes no variables on under --export=NONE.
task='
export DIFFUSION_COORDINATOR=$1 DIFFUSION_PROCESS_COUNT=$SLURM_NTASKS DIFFUSION_PROCESS_INDEX=$SLURM_PROCID
export PYTHONUNBUFFERED=1
shift
{devices}exec "$@"'

status=0
srun {options} bash -c "$task" task "$coordinator" {command} || status=$?
"""
    + TURNS
)


duration = argument(TIME.pattern, "minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, for example 12:00:00")
name = argument("[A-Za-z0-9_][A-Za-z0-9_.+@,-]*", "of letters, digits and _ . + @ , - and not start with -")
log_pattern = argument(r"[\w./%+=@-]+", "a file name without spaces and quotes, for example logs/%j.out")


def seconds(text: str) -> int:
    """The number of seconds of a time that `duration` accepts."""
    matched = TIME.fullmatch(text)
    assert matched is not None, text
    days, *parts = matched.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:
        numbers = [0, *numbers]  # without days and seconds, the first number is minutes
    hours, minutes, rest = [*numbers, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def directive(text: str) -> str:
    """An argument that is one more option of sbatch; the options that this launcher writes itself are refused."""
    if OWN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: the launcher sets this itself; --help lists its options")
    return argument(r"--[a-z][^\n\r]*", "an option of sbatch in its long form, for example --mem=200G")(text)


def add_usual(parser: argparse.ArgumentParser, log: str, words: str) -> None:
    """Adds the options that all our sbatch files have; `words` say what stands for what in the name of the log."""
    add = parser.add_argument
    add("--partition", type=name, metavar="NAME", help="partition, or several separated by commas")
    add("--account", type=name, metavar="NAME", help="account to charge")
    add("--time", type=duration, metavar="TIME", help="time limit of one job, e.g. 90 (minutes), 12:00:00 or 2-00")
    add(
        "--grace",
        type=positive,
        default=120,
        metavar="SECONDS",
        help="seconds before the time limit at which SIGTERM is sent, so that the run saves its state (default: 120)",
    )
    add(
        "--max-requeues",
        type=positive,
        default=1000,
        metavar="N",
        help="largest number of times that the job is requeued (default: 1000)",
    )
    add("--job-name", type=name, default="diffusion", metavar="NAME", help="name of the job (default: diffusion)")
    add(
        "--log",
        type=log_pattern,
        default=log,
        metavar="FILE",
        help=f"file of the log (default: {log.replace('%', '%%')}; {words})",
    )
    add(
        "--sbatch",
        type=directive,
        action="append",
        default=[],
        metavar="OPTION",
        help="any other option of sbatch, e.g. --sbatch=--mem=200G; may be repeated",
    )
    launcher.add_output(parser, "sbatch file")


def check_usual(parser: argparse.ArgumentParser, options: argparse.Namespace, command: list[str]) -> None:
    """Ends a launcher with an error for a secret in the command, or a time limit that is not longer than the grace."""
    launcher.refuse_secrets(
        parser,
        command,
        "a file must not hold, and other users see in the list of processes: let "
        "the program read it from a variable, which the tasks have too",
    )
    if options.time is not None and seconds(options.time) <= options.grace:
        parser.error(
            f"--time={options.time} is {seconds(options.time)} s, but --grace={options.grace} takes up all of it. "
            "Choose a longer time or a shorter grace"
        )


def directives(options: argparse.Namespace, **others: object) -> str:
    """The lines of an sbatch file that state what a job needs.

    Args:
        options: the options of `add_usual`.
        **others: further options of sbatch, with "_" for "-"; those that are None are left out.
    """
    usual = {
        "job_name": options.job_name,
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "output": options.log,
        "open_mode": "append",
        "signal": f"TERM@{options.grace}",
    }
    lines = [f"--{key.replace('_', '-')}={value}" for key, value in (others | usual).items() if value is not None]
    return "\n".join(f"#SBATCH {line}" for line in [*lines, "--requeue", *options.sbatch])


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "slurm",
        "Run COMMAND in every task of a SLURM job, as one jax.distributed job. The tasks have this\n"
        "folder and this environment. At the time limit the run saves its state, and the job is requeued.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("--nodes", type=positive, default=1, metavar="N", help="number of nodes (default: 1)")
    add("--tasks-per-node", type=positive, default=1, metavar="T", help="processes on each node (default: 1)")
    add(
        "--gpus-per-node", type=positive, metavar="G", help="GPUs on each node, divided among its tasks (default: none)"
    )
    add("--cpus-per-task", type=positive, metavar="C", help="CPU cores for each task")
    add_usual(parser, "slurm-%j.out", "%%j = job id")
    options, command = launcher.parse(parser, argv)
    check_usual(parser, options, command)
    if options.gpus_per_node is not None and options.gpus_per_node % options.tasks_per_node:
        parser.error(
            f"--gpus-per-node={options.gpus_per_node} does not divide evenly over "
            f"--tasks-per-node={options.tasks_per_node}. Valid: a multiple of the tasks"
        )
    return options, command


def script(options: argparse.Namespace, command: list[str]) -> str:
    """The sbatch file, a bash script whose comments state what the job needs; the arguments are those of `parse`."""
    devices = ""
    if options.gpus_per_node is not None:
        per_task = options.gpus_per_node // options.tasks_per_node
        ids = f"$(seq -s , $((SLURM_LOCALID * {per_task})) $((SLURM_LOCALID * {per_task} + {per_task - 1})))"
        devices = f"export JAX_LOCAL_DEVICE_IDS={ids}\n"
    srun = ["--kill-on-bad-exit=1"]  # a failed task ends the others
    srun += ["--label"] if options.nodes * options.tasks_per_node > 1 else []
    srun += [f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []  # srun does not inherit it
    return SCRIPT.format(
        directives=directives(
            options,
            nodes=options.nodes,
            ntasks_per_node=options.tasks_per_node,
            gpus_per_node=options.gpus_per_node,
            cpus_per_task=options.cpus_per_task,
        ),
        devices=devices,
        options=" ".join(srun),
        command=shlex.join(command),
        saved=launcher.SAVED,
        job="$SLURM_JOB_ID",
        turns=options.max_requeues,
    )


def submit(module: str, text: str, options: argparse.Namespace) -> int:
    """Submits an sbatch file, or prints or writes it as the options say; returns the exit status.

    The folder of the log is made first. SLURM does not make it, and a job whose log cannot be written fails silently.
    """
    folder = pathlib.Path(options.log).parent
    elsewhere = any(option.startswith("--chdir") for option in options.sbatch)
    if not (options.dry_run or elsewhere or "%" in str(folder)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"diffusion launch {module}: cannot make {folder} for --log: {error.strerror}", file=sys.stderr)
            return 1
    return launcher.hand_over(module, text, options, ["sbatch"], "submit it with: sbatch", "sbatch file")


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    return submit("slurm", script(options, command), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
