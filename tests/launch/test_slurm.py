"""The SLURM launcher: the script runs with stand-ins for srun, scontrol, squeue and sbatch, and does what it says."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from diffusion.launch import slurm
from tests import stand_ins

HARD = ["a b", "it's", '"quoted"', "$HOME $(echo no) `no`", "back\\slash\\n", "two\nlines", "", "*", "-x", "é", "{}"]

# Runs the command once a task, one after the other, with the variables that SLURM sets and none of the caller's others.
SRUN = stand_ins.python_program("""
import os, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    print("option", words.pop(0))
nodes, tasks = int(os.environ["FAKE_NODES"]), int(os.environ["FAKE_TASKS"])
status = 0
for rank in range(nodes * tasks):
    variables = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    variables |= {"SLURM_NTASKS": str(nodes * tasks), "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank % tasks), "SRUN_PID": str(os.getpid())}
    sys.stdout.flush()
    status = max(status, subprocess.run(words, env=variables).returncode)
sys.exit(status)
""")
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "requeued $2"; exit; fi
[ "$*" = "show hostnames gpu[07-08]" ] && printf 'gpu07\\ngpu08\\n'
"""
TASK = """import json, os, sys
print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith(("DIFFUSION_", "JAX_"))}]))
"""


def put(folder: pathlib.Path, **programs: str) -> str:
    """Writes executables into a folder and returns the PATH on which they come first."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def text_of(*argv: str) -> str:
    return slurm.script(*slurm.parse(list(argv)))


def execute(tmp_path, *argv: str, nodes=1, tasks=1, state="RUNNING", restarts=None) -> subprocess.CompletedProcess:
    path = put(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL, squeue=f"#!/bin/bash\necho {state}\n")
    file = tmp_path / "job.sbatch"
    file.write_text(text_of(*argv))
    return subprocess.run(
        ["bash", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **stand_ins.environment(path),
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": "gpu[07-08]",
            "FAKE_NODES": str(nodes),
            "FAKE_TASKS": str(tasks),
        }
        | ({} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}),
    )


def message(done: subprocess.CompletedProcess) -> list:
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.extended
def test_each_task_is_told_its_place_and_gets_the_command_unchanged(tmp_path):
    done = execute(
        tmp_path,
        "--nodes=2",
        "--tasks-per-node=2",
        "--gpus-per-node=8",
        "--cpus-per-task=3",
        "--",
        sys.executable,
        "-c",
        TASK,
        *HARD,
        nodes=2,
        tasks=2,
    )
    assert done.returncode == 0, done.stderr
    tasks = message(done)
    assert [words for words, _ in tasks] == [HARD] * 4
    assert [names.pop("DIFFUSION_PROCESS_INDEX") for _, names in tasks] == ["0", "1", "2", "3"]
    assert [names.pop("JAX_LOCAL_DEVICE_IDS") for _, names in tasks] == ["0,1,2,3", "4,5,6,7"] * 2
    assert [names for _, names in tasks] == [
        {"DIFFUSION_COORDINATOR": f"gpu07:{20000 + 1234567 % 10000}", "DIFFUSION_PROCESS_COUNT": "4"}
    ] * 4
    options = [line.removeprefix("option ") for line in done.stdout.splitlines() if line.startswith("option ")]
    assert options == ["--kill-on-bad-exit=1", "--label", "--cpus-per-task=3"]


@pytest.mark.parametrize("tasks, ids", [(1, ["0,1,2,3,4,5,6,7"]), (2, ["0,1,2,3", "4,5,6,7"])])
def test_the_gpus_of_a_node_are_divided_among_its_tasks(tasks, ids):
    text = text_of(f"--tasks-per-node={tasks}", "--gpus-per-node=8", "--", "true")
    (line,) = (line for line in text.splitlines() if "JAX_LOCAL_DEVICE_IDS" in line)
    of_task = lambda task: subprocess.run(
        ["bash", "-c", f"{line}; printenv JAX_LOCAL_DEVICE_IDS"], env=os.environ | {"SLURM_LOCALID": str(task)},
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert [of_task(task) for task in range(tasks)] == ids


@pytest.mark.parametrize("nodes, tasks", [(1, 1), (2, 1), (1, 2)])
def test_lines_of_several_tasks_name_their_task(nodes, tasks):
    text = text_of(f"--nodes={nodes}", f"--tasks-per-node={tasks}", "--", "true")
    assert ("--label" in text) == (nodes * tasks > 1)


@pytest.mark.extended
def test_a_task_keeps_all_its_gpus(tmp_path):
    # Else JAX, which recognises SLURM, would take one GPU for a process, whatever the coordinator's variables say.
    done = execute(tmp_path, "--gpus-per-node=8", "--", sys.executable, "-c", TASK)
    assert message(done)[0][1]["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3,4,5,6,7"


@pytest.mark.extended
def test_without_gpus_jax_is_left_alone(tmp_path):
    done = execute(tmp_path, "--", sys.executable, "-c", TASK)
    assert done.returncode == 0, done.stderr
    assert not any(name.startswith("JAX_") for name in message(done)[0][1])
    assert "--label" not in done.stdout


@pytest.mark.extended
@pytest.mark.parametrize(
    "status, state, requeued",
    [
        (143, "RUNNING", True),
        (143, "COMPLETING", False),
        (143, "CANCELLED", False),
        (1, "RUNNING", False),
        (2, "RUNNING", False),
        (137, "RUNNING", False),
        (0, "RUNNING", False),
    ],
)
def test_a_run_that_saved_is_requeued_and_no_other(tmp_path, status, state, requeued):
    done = execute(tmp_path, "--", "bash", "-c", f"exit {status}", state=state)
    assert done.returncode == status
    assert ("requeued 1234567" in done.stdout) == requeued


@pytest.mark.extended
@pytest.mark.parametrize("restarts, requeued", [(None, True), (0, True), (2, True), (3, False), (4, False)])
def test_requeues_come_to_an_end(tmp_path, restarts, requeued):
    done = execute(tmp_path, "--max-requeues=3", "--", "bash", "-c", "exit 143", restarts=restarts)
    assert done.returncode == 143
    assert ("requeued 1234567" in done.stdout) == requeued
    assert ("--max-requeues=3 allows" in done.stderr) != requeued


@pytest.mark.parametrize(
    "words, place",
    [
        (["x", "--api_key=s3cr3t"], "word 2"),
        (["x", "-v", "--token", "s3cr3t"], "word 3"),
        (["env", "WANDB_API_KEY=s3cr3t"], "word 2"),
    ],
)
def test_a_secret_is_not_written_to_the_file(words, place, capsys):
    with pytest.raises(SystemExit) as end:
        slurm.parse(["--", *words])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert f"{place} of the command looks like a secret" in err and "s3cr3t" not in err


def test_a_command_that_is_missing_is_an_error(tmp_path):
    done = execute(tmp_path, "--", "no-such-program-of-ours")
    assert done.returncode == 127
    assert "no-such-program-of-ours" in done.stderr


def test_unknown_hosts_stop_the_script(tmp_path):
    path = put(tmp_path / "bin", srun=SRUN, scontrol="#!/bin/bash\necho no hosts >&2; exit 1\n")
    done = subprocess.run(
        ["bash", "-c", text_of("--", "true")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**stand_ins.environment(path), "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "x"},
    )
    assert done.returncode == 1 and "no hosts" in done.stderr and "option" not in done.stdout


def test_no_shell_stands_between_a_signal_and_the_run(tmp_path):
    done = execute(tmp_path, "--", sys.executable, "-c", "import os; print(os.environ['SRUN_PID'], os.getppid())")
    srun, parent = done.stdout.split()[-2:]
    assert srun == parent


def test_the_file_is_bash_and_asks_for_what_was_asked(tmp_path):
    text = text_of(
        "--nodes=4",
        "--gpus-per-node=8",
        "--partition=gpu,gpu-long",
        "--account=lab",
        "--time=1-12:30:00",
        "--grace=300",
        "--job-name=xl2",
        "--log=logs/%j.out",
        "--sbatch=--mem=200G",
        "--",
        "prog",
        *HARD,
    )
    file = tmp_path / "job.sbatch"
    file.write_text(text)
    checked = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0 and not checked.stderr
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    wanted = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert set(wanted) == {
        "--job-name=xl2",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--partition=gpu,gpu-long",
        "--account=lab",
        "--time=1-12:30:00",
        "--output=logs/%j.out",
        "--open-mode=append",
        "--signal=TERM@300",
        "--requeue",
        "--mem=200G",
    }
    assert lines[1 : 1 + len(wanted)] == [
        f"#SBATCH {line}" for line in wanted
    ]  # sbatch stops reading at the first command


@pytest.mark.parametrize(
    "text, expected",
    [("90", 5400), ("90:30", 5430), ("12:00:00", 43200), ("2-0", 172800), ("1-12:30", 131400), ("1-00:00:01", 86401)],
)
def test_times_as_slurm_reads_them(text, expected):
    assert slurm.seconds(slurm.duration(text)) == expected


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "there is no command"),
        (["--nodes=2", "--"], "there is no command"),
        (["--nodes=0", "--", "true"], "1 or more"),
        (["--nodes=two", "--", "true"], "'two'"),
        (["--tasks-per-node=-1", "--", "true"], "1 or more"),
        (["--cpus-per-task=1.5", "--", "true"], "'1.5'"),
        (["--gpus-per-node=8", "--tasks-per-node=3", "--", "true"], "does not divide"),
        (["--time=1h", "--", "true"], "12:00:00"),
        (["--time=1:2:3:4", "--", "true"], "H:M:S"),
        (["--time=1:00", "--grace=60", "--", "true"], "takes up all of it"),
        (["--time=0", "--", "true"], "takes up all of it"),
        (["--partition=a b", "--", "true"], "'a b'"),
        (["--partition=a\n#SBATCH --uid=0", "--", "true"], "letters"),
        (["--partition=", "--", "true"], "letters"),
        (["--account=$x", "--", "true"], "'$x'"),
        (["--log=a b.out", "--", "true"], "without spaces"),
        (["--sbatch=-n4", "--", "true"], "long form"),
        (["--sbatch=--mem=1\nrm x", "--", "true"], "long form"),
        (["--sbatch=--gres=gpu:8", "--", "true"], "launcher"),
        (["--sbatch=--ntasks=8", "--", "true"], "launcher"),
        (["--sbatch=--no-requeue", "--", "true"], "launcher"),
        (["--node=2", "--", "true"], "--node"),
        (["python", "x.py"], "python"),
    ],
)
def test_bad_arguments(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        slurm.parse(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_submits_through_sbatch(tmp_path, monkeypatch, capfd):
    sbatch = f"#!/bin/bash\ncat > {shlex.quote(str(tmp_path))}/got; echo Submitted; exit 3\n"
    monkeypatch.setenv("PATH", put(tmp_path / "bin", sbatch=sbatch))
    assert slurm.main(["--nodes=2", "--", "prog", *HARD]) == 3
    assert (tmp_path / "got").read_text() == text_of("--nodes=2", "--", "prog", *HARD)
    assert "Submitted" in capfd.readouterr().out


@pytest.mark.parametrize("argv, exists", [
    ([], True), (["--output=job.sbatch"], True), (["--dry-run"], False), (["--sbatch=--chdir=/elsewhere"], False),
])  # fmt: skip
def test_the_folder_of_the_log_is_made_before_the_job_needs_it(argv, exists, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", put(tmp_path / "bin", sbatch="#!/bin/bash\ncat > /dev/null\n"))
    monkeypatch.chdir(tmp_path)
    assert slurm.main(["--log=logs/today/%j.out", *argv, "--", "prog"]) == 0
    assert (tmp_path / "logs/today").is_dir() == exists
    assert slurm.main(["--log=logs/%x/%j.out", "--", "prog"]) == 0 and not (tmp_path / "logs/%x").exists()
    (tmp_path / "file").write_text("")
    assert slurm.main(["--log=file/%j.out", "--", "prog"]) == 1
    assert "cannot make file for --log: " in capfd.readouterr().err


def test_without_sbatch_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.main(["--", "prog"]) == 127
    err = capsys.readouterr().err
    assert "--dry-run" in err and "--output=FILE" in err


def test_output_writes_and_does_not_submit(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "a job.sbatch"
    assert slurm.main([f"--output={file}", "--", "prog"]) == 0
    assert file.read_text() == text_of("--", "prog")
    assert f"sbatch '{file}'" in capsys.readouterr().out
    assert slurm.main([f"--output={tmp_path}/none/x", "--", "prog"]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_word_that_is_no_text_reaches_the_file_as_it_is(tmp_path):
    """The name of a file may have any bytes; Python gives such a byte as half of a surrogate pair."""
    file = tmp_path / "job.sbatch"
    assert slurm.main([f"--output={file}", "--", "prog", os.fsdecode(b"runs/\xe4\xff"), "ä"]) == 0
    assert b"prog 'runs/\xe4\xff' '\xc3\xa4'" in file.read_bytes()


def test_the_status_of_a_tool_that_a_signal_ended_is_that_of_a_shell(monkeypatch, tmp_path):
    tool = tmp_path / "sbatch"
    tool.write_text("#!/bin/sh\nkill -TERM $$\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm.main(["--", "prog"]) == 128 + 15


def test_dry_run_only_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.main(["--dry-run", f"--output={tmp_path}/x", "--", "prog", "a b"]) == 0
    assert capsys.readouterr().out == text_of("--", "prog", "a b")
    assert not (tmp_path / "x").exists()


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        slurm.parse(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("--workdir=/shared/runs/xl2")
