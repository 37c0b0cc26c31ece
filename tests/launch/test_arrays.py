"""The launchers of sweeps: each task or pod runs one run, goes on where it saved, and ends no other."""

import json
import subprocess
import sys

import pytest

from diffusion.launch import kubernetes_array, slurm_array
from tests import stand_ins
from tests.launch import schema
from tests.launch.test_kubernetes import HARD as WORDS_OF_PODS, TASK as TASK_OF_PODS, expand
from tests.launch.test_slurm import HARD, SCONTROL, SRUN, TASK, put

SLURM = ["--runs=45", "--time=90"]
PODS = ["--name=sweep", "--image=registry.example.com/diffusion:1", "--runs=45"]


def sbatch(*argv: str) -> str:
    return slurm_array.script(*slurm_array.parse([*SLURM, *argv]))


def execute(tmp_path, *argv: str, index=7, state="RUNNING", restarts=None) -> subprocess.CompletedProcess:
    one = f"--noheader --jobs=99_{index} --format=%T"  # by its own number alone the last task means all of the array
    squeue = f'#!/bin/bash\necho {state}\n[ "$*" = "{one}" ] || echo {state}\n'
    path = put(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, squeue=squeue)
    file = tmp_path / "job.sbatch"
    file.write_text(sbatch(*argv))
    again = {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    message = {
        "SLURM_JOB_ID": "99",
        "SLURM_ARRAY_JOB_ID": "99",
        "SLURM_ARRAY_TASK_ID": str(index),
        "FAKE_NODES": "1",
        "FAKE_TASKS": "1",
    }
    return subprocess.run(
        ["bash", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env=stand_ins.environment(path) | message | again,
    )


def job(*argv: str) -> dict:
    """The manifest, by way of its text."""
    return json.loads(json.dumps(kubernetes_array.manifest(*kubernetes_array.parse([*PODS, *argv]))))


@pytest.mark.extended
def test_a_task_of_slurm_runs_the_run_of_its_index(tmp_path):
    done = execute(tmp_path, "--cpus-per-task=3", "--", sys.executable, "-c", TASK, *HARD)
    assert done.returncode == 0, done.stderr
    words, message = json.loads(done.stdout.splitlines()[-1])
    assert words == [*HARD, "--run=7"] and message == {}  # a process by itself, that joins no job
    assert "option --cpus-per-task=3" in done.stdout


@pytest.mark.parametrize(
    "argv, line",
    [
        ([], "--array=0-44"),
        (["--at-once=8"], "--array=0-44%8"),
        (["--only=3,7,10-12", "--at-once=2"], "--array=3,7,10-12%2"),
        (["--gpus-per-task=2"], "--gpus-per-task=2"),
        ([], "--signal=TERM@120"),
        ([], "--requeue"),
        ([], "--time=90"),
        ([], "--output=slurm-%A_%a.out"),
        (["--sbatch=--mem=20G"], "--mem=20G"),
    ],
)
def test_what_slurm_is_told(argv, line):
    assert f"#SBATCH {line}" in sbatch(*argv, "--", "x").splitlines()


@pytest.mark.extended
@pytest.mark.parametrize(
    "status, state, restarts, requeued",
    [
        (143, "RUNNING", None, True),
        (143, "CANCELLED", None, False),
        (143, "RUNNING", 3, False),
        (1, "RUNNING", 0, False),
        (2, "RUNNING", 0, False),
        (0, "RUNNING", 0, False),
    ],
)
def test_a_run_that_saved_goes_back_into_the_queue_and_no_other(tmp_path, status, state, restarts, requeued):
    done = execute(tmp_path, "--max-requeues=3", "--", "bash", "-c", f"exit {status}", state=state, restarts=restarts)
    assert done.returncode == status and ("requeued 99_7" in done.stdout) == requeued


@pytest.mark.parametrize(
    "parse, argv, words",
    [
        (slurm_array.parse, [*SLURM, "--only=45", "--", "x"], "0 to 44"),
        (slurm_array.parse, [*SLURM, "--only=a", "--", "x"], "ranges"),
        (slurm_array.parse, [*SLURM, "--only=1,12-10", "--", "x"], "12-10 ends before it begins"),
        (slurm_array.parse, ["--", "x"], "--runs"),
        (slurm_array.parse, [*SLURM, "--", "x", "--run=3"], "--run, which the launcher adds"),
        (slurm_array.parse, [*SLURM, "--", "x", "--token=abc"], "looks like a secret"),
        (slurm_array.parse, ["--runs=2", "--time=1", "--", "x"], "--grace=120 takes up"),
        (kubernetes_array.parse, [*PODS, "--", "x", "--run=3"], "--run, which the launcher adds"),
        (kubernetes_array.parse, [*PODS, "--env=DIFFUSION_RUN=1", "--", "x"], "is set by the launcher itself"),
        (kubernetes_array.parse, [*PODS, "--", "x", "--token=abc"], "looks like a secret"),
        (kubernetes_array.parse, ["--name=" + "a" * 60, *PODS[1:], "--", "x"], "letters too long"),
    ],
)
def test_mistakes_are_refused(parse, argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        parse(argv)
    message = capsys.readouterr().err
    assert end.value.code == 2 and words in message and "abc" not in message


def test_a_pod_runs_the_run_of_its_index():
    made = job(
        "--gpus=1",
        "--volume=runs:/runs",
        "--env=MY_NAME=a $(b)",
        "--",
        sys.executable,
        "-c",
        TASK_OF_PODS,
        *WORDS_OF_PODS,
    )
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    index = next(entry for entry in container["env"] if entry["name"] == "DIFFUSION_RUN")
    annotation = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert index["valueFrom"] == {"fieldRef": {"fieldPath": annotation}}
    names = {entry["name"]: expand(entry["value"], {}) for entry in container["env"] if "value" in entry}
    names["DIFFUSION_RUN"] = "31"  # as the kubelet fills it in
    words = [expand(word, names) for word in container["command"]]
    done = subprocess.run(words, capture_output=True, text=True, env=stand_ins.environment() | names)
    assert json.loads(done.stdout) == [[*WORDS_OF_PODS, "--run=31"], {"DIFFUSION_RUN": "31", "MY_NAME": "a $(b)"}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert {"name": "v0", "mountPath": "/runs"} in container["volumeMounts"]


def test_a_pod_reads_a_variable_from_a_secret():
    (container,) = job("--secret-env=API_KEY=wandb:key", "--", "x")["spec"]["template"]["spec"]["containers"]
    secret = {"secretKeyRef": {"name": "wandb", "key": "key"}}
    assert {"name": "API_KEY", "valueFrom": secret} in container["env"]


def ends(spec: dict, pods: list) -> str:
    """What the Job controller makes of an index whose pods end so: exit statuses, or None for a disruption."""
    failures = 0
    for code in pods:
        action = "Count"
        for rule in spec["podFailurePolicy"]["rules"]:
            if code in rule.get("onExitCodes", {"values": [None]})["values"]:  # the rule without them is of disruptions
                action = rule["action"]
                break
        if code == 0:
            return "succeeded"
        if action == "FailIndex":
            return "failed"
        failures += action == "Count"
        if failures > spec["backoffLimitPerIndex"]:
            return "failed"
    return "running"


@pytest.mark.parametrize(
    "retries, pods, end",
    [
        (0, [0], "succeeded"),
        (0, [1], "failed"),
        (1, [1], "running"),
        (1, [1, 0], "succeeded"),
        (1, [1, 1], "failed"),
        (3, [2], "failed"),
        (0, [143, None, 143, 0], "succeeded"),
        (1, [143, 1, None, 0], "succeeded"),
    ],
)
def test_a_run_is_retried_by_choice_and_free_of_charge_where_it_was_preempted(retries, pods, end):
    spec = job(f"--retries={retries}", "--", "x")["spec"]
    assert ends(spec, pods) == end


def test_the_job_is_one_that_kubernetes_takes():
    made = job("--at-once=8", "--namespace=lab", "--", "x")
    spec = made["spec"]
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    assert made["metadata"] == {"name": "sweep", "namespace": "lab"}
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 45, 8)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which a limit for each index needs
    assert set(spec) == {
        "completionMode",
        "completions",
        "parallelism",
        "backoffLimitPerIndex",
        "podFailurePolicy",
        "template",
    }
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule["action"] in ("FailIndex", "Ignore") and len(rule) == 2


@pytest.mark.extended
@pytest.mark.parametrize(
    "argv",
    [
        [],
        [
            "--retries=2",
            "--at-once=8",
            "--gpus=8",
            "--cpu=64",
            "--memory=900Gi",
            "--namespace=lab",
            "--volume=runs:/runs",
            "--node-selector=cloud.google.com/gke-accelerator=nvidia-h100-80gb",
            "--secret-env=WANDB_API_KEY=wandb:api.key",
        ],
    ],
)
def test_the_job_fits_the_schema_of_kubernetes(argv):
    made = job(*argv, "--", *WORDS_OF_PODS)
    assert schema.errors(made) == []
    made["spec"]["backoffLimitPerIndexes"] = made["spec"].pop("backoffLimitPerIndex")
    (result,) = schema.errors(made)
    assert "'backoffLimitPerIndexes' was unexpected" in result


@pytest.mark.parametrize("module, first", [("slurm_array", "#!/bin/bash"), ("kubernetes_array", "{")])
def test_dry_run_prints_and_submits_nothing(module, first, tmp_path, capsys):
    main, argv = {"slurm_array": (slurm_array.main, SLURM), "kubernetes_array": (kubernetes_array.main, PODS)}[module]
    assert main([*argv, "--dry-run", "--", "python", "x.py"]) == 0
    assert capsys.readouterr().out.startswith(first)
    assert main([*argv, f"--output={tmp_path / 'file'}", "--", "python", "x.py"]) == 0
    assert (tmp_path / "file").read_text().startswith(first)
