"""A run on a dataset with damaged records stops with one sentence and a saved state, or skips and counts them."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import digits
from diffusion.data import pipeline, sources
from diffusion.experiments import train
from diffusion.experiments.evaluation import real_images
from diffusion.training.checkpointing import checkpoints
from tests.data.made import image_feature, png, write
from tests.reliability.driver import HANGS, TINY

ROOT = pathlib.Path(__file__).parents[2]
SIZE, BATCH, STEPS = 32, 8, 12
BAD = {12: "truncated", 13: "truncated", 24: "flipped"}
CHANGES = TINY | {
    "data.name": "made",
    "train.steps": STEPS,
    "train.batch_size": BATCH,
    "train.log_every": 1,
    "checkpoint.every": 100,
    "evaluate.features": ("pixels",),
    "data.damaged": "skip",
}


pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    """Records of 8x8 grey images: two truncated ones, and one whose chunk in the file has a flipped bit."""
    folder = tmp_path_factory.mktemp("flawed")
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8), dtype=np.uint8)
    encoded = [png(image)[:60] if BAD.get(k) == "truncated" else png(image) for k, image in enumerate(images)]
    features = {"image": image_feature(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    write(folder, features, [{"image": image, "label": k % 10} for k, image in enumerate(encoded)])
    (path,) = folder.glob("made/*/*.array_record*")
    content = bytearray(path.read_bytes())
    content[content.index(png(images[24])) + 60] ^= 4
    path.write_bytes(content)
    return str(folder)


def config(folder, **changes):
    found = digits.get_config()
    found.update_from_flattened_dict(CHANGES | {"data.dir": folder} | changes)
    return found


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def skipped_by_definition() -> list[int]:
    """The number of damaged records in the first k batches, for k = 1, 2, ..."""
    rows = [int(pipeline.permutation(SIZE, 0, i // SIZE)[i % SIZE]) for i in range(STEPS * BATCH)]
    return np.cumsum([sum(row in BAD for row in rows[k : k + BATCH]) for k in range(0, len(rows), BATCH)]).tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_skip_counts_in_every_line_and_survives_an_interruption(flawed, tmp_path, capsys, monkeypatch):
    assert train.run(config(flawed), tmp_path / "straight") == 0
    assert [row["skipped"] for row in lines(tmp_path / "straight")] == skipped_by_definition()
    assert f"finished {STEPS} steps ({skipped_by_definition()[-1]} damaged records skipped)" in capsys.readouterr().out
    steps = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            train.preemption.StopRequest, "received", lambda self: signal.SIGTERM if next(steps) == 5 else None
        )
        assert train.run(config(flawed), tmp_path / "stopped") == 143
    assert checkpoints.steps(tmp_path / "stopped") == [5]
    assert train.run(config(flawed), tmp_path / "stopped") == 0
    assert (tmp_path / "stopped/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()
    whole, resumed = (checkpoints.read_about(tmp_path / name, STEPS)["leaves"] for name in ("straight", "stopped"))
    assert whole == resumed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_stop_saves_the_state_and_the_same_run_goes_on_with_skip(flawed, tmp_path):
    first = next(k for k, number in enumerate(skipped_by_definition()) if number)  # the first batch with one
    assert first > 0
    with pytest.raises(sources.DamagedRecord, match=r"made \(train\): record (12|13|24) cannot be used"):
        train.run(config(flawed, **{"data.damaged": "stop"}), tmp_path)
    assert checkpoints.steps(tmp_path) == [first]
    assert all("skipped" not in row for row in lines(tmp_path))
    assert train.run(config(flawed), tmp_path) == 0
    assert [row["skipped"] for row in lines(tmp_path)[first:]] == skipped_by_definition()[first:]


@pytest.mark.slow
def test_stop_is_one_sentence_on_the_command_line(flawed, tmp_path):
    words = CHANGES | {"data.dir": flawed, "data.damaged": "stop"}
    flags = [f"--config.{name}={value}" for name, value in words.items() if not isinstance(value, tuple)]
    command = [sys.executable, "-m", "experiments.train", "--config=configs/digits.py", f"--workdir={tmp_path}", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "made (train): record" in error and "--config.data.damaged=skip" in error
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore:left out")
def test_evaluation_leaves_damaged_records_out(flawed):
    real_images._read_split.cache_clear()
    split = real_images.split_of(config(flawed), "train")
    assert len(split.images) == SIZE - len(BAD)
    assert split.labels.tolist() == [k % 10 for k in range(SIZE) if k not in BAD]
    with pytest.raises(sources.DamagedRecord):
        real_images.split_of(config(flawed, **{"data.damaged": "stop"}), "train")


@pytest.mark.slow
@pytest.mark.parametrize("launch", [["--processes=2"], ["--processes=1", "--devices-per-process=2"]])
@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_processes_and_devices_count_alike(flawed, tmp_path, launch, kind):
    words = CHANGES | {"data.dir": flawed, "mesh.kind": kind}
    flags = [f"--config.{name}={value}" for name, value in words.items() if not isinstance(value, tuple)]
    command = [sys.executable, "-m", "launch.local", *launch, "--", "python", "-m", "experiments.train",
               "--config=configs/digits.py", f"--workdir={tmp_path}", *flags]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert "RecompilationWarning" not in done.stderr
    assert [row["skipped"] for row in lines(tmp_path)] == skipped_by_definition()
