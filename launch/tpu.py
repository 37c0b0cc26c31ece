r"""Runs one command on every host of a Cloud TPU pod.

The command is sent by `gcloud compute tpus tpu-vm ssh --worker=all`. DIFFUSION_COORDINATOR=auto tells each process that
it is one of several; on a pod, jax.distributed finds the others itself. DIFFUSION_HEARTBEAT_SECONDS and
DIFFUSION_SHUTDOWN_SECONDS are passed on to the hosts if they are set here, since ssh does not pass environment
variables.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys

from diffusion.launch import command as launcher
from diffusion.launch.command import argument

EXAMPLE = """example:
  diffusion launch tpu --name=my-pod --zone=us-east5-a --directory=diffusion -- \\
    .venv/bin/diffusion train --config=imagenet256_dit --workdir=/mnt/filestore/runs/xl2"""
OWN = re.compile(r"--(command|worker|zone|project|dry-run)([= ].*)?")  # flags of gcloud that this launcher writes
PASSED_ON = ("DIFFUSION_HEARTBEAT_SECONDS", "DIFFUSION_SHUTDOWN_SECONDS")  # see docs/scale.md


pod = argument(
    "([A-Za-z_][A-Za-z0-9_.-]*@)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
    "at most 63 small letters, digits and -, with a letter first and a letter or digit last; USER@ may stand before it",
)
zone = argument("[a-z]+(-[a-z]+)+[0-9]+-[a-z]", "a zone, which is a region and a letter, such as us-east5-a")
project = argument("([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id: 6 to 30 small letters, digits and -")


def flag(text: str) -> str:
    """An argument that is a further flag of gcloud; flags that this launcher writes itself are refused."""
    if not re.fullmatch(r"--[a-z].*", text) or OWN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a flag of `gcloud compute tpus tpu-vm ssh`, e.g. --internal-ip, that the launcher does "
            "not set itself"
        )
    return text


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "tpu",
        "Run COMMAND on every host of a TPU pod. The library, and COMMAND's files, must lie there already;\n"
        "the workdir must be on a file system that all hosts share, not in a bucket.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("--name", type=pod, required=True, metavar="NAME", help="name of the TPU VM, or USER@NAME")
    add("--zone", type=zone, required=True, metavar="ZONE", help="zone of the TPU VM")
    add(
        "--project",
        type=project,
        metavar="PROJECT",
        help="project of the TPU VM (default: the current project of gcloud)",
    )
    add(
        "--directory",
        metavar="DIR",
        help="folder to run in, absolute or relative to the home directory (default: the home directory)",
    )
    add(
        "--gcloud",
        type=flag,
        action="append",
        default=[],
        metavar="FLAG",
        help="any other flag of gcloud, e.g. --gcloud=--internal-ip; may be repeated",
    )
    add("--dry-run", action="store_true", help="print the command line and run nothing")
    return launcher.parse(parser, argv)


def _remote(directory: str | None, command: list[str]) -> str:
    """The line that the shell of each host runs; the directory is relative to the home directory."""
    limits = [f"{name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)]
    variables = shlex.join(["DIFFUSION_COORDINATOR=auto", "PYTHONUNBUFFERED=1", *limits])
    steps = ["export " + variables, "exec " + shlex.join(command)]
    if directory not in (None, "~", "~/"):
        steps.insert(0, "cd -- " + shlex.quote(directory.removeprefix("~/")))
    return " && ".join(steps)


def _command_line(options: argparse.Namespace, command: list[str]) -> list[str]:
    """The words of the gcloud command that runs `command` on all hosts."""
    words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", options.name, f"--zone={options.zone}", "--worker=all"]
    words += [f"--project={options.project}"] if options.project else []
    return [*words, *options.gcloud, f"--command={_remote(options.directory, command)}"]


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    words = _command_line(options, command)
    if options.dry_run:
        print(shlex.join(words))
        return 0
    if shutil.which("gcloud") is None:
        print(
            "diffusion launch tpu: there is no gcloud on PATH. Install the Google Cloud SDK, or use --dry-run to "
            "see the command line.",
            file=sys.stderr,
        )
        return 127
    return launcher.exit_status(subprocess.run(words).returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
