import json
import os
import shlex
import stat
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from configs import digits
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError, fields
from diffusion.recipe.values import differences, to_json


def config(**changes):
    result = ConfigDict({"seed": 0, "train": {"steps": 10, "batch_size": 4}, "checkpoint": {"every": 5, "keep": 2}})
    with result.unlocked():
        result.update_from_flattened_dict(changes)
    return result


def test_new_folder_gets_the_config(tmp_path):
    folder = tmp_path / "new"
    with workdir.lock(folder):
        assert workdir.settle_config(folder, config()) is False
        assert workdir.settle_config(folder, config()) is True
    assert json.loads((folder / "config.json").read_text())["train"] == {"batch_size": 4, "steps": 10}
    assert workdir.read_config(folder).to_dict() == config().to_dict()


def test_the_lock_may_be_read_by_all_and_written_by_its_owner(tmp_path):
    before = os.umask(0)
    try:
        with workdir.lock(tmp_path / "run"):
            assert stat.S_IMODE((tmp_path / "run/.lock").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    workdir.settle_config(tmp_path, config())
    before = (tmp_path / "config.json").read_bytes()
    changed = config(**{"seed": 1, "train.batch_size": 8, "train.steps": 20})
    with pytest.raises(ConfigError) as error:
        workdir.settle_config(tmp_path, changed)
    fixed, free = str(error.value).split("may not change:\n")[1].split("These differ and may change:\n")
    assert "seed: 0 -> 1" in fixed and "train.batch_size: 4 -> 8" in fixed and "train.steps" not in fixed
    assert "train.steps: 10 -> 20" in free
    assert "another --workdir" in free  # how to go on
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("field", ["train.steps", "checkpoint.every", "checkpoint.keep"])
def test_fields_that_may_change_are_taken_over(tmp_path, field):
    workdir.settle_config(tmp_path, config())
    assert workdir.settle_config(tmp_path, config(**{field: 99})) is True
    section, name = field.split(".")
    assert workdir.read_config(tmp_path)[section][name] == 99


def test_a_refused_command_leaves_the_config_of_the_run(tmp_path):
    """What is refused after its config was settled, such as other data, must not change what other commands read."""
    workdir.settle_config(tmp_path, config())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="other examples"), workdir.restored_if_refused(tmp_path):
        workdir.settle_config(tmp_path, config(**{"train.steps": 20}))
        raise ConfigError("other examples")
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_new_run_that_is_refused_leaves_no_config(tmp_path):
    with pytest.raises(ConfigError, match="too large"), workdir.restored_if_refused(tmp_path):
        workdir.settle_config(tmp_path, config())
        raise ConfigError("too large")
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(ConfigError, match="before any config"), workdir.restored_if_refused(tmp_path):
        raise ConfigError("before any config")


def test_a_refusal_after_a_step_was_saved_leaves_the_config_of_that_step(tmp_path):
    workdir.settle_config(tmp_path, config())
    with pytest.raises(ConfigError, match="later"), workdir.restored_if_refused(tmp_path):
        workdir.settle_config(tmp_path, config(**{"train.steps": 20}))
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
        raise ConfigError("later")
    assert workdir.read_config(tmp_path).train.steps == 20


def test_checkpoints_without_a_config_are_left_alone(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(WorkdirError, match=r"no config.json"):
        workdir.settle_config(tmp_path, config())


def test_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ConfigError, match="not valid JSON"):
        workdir.settle_config(tmp_path, config())


