"""Runs in an object store compute the same bits, whatever the store does and wherever the process is killed."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusion.io import snapshots, stores
from diffusion.training.checkpointing import checkpoints
from tests.object_stores import DiskStore
from tests.reliability.driver import TINY, train_command

ADDRESS = "s3://bucket/run"
SHORT = {"train.steps": 8, "checkpoint.keep": 2}  # with a save every other step


class StoredRun:
    """A run at an address in a new store, trained by commands on several machines, each with its own cache."""

    def __init__(self, driver, root: pathlib.Path):
        self.driver, self.root = driver, root

    def command(self, *argv, machine="first", **store):
        env = {"DIFFUSION_CACHE": str(self.root / machine)}
        return self.driver.run(*argv, env=env, store={"root": str(self.root / "store"), **store})

    def train(self, **how):
        return self.command(*train_command(ADDRESS, SHORT), **how)

    def folder(self, machine="first"):
        return self.root / machine / "stores/s3/bucket/run"

    def objects(self):
        return stores.Store(DiskStore(self.root / "store"), "bucket/run", ADDRESS)

    def stored(self, folder: pathlib.Path) -> pathlib.Path:
        """Copies the run in the store to a folder; returns the folder."""
        objects = self.objects()
        for path, entry in snapshots.latest(objects).files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            objects.fetch(entry.object, folder / path)
        return folder


def bits(folder: pathlib.Path) -> tuple:
    """The results of a run: its metrics, and {step: the checksums of every leaf} of the checkpoints that it keeps."""
    steps = checkpoints.steps(folder)
    return (folder / "metrics.jsonl").read_bytes(), {s: checkpoints.read_about(folder, s)["leaves"] for s in steps}


@pytest.fixture(scope="module")
def undisturbed(driver, tmp_path_factory):
    """The bits of the same run in a local folder."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = driver.train(folder, SHORT)
    assert result.status == 0, result.err
    return bits(folder)


@pytest.fixture
def run(driver, tmp_path):
    return StoredRun(driver, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["", "tenth", "slow"])
def test_a_run_ends_in_the_store_with_the_bits_of_a_local_one(run, undisturbed, tmp_path, fails):
    result = run.train(fails=fails)
    assert result.status == 0 and f"{ADDRESS} holds the run: checkpoints 6, 8" in result.out, result.err
    assert bits(run.folder()) == undisturbed == bits(run.stored(tmp_path / "copy"))
    again = run.train(machine="second")
    assert again.status == 0 and "is finished: step 8 of 8" in again.out, again.err
    assert checkpoints.steps(run.folder("second")) == [8]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 4, 9, 21, 40, 66])
def test_a_run_that_is_killed_at_a_call_of_the_store_goes_on_elsewhere(run, undisturbed, tmp_path, kill):
    """The run continues on another machine, from the files in the store; every kill takes place."""
    assert run.train(kill=kill).status == -9
    result = run.train(machine="second")
    assert result.status == 0, result.err
    stored = bits(run.stored(tmp_path / "copy"))
    assert stored == undisturbed
    listed = {entry.object for entry in snapshots.latest(run.objects()).files.values()}
    assert set(run.objects().names("files")) == listed, "the store holds objects that no list names"


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_on_two_machines(run, undisturbed, tmp_path):
    for i, kill in enumerate((40, 25, 45)):
        assert run.train(kill=kill, machine=("first", "second")[i % 2]).status == -9
    assert run.train(fails="tenth").status == 0
    assert bits(run.stored(tmp_path / "copy")) == undisturbed


@pytest.mark.slow
def test_a_full_store_ends_the_run_in_words_and_the_same_command_copies_it(run, undisturbed, tmp_path):
    result = run.train(fails="sends")
    assert result.status == 1 and "Traceback" not in result.err, result.err
    assert (
        f"Everything is in {run.folder()}; the same command on this machine continues from there and copies it"
        in result.err
    )
    assert result.err.count("The run goes on, and the copy is tried again.") == 1
    assert bits(run.folder()) == undisturbed and not snapshots.latest(run.objects()).files
    assert run.train().status == 0
    assert bits(run.stored(tmp_path / "copy")) == undisturbed


@pytest.mark.slow
def test_an_altered_object_costs_the_steps_since_the_checkpoint_before(run, undisturbed, tmp_path):
    assert run.train().status == 0
    files = snapshots.latest(run.objects()).files
    path = next(path for path in files if path.startswith("checkpoints/8/params/"))
    run.objects().write(files[path].object, b"altered")
    result = run.train(machine="second")
    assert result.status == 0 and "FALLING BACK to an earlier checkpoint" in result.err, result.err
    assert bits(run.stored(tmp_path / "copy")) == undisturbed


@pytest.mark.slow
def test_sample_and_evaluate_read_the_store_and_send_what_they_write(run, driver, tmp_path):
    """A machine that has no copy of the run makes the samples of the local run."""
    assert run.train().status == 0
    local = tmp_path / "local"
    shutil.copytree(run.folder(), local)
    for command in ("sample", "evaluate"):
        result = run.command(f"experiments.{command}", f"--workdir={ADDRESS}", machine="second")
        assert result.status == 0 and f"to {ADDRESS}" in result.err, result.err
        assert driver.run(f"experiments.{command}", f"--workdir={local}").status == 0
    stored = run.stored(tmp_path / "copy")
    ours, theirs = np.load(stored / "samples.npz"), np.load(local / "samples.npz")
    np.testing.assert_array_equal(ours["images"], theirs["images"])
    assert len(ours["images"]) == TINY["sample.number"]
    assert (
        json.loads((stored / "report.json").read_text()).keys()
        == json.loads((local / "report.json").read_text()).keys()
    )
    assert run.command("experiments.sample", f"--workdir={ADDRESS}", "--step=6", machine="second").status == 0
    assert checkpoints.steps(run.folder("second")) == [6, 8]
    result = run.command("experiments.sample", "--workdir=s3://bucket/other", machine="second")
    assert result.status == 1 and result.err.splitlines()[-1] == "error: --workdir=s3://bucket/other holds no run."


@pytest.mark.slow
def test_a_run_on_data_of_a_store_has_the_bits_of_one_on_local_data(run, driver, tmp_path):
    """Training on pictures in a store gives the bits of training on local pictures; samples are sent to the store."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        folder = tmp_path / "store/bucket/data" / "cats dogs".split()[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    of = lambda place: (
        SHORT | {"model.num_classes": 2, "data.source": json.dumps({"name": "class_folders", "path": place, "side": 8})}
    )
    local = driver.train(tmp_path / "local", of(str(tmp_path / "store/bucket/data")))
    assert local.status == 0, local.err
    stored = run.command(*train_command(tmp_path / "stored", of("s3://bucket/data")))
    assert stored.status == 0, stored.err
    assert bits(tmp_path / "stored") == bits(tmp_path / "local")
    sampled = run.command(
        "experiments.sample", f"--workdir={tmp_path / 'stored'}", "--config.sample.number=4", "--out=s3://bucket/out"
    )
    assert sampled.status == 0 and "files to s3://bucket/out" in sampled.err, sampled.err
    assert (tmp_path / "store/bucket/out/samples.npz").is_file()
