r"""Writes the manifest of an indexed Job for Kubernetes, as JSON, and creates it: one pod for each run of a sweep.

Pod i runs COMMAND with --run=i at its end, a flag of diffusion sweep. A failed run is tried again --retries times and
does not end other runs. A mistake in the config of a run is not tried again. A preempted pod is replaced without using
an attempt, and its run continues from its saved state (Kubernetes 1.33 or later, or 1.29 with JobBackoffLimitPerIndex).
The manifest contains no secrets.
"""

import argparse
import sys

from diffusion.launch import command as launcher, kubernetes
from diffusion.launch.command import natural, positive

EXAMPLE = """example:
  diffusion launch kubernetes_array --name=weightings --image=registry.example.com/diffusion:1 --runs=45 --at-once=8 \\
    --gpus=1 --volume=runs:/runs -- \\
    diffusion sweep --sweep=digits_weightings --workdir=/runs/weightings"""
VARIABLE = "DIFFUSION_RUN"  # the variable that holds the index of a pod


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "kubernetes_array", "Run COMMAND --run=I for each run of a sweep, each in a pod of a Kubernetes Job.", EXAMPLE
    )
    add = parser.add_argument
    add("--name", type=kubernetes.job_name, required=True, metavar="NAME", help="name of the Job")
    add(
        "--image",
        type=kubernetes.image,
        required=True,
        metavar="IMAGE",
        help="container image that contains the library",
    )
    add("--runs", type=positive, required=True, metavar="N", help="number of runs in the sweep, as its --dry-run shows")
    add("--at-once", type=positive, metavar="N", help="largest number of pods at the same time (default: all)")
    add("--retries", type=natural, default=0, metavar="R", help="further attempts for a run that fails (default: 0)")
    kubernetes.add_pod(parser)
    options, command = launcher.parse(parser, argv)
    kubernetes.check_pod(parser, options, command)
    launcher.no_run(parser, command)
    if any(text.partition("=")[0] == VARIABLE for text in options.env + options.secret_env):
        parser.error(f"variable {VARIABLE} is set by the launcher itself. Leave it out")
    kubernetes.check_names(parser, options.name, f"-{options.runs - 1}")
    return options, command


def manifest(options: argparse.Namespace, command: list[str]) -> dict:
    """The Job that runs `command`, as the content of its JSON; the arguments are the result of `parse`."""
    plain = {"PYTHONUNBUFFERED": "1"} | dict(text.split("=", 1) for text in options.env)
    index = {"name": VARIABLE, "valueFrom": kubernetes.INDEX}
    pod = kubernetes.pod(options, command, kubernetes.variables(plain, options.secret_env, index))
    pod["containers"][0]["command"].append(f"--run=$({VARIABLE})")  # Kubernetes fills in the variable
    spec = {
        "completionMode": "Indexed",
        "completions": options.runs,
        "parallelism": options.at_once or options.runs,
        "backoffLimitPerIndex": options.retries,
        "podFailurePolicy": kubernetes.failure_policy("FailIndex", "Ignore"),
        "template": {"spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": kubernetes.metadata(options), "spec": spec}


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    return kubernetes.create("kubernetes_array", manifest(options, command), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
