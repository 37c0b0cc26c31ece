"""ImageNet's recipes from TFDS's dataset to the FID, by the commands of their docstrings, on a stand-in of its layout.

The stand-in has TFDS's features of imagenet2012 (JPEG files of any size, grey ones among them, 1000 classes, file
names) and a few random pictures; the autoencoder is made here, and FID's network read where DIFFUSION_INCEPTION names
it.
"""

import ast
import io
import json
import os
import pathlib
import re
import shlex

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffusion.data import sources
from diffusion.io import npz
from diffusion.metrics import image_sets
from tests import commands
from tests.data.made import write
from tests.experiments.test_encode import made

ROOT = pathlib.Path(__file__).parents[2]
NUMBER = 12


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="jpeg", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The folder of a dataset imagenet2012 with NUMBER pictures."""
    rng = np.random.default_rng(0)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=[f"n{i:08}" for i in range(1000)]),
        "file_name": tfds.features.Text(),
    }
    examples = []
    for k in range(NUMBER):
        size = (90 + 60 * k, 500 - 30 * k)  # wide and narrow ones, some smaller than 256
        grey = rng.integers(0, 256, size, np.uint8)
        image = grey if k == 5 else np.stack([np.roll(grey, 3 * c) for c in range(3)], axis=-1)
        examples.append({"image": jpeg(image), "label": 83 * k, "file_name": f"n{83 * k:08}_{k}.JPEG"})
    return write(tmp_path_factory.mktemp("tfds"), features, examples, version="5.1.0", called="imagenet2012")


def of_docstring(recipe: str) -> list[list[str]]:
    """The words of each command in a recipe's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / f"configs/{recipe}.py").read_text())).replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ *(diffusion \w+ --.*)$", text, re.MULTILINE)]


def test_squares_of_a_dataset_of_any_sizes(imagenet):
    with pytest.raises(image_sets.ImageSetError, match="the side of squares to which all are resized"):
        image_sets.open_set("imagenet2012@train", imagenet)
    found = image_sets.open_set("imagenet2012@train", imagenet, side=64)
    records, _ = sources.open_source("imagenet2012", "train", imagenet, side=64)
    assert (found.count, found.shape) == (NUMBER, (64, 64, 3))
    np.testing.assert_array_equal(found.read(0, NUMBER), [records[row]["image"] for row in range(NUMBER)])
    assert found.fingerprint != image_sets.open_set("imagenet2012@train", imagenet, side=32).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["imagenet256_dit", "imagenet256_sit"])
def test_the_commands_of_the_docstring_run_from_pictures_to_fid(recipe, imagenet, tmp_path):
    """Encode, train, sample and evaluate as the docstring says, with the tiny preset and a made autoencoder."""
    inception = os.environ.get("DIFFUSION_INCEPTION", "")
    written = of_docstring(recipe)
    assert [words[1] for words in written] == ["encode", "train", "sample", "evaluate"]
    vae = made(tmp_path / "vae", levels=4, channels=3)
    env = {**os.environ, "TFDS_DATA_DIR": imagenet}
    ours = {
        "=VAE": f"={vae}",
        "=latents/": f"={tmp_path}/latents/",
        "=runs/": f"={tmp_path}/runs/",
        f"--config={recipe}": f"--config={recipe}:tiny",
        "=INCEPTION": f"={inception}",
    }
    run = tmp_path / "runs" / recipe.removeprefix("imagenet256_")

    def execute(words):
        for old, new in ours.items():
            words = [word.replace(old, new) for word in words]
        if words[1] == "train":
            words.append(f"--config.data.latents.dir={tmp_path}/latents/imagenet256")
        done = commands.run(*words, env=env, timeout=900)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    outputs = [execute(words) for words in written[:3]]
    assert f"encoding done={NUMBER} total={NUMBER} unit=pictures" in outputs[0]
    assert f"moments (32, 32, 4) of {NUMBER} pictures of imagenet2012@train, plainxflipped" in outputs[0]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 20 and all(np.isfinite(row["loss"]) for row in rows)
    assert npz.headers(run / "samples.npz")["images"].shape == (4, 256, 256, 3)
    if not inception:
        pytest.skip("encoded, trained and sampled; DIFFUSION_INCEPTION does not name the weights for the FID")
    execute(written[3])
    record = json.loads((run / "fid.json").read_text())
    assert record["figures"]["fid"]["value"] > 0
    assert record["figures"]["fid"]["samples"] == 4 and record["figures"]["fid"]["reference"] == NUMBER
    assert record["request"]["size"] == 256
    assert record["protocol"]["name"] == "adm" and {"sfid", "is"} <= record["figures"].keys()
