"""A U-Net trained on augmented digits, with an average of a power function: resumed, and sampled at another width."""

import json
import subprocess
import sys

import numpy as np
import pytest

from configs import digits
from diffusion.experiments import train
from diffusion.training.checkpointing import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compilation_cache")]


def recipe(steps: int):
    config = digits.get_config("tiny")
    config.model = {
        "name": "song_unet",
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "num_classes": 10,
        "attention_resolutions": (4,),
    }
    augmented = {"name": "augmentation", "augment": {"name": "edm_augmentation", "probability": 0.5}}
    config.objective.wrappers = (augmented, *config.objective.wrappers)
    config.ema.sigma_rel = 0.05
    config.train.update({"steps": steps, "batch_size": 16, "log_every": 4})
    config.objective.density.strata = 16
    config.optimizer.decay = "constant"
    config.checkpoint.update({"every": 4, "keep": 1, "keep_every": 4})
    config.evaluate.every = 0
    return config


def test_it_resumes_bit_for_bit_and_is_sampled_at_any_width(tmp_path):
    assert train.run(recipe(12), tmp_path / "whole") == 0
    assert train.run(recipe(8), tmp_path / "parts") == 0
    assert train.run(recipe(12), tmp_path / "parts") == 0
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "parts/metrics.jsonl").read_text()
    whole, parts = (checkpoints.read_about(tmp_path / name, 12)["leaves"] for name in ("whole", "parts"))
    assert whole == parts
    assert checkpoints.steps(tmp_path / "whole") == [4, 8, 12]

    words = [sys.executable, "-m", "experiments.sample", f"--workdir={tmp_path / 'whole'}", "--config.sample.number=4",
             "--config.sample.steps=2"]  # fmt: skip
    images = {}
    for flag in ("", "--average=0.05", "--average=0.2"):
        subprocess.run([*words, f"--out={tmp_path / 'out'}", *filter(None, [flag])], check=True)
        images[flag] = np.load(tmp_path / "out" / "samples.npz")["images"]
        checkpoint = json.loads((tmp_path / "out" / "samples.json").read_text())["checkpoint"]
        assert checkpoint.get("average") == (float(flag[10:]) if flag else None)
        assert checkpoint.get("of_steps", [4, 8, 12]) == [4, 8, 12]
    assert np.array_equal(images[""], images["--average=0.05"])  # the tracked width is the stored average
    assert not np.array_equal(images[""], images["--average=0.2"])
    refused = subprocess.run([*words, f"--out={tmp_path / 'out'}", "--average=2"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--average = 2" in refused.stderr
