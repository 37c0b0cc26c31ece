"""The Kubernetes launcher: the manifest's structure, what a pod gets, and that no secret is written."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from diffusion.launch import kubernetes
from tests import stand_ins
from tests.launch import schema

HARD = ["a b", "it's", '"quoted"', "$HOME $(HOME) $$(HOME) $$ `no`", "back\\slash\\n", "two\nlines", "", "*", "-x", "é"]
BASE = ["--name=xl2", "--image=registry.example.com/diffusion:1"]
TASK = """import json, os, sys
print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith(("DIFFUSION_", "MY_"))}]))
"""
NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # DNS-1035, the part of DNS-1123 that a service's name may use


def made(*argv: str) -> dict:
    """The manifest, by way of its text."""
    return json.loads(json.dumps(kubernetes.manifest(*kubernetes.parse([*BASE, *argv]))))


def pod_of(jobset: dict) -> dict:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def check(jobset: dict) -> None:
    """The fields that JobSet v1alpha2, batch/v1 Job and Pod require, with their types and the rules between them."""
    spec = jobset["spec"]
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"} and "name" in jobset["metadata"]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(spec) == {"network", "failurePolicy", "replicatedJobs"}
    assert spec["network"]["enableDNSHostnames"] is True and NAME.fullmatch(spec["network"]["subdomain"])
    assert spec["network"]["subdomain"] == "xl2"
    assert type(spec["failurePolicy"]["maxRestarts"]) is int and spec["failurePolicy"]["maxRestarts"] >= 0
    for rule in spec["failurePolicy"]["rules"]:
        assert set(rule) - {"onJobFailureMessagePatterns"} == {"name", "action", "onJobFailureReasons"}
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert set(rule["onJobFailureReasons"]) <= {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"}
    (replicated,) = spec["replicatedJobs"]
    assert set(replicated) == {"name", "replicas", "template"} and replicated["replicas"] == 1
    job = replicated["template"]["spec"]
    assert set(job) == {"completionMode", "completions", "parallelism", "backoffLimit", "podFailurePolicy", "template"}
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] >= 1 > job["backoffLimit"]
    assert NAME.fullmatch(f"{jobset['metadata']['name']}-{replicated['name']}-0-{job['completions'] - 1}-abcde")
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and type(pod["terminationGracePeriodSeconds"]) is int
    (container,) = pod["containers"]
    assert NAME.fullmatch(container["name"]) and container["image"]
    assert container["command"] and all(type(word) is str for word in container["command"])
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule["action"] == "FailJob" and len(rule) == 2
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]
            values = rule["onExitCodes"]["values"]
            assert rule["onExitCodes"]["operator"] == "In" and 0 not in values and values == sorted(set(values))
        else:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert len({entry["name"] for entry in container["env"]}) == len(container["env"])
    for entry in container["env"]:
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", entry["name"])
        assert set(entry) in ({"name", "value"}, {"name", "valueFrom"}) and type(entry.get("value", "")) is str
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert all(type(amount) is str for amount in container["resources"]["limits"].values())
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(type(value) is str for value in pod["nodeSelector"].values())


def expand(text: str, names: dict[str, str]) -> str:
    """What Kubernetes makes of a word: $$ is a dollar, $(NAME) a variable that exists, everything else stays."""
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda m: "$" if m[0] == "$$" else names.get(m[1], m[0]), text)


def run_pod(jobset: dict, index: int) -> list:
    """Runs the container's command as the kubelet of pod `index` would; returns what TASK prints."""
    (container,) = pod_of(jobset)["containers"]
    names = {"HOME": "/wrong"}
    for entry in container["env"]:
        if "value" in entry:
            names[entry["name"]] = expand(entry["value"], names)
        elif "fieldRef" in entry["valueFrom"]:
            assert "['batch.kubernetes.io/job-completion-index']" in entry["valueFrom"]["fieldRef"]["fieldPath"]
            names[entry["name"]] = str(index)
    words = [expand(word, names) for word in container["command"]]
    done = subprocess.run(words, env=names | stand_ins.environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


FULL = [
    "--pods=4",
    "--gpus=8",
    "--cpu=64",
    "--memory=900Gi",
    "--namespace=lab",
    "--volume=runs:/runs",
    "--volume=data:/data",
    "--node-selector=cloud.google.com/gke-accelerator=nvidia-h100-80gb",
    "--secret-env=WANDB_API_KEY=wandb:api.key",
    "--max-restarts=7",
    "--grace=300",
]


@pytest.mark.parametrize("argv", [[], FULL, ["--tpus=4", "--pods=16", "--max-restarts=0"], ["--pods=1000"]])
def test_structure(argv):
    jobset = made(*argv, "--", "python", "-m", "experiments.train", *HARD)
    check(jobset)
    assert schema.errors(jobset) == []


@pytest.mark.extended
@pytest.mark.parametrize(
    "change, error",
    [
        (lambda spec: spec.update(maxRestart=1), "'maxRestart' was unexpected"),
        (lambda spec: spec["failurePolicy"].update(maxRestarts="3"), "maxRestarts: '3' is not of type 'integer'"),
        (lambda spec: spec["failurePolicy"]["rules"][0].update(action="Restart"), "action: 'Restart' is not one of"),
        (lambda spec: spec["failurePolicy"]["rules"][0].update(name="a-b"), "name: 'a-b' does not match"),
        (lambda spec: spec["failurePolicy"]["rules"][0].pop("name"), "'name' is a required property"),
        (
            lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(completion=2),
            "'completion' was unexpected",
        ),
        (
            lambda spec: spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"][0].pop("action"),
            "'action' is a required property",
        ),
        (lambda spec: pod_of({"spec": spec})["containers"][0]["env"].append({"value": "x"}), "'name' is a required"),
        (lambda spec: pod_of({"spec": spec})["containers"][0].update(volumeMount=[]), "'volumeMount' was unexpected"),
        (lambda spec: pod_of({"spec": spec}).update(terminationGracePeriodSeconds=True), "True is not of type"),
    ],
)
def test_the_schemas_find_mistakes(change, error):
    jobset = made("--", "prog")
    change(jobset["spec"])
    (result,) = schema.errors(jobset)
    assert error in result


def test_each_pod_is_told_its_place_and_gets_the_command_unchanged():
    jobset = made("--pods=3", "--env=MY_X=a=b $(HOME) $$x", "--", sys.executable, "-c", TASK, *HARD)
    for index in range(3):
        words, names = run_pod(jobset, index)
        assert words == HARD
        assert names == {
            "DIFFUSION_COORDINATOR": "xl2-worker-0-0.xl2:8476",
            "DIFFUSION_PROCESS_COUNT": "3",
            "DIFFUSION_PROCESS_INDEX": str(index),
            "MY_X": "a=b $(HOME) $$x",
        }


def test_what_was_asked_is_in_the_manifest():
    jobset = made(*FULL, "--", "prog")
    pod, (container,) = pod_of(jobset), pod_of(jobset)["containers"]
    assert jobset["metadata"] == {"name": "xl2", "namespace": "lab"}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "cpu": "64", "memory": "900Gi"}
    assert pod["terminationGracePeriodSeconds"] == 300
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "emptyDir" not in v}
    assert {m["mountPath"]: claims.get(m["name"]) for m in container["volumeMounts"]} == {
        "/runs": "runs",
        "/data": "data",
        "/dev/shm": None,
    }
    secret = {"secretKeyRef": {"name": "wandb", "key": "api.key"}}
    assert {"name": "WANDB_API_KEY", "valueFrom": secret} in container["env"]
    assert pod_of(made("--tpus=4", "--", "prog"))["containers"][0]["resources"]["limits"] == {"google.com/tpu": "4"}


