r"""Writes the JobSet manifest of a `jax.distributed` job for Kubernetes, as JSON, and creates it.

Each pod receives the unchanged command and three environment variables, with which diffusion train joins the job. The
coordinator is pod 0, addressed by its name in the headless service of the JobSet. DIFFUSION_PROCESS_INDEX is the index
of the pod in its job. When a pod fails, JobSet restarts all pods. A preemption does not count towards the limit of
restarts, and a mistake in the command or the config is not tried again (JobSet 0.10 or later). The manifest contains no
secrets.
"""

import argparse
import functools
import json
import re
import sys
from typing import Any

from diffusion.launch import command as launcher
from diffusion.launch.command import argument, natural, positive

EXAMPLE = """example:
  diffusion launch kubernetes --name=xl2 --image=registry.example.com/diffusion:1 --pods=4 --gpus=8 \\
    --volume=runs:/runs --secret-env=WANDB_API_KEY=wandb:key -- \\
    diffusion train --config=imagenet256_dit --workdir=/runs/xl2"""
SECRET_NAME = re.compile("TOKEN|KEY|SECRET|PASSWORD")
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
PORT = 8476  # the port of the coordinator, on pod 0
WORKER = "worker"  # the name of the only replicated job, whose pods are the processes
INDEX = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
MISTAKES = (2, 126, 127)  # exit statuses: a mistake in the config or the command line; a program that cannot be run


label = argument(LABEL, "a DNS-1123 label: at most 63 small letters, digits and -, a letter or digit at both ends")
job_name = argument(
    f"(?=[a-z]){LABEL}",
    "a DNS-1123 label that starts with a letter: at most 63 small letters, digits and -, a letter or digit at its end",
)
image = argument(r"[\w][\w.:/@-]*", "the name of a container image")
quantity = argument(r"[0-9]+(\.[0-9]+)?(m|[kMGTP]i?)?", "a Kubernetes quantity, e.g. 16, 500m or 200Gi")
selector = argument(rf"({LABEL}(\.{LABEL})*/)?[A-Za-z0-9][\w.-]*=[A-Za-z0-9][\w.-]*", "KEY=VALUE of a node's label")
volume = argument(rf"{LABEL}:/[\w./-]*", "CLAIM:/PATH, the name of a PersistentVolumeClaim and where it shall appear")
secret = argument(
    rf"[A-Za-z_]\w*={LABEL}(\.{LABEL})*:[\w.-]+",
    "NAME=SECRET:KEY, where SECRET is a Secret of the cluster and KEY one of its keys; never the value itself",
    repeat=False,
)


def variable(text: str) -> str:
    """An argument NAME=VALUE for the environment; one that looks like a secret is refused, without repeating it."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError("must be NAME=VALUE, the name of a variable and its value")
    if SECRET_NAME.search(name.upper()) or launcher.SECRET_VALUE.search(value):
        raise argparse.ArgumentTypeError(
            f"{name} looks like a secret, which must not appear in a manifest. Put it into a Secret of the cluster "
            f"and pass --secret-env={name}=SECRET:KEY"
        )
    return text


def add_pod(parser: argparse.ArgumentParser) -> None:
    """Adds the options that describe a pod, and those of `command.add_output`."""
    add = parser.add_argument
    add("--gpus", type=positive, metavar="G", help="number of GPUs per pod (nvidia.com/gpu); by default none")
    add(
        "--tpus",
        type=positive,
        metavar="T",
        help="number of TPU chips per pod (google.com/tpu); needs --node-selector on GKE",
    )
    add("--cpu", type=quantity, metavar="C", help="CPU cores per pod")
    add("--memory", type=quantity, metavar="M", help="memory per pod, e.g. 200Gi")
    add("--namespace", type=label, metavar="NAME", help="Kubernetes namespace (default: that of kubectl)")
    several = functools.partial(add, action="append", default=[])
    place = "label that the nodes must have, e.g. cloud.google.com/gke-tpu-topology=2x4; may be repeated"
    several("--node-selector", type=selector, metavar="KEY=VALUE", help=place)
    claim = "PersistentVolumeClaim to mount, such as that of the workdir; may be repeated"
    several("--volume", type=volume, metavar="CLAIM:/PATH", help=claim)
    several("--env", type=variable, metavar="NAME=VALUE", help="environment variable for the pods; may be repeated")
    held = "environment variable whose value is stored in a Secret of the cluster; may be repeated"
    several("--secret-env", type=secret, metavar="NAME=SECRET:KEY", help=held)
    add(
        "--grace",
        type=positive,
        default=120,
        metavar="SECONDS",
        help="seconds between SIGTERM and SIGKILL, in which the run saves its state (default: 120)",
    )
    launcher.add_output(parser, "manifest")


def check_pod(parser: argparse.ArgumentParser, options: argparse.Namespace, command: list[str]) -> None:
    """Ends a launcher with an error for a secret, a variable that is set twice, or GPUs and TPUs in one pod."""
    launcher.refuse_secrets(
        parser,
        command,
        "a manifest must not hold: let the program read it from a variable, and give --secret-env=NAME=SECRET:KEY",
    )
    names = [text.partition("=")[0] for text in options.env + options.secret_env]
    for name in names:
        if names.count(name) > 1 or re.fullmatch("DIFFUSION_(COORDINATOR|PROCESS_.*)", name):
            parser.error(f"variable {name} is set twice, or the launcher sets it itself. Valid: another name, once")
    if options.gpus and options.tpus:
        parser.error("--gpus and --tpus exclude each other, since a pod has one or the other")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's options, up to `--`, and the words of the command after it."""
    parser = launcher.parser(
        "kubernetes", "Run COMMAND in every pod of a Kubernetes JobSet, as one jax.distributed job.", EXAMPLE
    )
    add = parser.add_argument
    add("--name", type=job_name, required=True, metavar="NAME", help="name of the JobSet")
    add("--image", type=image, required=True, metavar="IMAGE", help="container image that contains the library")
    add("--pods", type=positive, default=1, metavar="N", help="number of pods, with one process each (default: 1)")
    add_pod(parser)
    add("--max-restarts", type=natural, default=3, metavar="R", help="number of restarts after failures (default: 3)")
    options, command = launcher.parse(parser, argv)
    check_pod(parser, options, command)
    check_names(parser, options.name, f"-{WORKER}-0-{options.pods - 1}")
    return options, command