def test_folder_without_a_run(tmp_path):
    with pytest.raises(WorkdirError, match="holds no run"):
        workdir.read_config(tmp_path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"), workdir.lock(tmp_path / "file" / "run"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkdirError, match="Permission denied"), workdir.lock(tmp_path):
        pass


HOLDER = """
import sys
from diffusion.experiments.run_folder import workdir
with workdir.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_processes_with_folders_of_their_own_are_refused(tmp_path, monkeypatch):
    """Each finds in its own what process 0 wrote, or not; here as process 1 of 2, whose folder stays empty."""
    said = {"folder": ["token", ""], "folder seen": ['["a:/runs", true]', '["b:/runs", false]']}
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
    monkeypatch.setattr(workdir.agreement, "gather", lambda about, text: said[about])
    with pytest.raises(workdir.WorkdirError, match=r"process 1 \(b:/runs\) did not see .* 0 \(a:/runs\) wrote"):
        workdir.require_shared(tmp_path, seconds=0.2)
    said["folder seen"][1] = '["b:/runs", true]'
    (tmp_path / ".shared").write_text("token")
    began = time.monotonic()
    workdir.require_shared(tmp_path, seconds=600)
    assert time.monotonic() - began < 300


@pytest.mark.extended
def test_an_output_folder_may_be_new_and_is_no_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (tmp_path, tmp_path / "new" / "folder"):
        assert workdir.output_folder(str(folder)) == folder
    assert not (tmp_path / "new").exists()
    for folder in (file, file / "a" / "b"):
        with pytest.raises(ConfigError, match=rf"--out={folder}: {file} is a file\. Valid: a folder, which may be new"):
            workdir.output_folder(folder)


def test_two_runs_on_one_folder(tmp_path):
    """The second is refused while the first lives; a first that is killed leaves nothing that needs removing."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(WorkdirError, match=f"process {first.pid} works there"), workdir.lock(tmp_path):
            pass
        with pytest.raises(WorkdirError, match=f"^--out={tmp_path} is in use"), workdir.lock(tmp_path, "--out"):
            pass
        first.kill()
        first.wait()
    with workdir.lock(tmp_path):
        pass


def test_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--workdir=a b", "--config.x=('flip',)"])
    assert shlex.split(workdir.command("diffusion train"))[2:] == ["--workdir=a b", "--config.x=('flip',)"]


def test_shape_of_an_example():
    data = {
        "source": {"name": "tfds"},
        "name": "digits",
        "split": "train",
        "dir": "",
        "shape": None,
        "latents": {"dir": ""},
    }
    assert workdir.example_shape({"data": data}) == (8, 8, 1)
    assert workdir.example_shape({"data": {**data, "shape": [32, 32, 4]}}) == (32, 32, 4)


def test_the_command_of_a_launched_process_has_its_launcher(monkeypatch):
    monkeypatch.setattr(workdir.sys, "argv", ["train.py", "--workdir=a b"])
    assert workdir.command("diffusion train") == "diffusion train '--workdir=a b'"
    monkeypatch.setenv("DIFFUSION_LAUNCHER", "diffusion launch local --processes=2 --")
    launched = "diffusion launch local --processes=2 -- diffusion train '--workdir=a b'"
    assert workdir.command("diffusion train") == launched


def test_paths_mean_the_same_from_any_folder(tmp_path, monkeypatch):
    """Also those of a run that an older version has written as they were named."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    named = digits.get_config()
    files = {"evaluate.inception": "inception.pth", "sample.measurement.pictures": "faces.npz"}
    named.update_from_flattened_dict({"data.dir": "data", "teacher.path": "~/run", **files})
    whole = fields.absolute(named)
    assert whole.evaluate.inception == str(here / "inception.pth")
    assert whole.sample.measurement.pictures == str(here / "faces.npz")
    assert whole.data.dir == str(here / "data") and whole.data.latents.dir == ""
    assert whole.teacher.path == os.path.expanduser("~/run")
    (here / "bad").mkdir()
    (here / "bad" / "config.json").write_text("{}")
    worse, other = {"name": "autoguidance", "scale": 2.0}, {"name": "mine", "mode": "good"}
    named.sample.guides = (worse | {"worse": "bad"}, worse | {"worse": {"run": "bad", "step": 5}}, other)
    whole = fields.absolute(named)
    first, second, third = map(dict, whole.sample.guides)
    assert (first["worse"], dict(second["worse"])) == (str(here / "bad"), {"run": str(here / "bad"), "step": 5})
    assert third == other  # a word that is no run
    assert named.data.dir == "data" and fields.absolute(whole).to_dict() == whole.to_dict()
    (tmp_path / "config.json").write_text(to_json(named))
    assert workdir.settle_config(tmp_path, named) is True
    monkeypatch.chdir(tmp_path)
    assert workdir.settle_config(tmp_path, whole) is True
    assert differences(workdir.read_config(tmp_path), whole) == []
    whole.teacher.path = str(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"(?s)teacher\.path: .*A run may change"):
        workdir.settle_config(tmp_path, whole)


def test_a_dataset_that_is_not_there_is_not_prepared_for_its_shape(tmp_path):
    data = {
        "source": {"name": "tfds"},
        "name": "digits",
        "split": "train",
        "dir": str(tmp_path),
        "shape": None,
        "latents": {"dir": ""},
    }
    with pytest.raises(FileNotFoundError, match="nothing is written there"):
        workdir.example_shape({"data": data})
    assert not list(tmp_path.iterdir())