def outcome(jobset: dict, exit_code: int | None) -> str:
    """What JobSet does when a pod ends with an exit code, or is disrupted (None): the rules are tried in order.

    A job that fails by one of its own rules has the reason PodFailurePolicy and the message that names the rule.
    """
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for i, rule in enumerate(job["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes", {}).get("values", [])
        if exit_code in codes or (exit_code is None and "onPodConditions" in rule):
            what = f"Container worker for pod lab/xl2-worker-0-0-abcde failed with exit code {exit_code}"
            reason = "PodFailurePolicy"
            message = f"{what} matching FailJob rule at index {i}"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("exit_code", "action"),
    [
        (2, "FailJobSet"),
        (127, "FailJobSet"),
        (143, "RestartJobSetAndIgnoreMaxRestarts"),
        (None, "RestartJobSetAndIgnoreMaxRestarts"),
        (1, "RestartJobSet"),
        (137, "RestartJobSet"),
        (139, "RestartJobSet"),
    ],
)
def test_a_mistake_is_final_a_preemption_is_free_and_a_failure_counts(exit_code, action):
    assert outcome(made("--", "prog"), exit_code) == action


VALUE = "s3cr3t-value-of-ours"


@pytest.mark.parametrize(
    "argv",
    [
        [f"--env=WANDB_API_KEY={VALUE}", "--", "x"],
        [f"--env=hf_token={VALUE}", "--", "x"],
        [f"--env=DB_PASSWORD={VALUE}", "--", "x"],
        [f"--env=Secret_thing={VALUE}", "--", "x"],
        ["--env=HARMLESS=hf_" + "a" * 30, "--", "x"],
        ["--env=URL=https://me:" + VALUE + "@host/x", "--", "x"],
        [f"--env={VALUE}", "--", "x"],
        [f"--secret-env=API_KEY={VALUE}", "--", "x"],
        ["--", "x", f"--api_key={VALUE}"],
        ["--", "x", f"--config.wandb.api-key={VALUE}"],
        ["--", "x", "--token", VALUE],
        ["--", "env", f"WANDB_API_KEY={VALUE}", "x"],
        ["--", "x", "ghp_" + "a" * 36],
        ["--", "x", f"--password={VALUE}"],
    ],
)
def test_secrets_are_refused_and_not_repeated(argv, capsys):
    with pytest.raises(SystemExit) as end:
        kubernetes.parse([*BASE, *argv])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "secret" in err.lower() or "NAME=VALUE" in err
    assert VALUE not in err and "a" * 20 not in err