def check_names(parser: argparse.ArgumentParser, name: str, end: str) -> None:
    """Ends a launcher with an error if a pod's name is too long: NAME, `end`, and a hyphen with 5 letters."""
    beyond = len(f"{name}{end}-12345") - 63
    if beyond > 0:
        parser.error(f"--name={name} is {beyond} letters too long, since the pods' names must fit in 63 letters")


def _literal(text: str) -> str:
    return text.replace("$", "$$")  # Kubernetes reads $(NAME) as a variable, and $$ as a dollar


def environment(options: argparse.Namespace) -> list[dict]:
    """The variables of a container: those of the launcher, then those of the user."""
    host = f"{options.name}-{WORKER}-0-0.{options.name}"  # pod 0, in the JobSet's headless service
    plain = {
        "DIFFUSION_COORDINATOR": f"{host}:{PORT}",
        "DIFFUSION_PROCESS_COUNT": str(options.pods),
        "PYTHONUNBUFFERED": "1",
    } | dict(text.split("=", 1) for text in options.env)
    return variables(plain, options.secret_env, {"name": "DIFFUSION_PROCESS_INDEX", "valueFrom": INDEX})


def variables(plain: dict[str, str], secret_env: list[str], index: dict) -> list[dict]:
    """The variables of a container: plain ones, the index of its pod, and variables from a Secret."""
    named: list[dict[str, Any]] = [{"name": name, "value": _literal(value)} for name, value in plain.items()]
    named.append(index)
    for text in secret_env:
        name, _, where = text.partition("=")
        key = dict(zip(("name", "key"), where.split(":")))
        named.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    return named


def pod(options: argparse.Namespace, command: list[str], env: list[dict]) -> dict:
    """The specification of a pod that runs `command` once, with these variables."""
    values = {"nvidia.com/gpu": "gpus", "google.com/tpu": "tpus", "cpu": "cpu", "memory": "memory"}
    amounts = {name: str(getattr(options, key)) for name, key in values.items() if getattr(options, key) is not None}
    claims = [text.partition(":")[::2] for text in options.volume]
    volumes = [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": claim}} for i, (claim, _) in enumerate(claims)]
    mounts = [{"name": f"v{i}", "mountPath": path} for i, (_, path) in enumerate(claims)]
    if options.gpus:  # NCCL needs more shared memory than the 64 MiB that a container has
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    container = {
        "name": WORKER,
        "image": options.image,
        "command": [_literal(word) for word in command],
        "env": env,
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": mounts,
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "containers": [container],
        "volumes": volumes,
        "nodeSelector": dict(text.split("=") for text in options.node_selector),
    }


def failure_policy(mistake: str, saved: str) -> dict:
    """The policy for a pod that failed.

    Args:
        mistake: the action after a mistake in the command or the config.
        saved: the action after a pod that saved its state and stopped, or lost its node.
    """
    exits = lambda *values: {"containerName": WORKER, "operator": "In", "values": list(values)}
    return {
        "rules": [
            {"action": mistake, "onExitCodes": exits(*MISTAKES)},
            {"action": saved, "onExitCodes": exits(launcher.SAVED)},
            {"action": saved, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }


def metadata(options: argparse.Namespace) -> dict[str, str]:
    """The metadata of a job: its name, and its namespace if the options name one."""
    return {"name": options.name} | ({"namespace": options.namespace} if options.namespace else {})


def manifest(options: argparse.Namespace, command: list[str]) -> dict:
    """The JobSet that runs `command`, as the content of its JSON; the arguments are the result of `parse`."""
    template = pod(options, command, environment(options))
    job = {
        "completionMode": "Indexed",
        "completions": options.pods,
        "parallelism": options.pods,
        "backoffLimit": 0,
        "podFailurePolicy": failure_policy("FailJob", "FailJob"),
        "template": {"spec": template},
    }
    matched = {"onJobFailureReasons": ["PodFailurePolicy"]}  # only the message says which rule matched
    mistake = {
        "name": "mistake",
        "action": "FailJobSet",
        **matched,
        "onJobFailureMessagePatterns": ["matching FailJob rule at index 0$"],
    }
    preempted = {"name": "preempted", "action": "RestartJobSetAndIgnoreMaxRestarts", **matched}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata(options),
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": options.name},
            "failurePolicy": {"maxRestarts": options.max_restarts, "rules": [mistake, preempted]},
            "replicatedJobs": [{"name": WORKER, "replicas": 1, "template": {"spec": job}}],
        },
    }


def create(module: str, manifest: dict, options: argparse.Namespace) -> int:
    """Creates the object of a manifest, or prints or writes it as the options say; returns the exit status."""
    text = json.dumps(manifest, indent=2) + "\n"
    kubectl = ["kubectl", "create", "-f", "-"]
    return launcher.hand_over(module, text, options, kubectl, "create the job with: kubectl create -f", "manifest")


def main(argv: list[str]) -> int:
    """Runs the launcher on arguments without the program's name; returns the exit status."""
    options, command = parse(argv)
    return create("kubernetes", manifest(options, command), options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
