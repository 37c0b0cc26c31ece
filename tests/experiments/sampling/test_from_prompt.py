"""experiments.sample --model: pictures of prompts as files that carry how they were made, and --again."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion.io import pictures
from experiments.config import ConfigError
from experiments.sampling import from_prompt
from tests.text_to_image import made_pipelines

ROOT = pathlib.Path(__file__).parents[3]


def sample(place, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.sample", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
def test_pictures_carry_their_settings_and_are_made_again_to_the_byte(tmp_path, compilation_cache):
    made_pipelines.folder("sd", tmp_path / "model")
    rng = np.random.default_rng(0)
    pictures.write(tmp_path / "cat.png", rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), {})
    flags = ["--model=model", "--prompt=a cat", "--negative=bad", "--steps=3", "--guidance=5", "--seed=42", "-n", "2",
             "--sampler=euler_ancestral", "--image=cat.png", "--strength=0.7"]  # fmt: skip
    told = sample(tmp_path, *flags, "--out=made")
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["made/42.png", "made/43.png"]
    about = pictures.settings_of(tmp_path / "made" / "43.png")
    known = {
        "prompt": "a cat",
        "negative": "bad",
        "steps": 3,
        "guidance": 5.0,
        "seed": 43,
        "sampler": "euler_ancestral",
        "strength": 0.7,
        "image": "cat.png",
        "device": jax.devices()[0].device_kind,
    }
    assert {key: about[key] for key in known} == known
    assert len(about["checkpoint"]) == len(about["files"]["cat.png"]) == 64 and "jax" in about["versions"]

    told = sample(tmp_path, "--again=made/43.png")
    assert told.stdout.strip() == "made/43_again.png: the same bytes", told.stderr
    assert (tmp_path / "made/43.png").read_bytes() == (tmp_path / "made/43_again.png").read_bytes()

    pictures.write(tmp_path / "cat.png", rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), {})
    told = sample(tmp_path, "--again=made/43.png")
    assert told.returncode == 2 and "cat.png is not the file that made/43.png was made with" in told.stderr
    (tmp_path / "model" / "scheduler" / "scheduler_config.json").write_text("{}")
    told = sample(tmp_path, "--again=made/43.png")
    assert told.returncode == 2 and "is not the model that made/43.png was made with" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.fixture
def flags():
    """The flags at their defaults, and as they were before afterwards."""
    from absl import flags

    values = flags.FLAGS
    if not values.is_parsed():
        values(["sample"])
    before = values.flag_values_dict()
    yield values
    for name, value in before.items():
        if getattr(values, name) != value:
            setattr(values, name, value)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "--prompt is missing"),
        ({"prompt": "a cat", "n": 0}, "-n and --batch_size must be at least 1"),
        ({"prompt": "a cat", "lora": ["style.safetensors:much"]}, "write FILE:WEIGHT"),
        ({"prompt": "a cat", "margins": ["1", "2"]}, "write four numbers, top,bottom,left,right"),
        ({"prompt": "a cat", "margins": ["1", "2", "x", "4"]}, "--margins=1,2,x,4: write four numbers"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, given, message):
    for name, value in given.items():
        setattr(flags, name, value)
    with pytest.raises(ConfigError, match=message):
        from_prompt.from_flags()


def test_flags_are_settings(flags):
    flags.model, flags.prompt, flags.seed, flags.n = "folder", "a cat", 5, 3
    flags.lora, flags.margins = ["a.safetensors:0.5", "b.safetensors"], ["0", "8", "0", "8"]
    found = from_prompt.from_flags()
    assert found["seeds"] == [5, 6, 7] and found["margins"] == [0, 8, 0, 8]
    assert found["loras"] == {"a.safetensors": 0.5, "b.safetensors": 1.0}
    assert set(found) == set(from_prompt.SETTINGS)


@pytest.mark.parametrize("settings", [{}, {"format": 2}, {"format": from_prompt.FORMAT, "prompt": "a cat"}])
def test_a_picture_without_all_its_settings_is_not_made_again(tmp_path, settings):
    pictures.write(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), settings)
    with pytest.raises(ValueError, match=r"are of another format than this program writes \(1\)"):
        from_prompt.again(tmp_path / "a.png", None)


def test_what_differs_is_said_in_words(tmp_path):
    about = {"device": "TPU v9", "versions": {"jax": "0.1"}}
    first = np.zeros((2, 2, 3), np.uint8)
    second = np.full((2, 2, 3), 3, np.uint8)
    for name, picture in (("a", first), ("b", second), ("c", second * 20)):
        pictures.write(tmp_path / f"{name}.png", picture, {"name": name})
    said = from_prompt.verdict(tmp_path / "a.png", tmp_path / "b.png", about, "cpu")
    assert "differ by up to 3 of 255 (device 'cpu' in place of 'TPU v9', jax" in said and "within the 8" in said
    assert "MORE THAN the 8" in from_prompt.verdict(tmp_path / "a.png", tmp_path / "c.png", about, "cpu")


def test_no_file_is_written_over(tmp_path):
    for expected in ("7.png", "7-1.png", "7-2.png"):
        path = from_prompt.free(tmp_path, "7")
        assert path.name == expected
        path.touch()
