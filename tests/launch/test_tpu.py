"""The TPU launcher: its command line, and what the hosts' shell makes of it, with a stand-in for gcloud."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from diffusion.launch import tpu
from tests import stand_ins

HARD = ["a b", "it's", '"quoted"', "$HOME $(echo no) `no`", "back\\slash\\n", "two\nlines", "", "*", "-x", "é", "{}"]
POD = ["--name=my-pod", "--zone=us-east5-a"]
TASK = """import json, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), {k: v for k, v in os.environ.items() if k.startswith("DIFFUSION_")}]))
"""
# As ssh does: the command is one string, which a shell in the home directory reads.
GCLOUD = stand_ins.python_program("""
import os, subprocess, sys
print("words", len(sys.argv) - 1, sys.argv[1:6], flush=True)
command, = [word.removeprefix("--command=") for word in sys.argv if word.startswith("--command=")]
kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
sys.exit(subprocess.run(["bash", "-c", command], cwd=os.environ["HOME"], env=kept).returncode)
""")


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """A stand-in for gcloud, first on PATH, and a home directory with a folder of a name that needs quotes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    (tmp_path / "home" / "my code").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.extended
@pytest.mark.parametrize("directory", ["my code", "~/my code", None, "~", "~/", "absolute"])
def test_hosts_get_the_command_unchanged(gcloud, capfd, directory):
    folder = gcloud / "home" / ("" if directory in (None, "~", "~/") else "my code")
    directory = str(folder) if directory == "absolute" else directory
    where = [] if directory is None else [f"--directory={directory}"]
    assert tpu.main([*POD, *where, "--", sys.executable, "-c", TASK, *HARD]) == 0
    words, cwd, names = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert words == HARD
    assert cwd == str(folder)
    assert names == {"DIFFUSION_COORDINATOR": "auto"}  # jax.distributed finds the pod's coordinator by itself


@pytest.mark.parametrize("directory, where", [("my code", "'my code'"), ("~/my code", "'my code'"), ("/a/b", "/a/b")])
def test_a_directory_counts_from_the_home_directory_in_which_the_shell_of_a_host_begins(directory, where, monkeypatch):
    """And a limit that is empty here is none."""
    monkeypatch.setenv("DIFFUSION_HEARTBEAT_SECONDS", "")
    monkeypatch.delenv("DIFFUSION_SHUTDOWN_SECONDS", raising=False)
    line = tpu._remote(directory, ["true"])
    assert line == f"cd -- {where} && export DIFFUSION_COORDINATOR=auto PYTHONUNBUFFERED=1 && exec true"


@pytest.mark.parametrize("directory", [None, "~", "~/"])
def test_the_shell_of_a_host_stays_in_the_home_directory(directory):
    assert tpu._remote(directory, ["true"]).startswith("export ")


def test_hosts_get_the_limits_that_are_set_here(gcloud, capfd, monkeypatch):
    monkeypatch.setenv("DIFFUSION_HEARTBEAT_SECONDS", "400")
    monkeypatch.setenv("DIFFUSION_SHUTDOWN_SECONDS", "5 $(echo no)")  # a mistake, which the run names, not the shell
    assert tpu.main([*POD, "--", sys.executable, "-c", TASK]) == 0
    names = json.loads(capfd.readouterr().out.splitlines()[-1])[2]
    assert names == {
        "DIFFUSION_COORDINATOR": "auto",
        "DIFFUSION_HEARTBEAT_SECONDS": "400",
        "DIFFUSION_SHUTDOWN_SECONDS": "5 $(echo no)",
    }


@pytest.mark.extended
def test_a_dry_run_is_the_line_that_runs(gcloud, capfd):
    assert tpu.main([*POD, "--dry-run", "--", sys.executable, "-c", TASK, *HARD]) == 0
    line = capfd.readouterr().out
    assert tpu.main([*POD, "--", sys.executable, "-c", TASK, *HARD]) == 0
    ran = capfd.readouterr().out
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout == ran
    assert "words 8 ['compute', 'tpus', 'tpu-vm', 'ssh', 'my-pod']" in ran


def test_dry_run_runs_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tpu.main([*POD, "--project=my-project", "--gcloud=--internal-ip", "--dry-run", "--", "prog", "a b"]) == 0
    assert shlex.split(capsys.readouterr().out) == [
        "gcloud",
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "my-pod",
        "--zone=us-east5-a",
        "--worker=all",
        "--project=my-project",
        "--internal-ip",
        "--command=export DIFFUSION_COORDINATOR=auto PYTHONUNBUFFERED=1 && exec prog 'a b'",
    ]


@pytest.mark.extended
def test_the_exit_status_is_passed_on(gcloud, capfd):
    assert tpu.main([*POD, "--", "bash", "-c", "exit 7"]) == 7
    assert tpu.main([*POD, "--directory=nowhere", "--", "echo", "ran"]) == 1
    out, err = capfd.readouterr()
    assert "nowhere" in err and "ran" not in out


def test_without_gcloud_it_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tpu.main([*POD, "--", "prog"]) == 127
    assert "--dry-run" in capsys.readouterr().err


@pytest.mark.extended
@pytest.mark.parametrize(
    "argv, words",
    [
        (POD, "there is no command"),
        ([*POD, "--"], "there is no command"),
        (["--zone=us-east5-a", "--", "x"], "--name"),
        (["--name=a", "--", "x"], "--zone"),
        (["--name=A", "--zone=us-east5-a", "--", "x"], "small letters"),
        (["--name=-a", "--zone=us-east5-a", "--", "x"], "'-a'"),
        (["--name=a;b", "--zone=us-east5-a", "--", "x"], "'a;b'"),
        (["--name=a", "--zone=us-east5", "--", "x"], "must be a zone"),
        ([*POD, "--project=x", "--", "x"], "6 to 30"),
        ([*POD, "--gcloud=--command=rm", "--", "x"], "launcher"),
        ([*POD, "--gcloud=-v", "--", "x"], "--internal-ip"),
        ([*POD, "--dry", "--", "x"], "--dry"),
        ([*POD, "python", "x.py"], "python"),
    ],
)
def test_bad_arguments(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        tpu.parse(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a", "my-pod-1", "me@my-pod", "first.last@my-pod"])
def test_names(name):
    assert tpu.pod(name) == name


@pytest.mark.parametrize("zone", ["us-east5-a", "us-central2-b", "northamerica-northeast1-c", "asia-southeast1-b"])
def test_zones(zone):
    assert tpu.zone(zone) == zone


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        tpu.parse(["--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("--workdir=/mnt/filestore/runs/xl2")