@pytest.mark.parametrize(
    "word",
    [
        "--config.model.class_token=True",
        "--config.model.tokens=256",
        "--config.seed.key=0",
        "--config.x.keys=a,b",
        "--config.model.num_token=16",
        "token",
        "--workdir=gs://bucket/secret/x",
        "--monkey=see",
    ],
)
def test_words_that_are_no_secrets(word):
    assert made("--", "x", word, "next")["kind"] == "JobSet"


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "there is no command"),
        (["--"], "there is no command"),
        (["--name=Big", "--", "x"], "DNS-1123"),
        (["--name=1st", "--", "x"], "starts with a letter"),
        (["--name=a_b", "--", "x"], "DNS-1123"),
        (["--name=a-", "--", "x"], "DNS-1123"),
        (["--name=" + "a" * 64, "--", "x"], "at most 63"),
        (["--name=" + "a" * 48, "--", "x"], "2 letters too long"),
        (["--name=a\nb", "--", "x"], "DNS-1123"),
        (["--namespace=a.b", "--", "x"], "DNS-1123"),
        (["--image=a b", "--", "x"], "container image"),
        (["--image=bücher", "--", "x"], "container image"),
        (["--pods=0", "--", "x"], "1 or more"),
        (["--gpus=two", "--", "x"], "'two'"),
        (["--gpus=1", "--tpus=1", "--", "x"], "a pod has one or the other"),
        (["--memory=lots", "--", "x"], "200Gi"),
        (["--max-restarts=-1", "--", "x"], "whole number"),
        (["--volume=runs", "--", "x"], "CLAIM:/PATH"),
        (["--node-selector=a", "--", "x"], "KEY=VALUE"),
        (["--env=1A=x", "--", "x"], "NAME=VALUE"),
        (["--env=A=1", "--env=A=2", "--", "x"], "A is set twice"),
        (["--env=DIFFUSION_PROCESS_INDEX=0", "--", "x"], "launcher sets"),
        (["python", "x.py"], "python"),
    ],
)
def test_bad_arguments(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        kubernetes.parse([*BASE, *argv])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_creates_through_kubectl(tmp_path, monkeypatch, capfd):
    (tmp_path / "kubectl").write_text(f'#!/bin/bash\ncat > {shlex.quote(str(tmp_path))}/got; echo "$@"; exit 3\n')
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert kubernetes.main([*BASE, "--", "prog", *HARD]) == 3
    assert json.loads((tmp_path / "got").read_text()) == made("--", "prog", *HARD)
    assert "create -f -" in capfd.readouterr().out


def test_dry_run_output_and_a_missing_kubectl(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "a job.json"
    assert kubernetes.main([*BASE, "--dry-run", f"--output={file}", "--", "prog"]) == 0
    assert json.loads(capsys.readouterr().out) == made("--", "prog") and not file.exists()
    assert kubernetes.main([*BASE, f"--output={file}", "--", "prog"]) == 0
    assert json.loads(file.read_text()) == made("--", "prog")
    assert f"kubectl create -f '{file}'" in capsys.readouterr().out
    assert kubernetes.main([*BASE, f"--output={tmp_path}/none/x", "--", "prog"]) == 1
    assert kubernetes.main([*BASE, "--", "prog"]) == 127
    err = capsys.readouterr().err
    assert "cannot write" in err and "--dry-run" in err and "--output=FILE" in err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        kubernetes.parse(["--help"])
    assert capsys.readouterr().out.rstrip().endswith("--workdir=/runs/xl2")
