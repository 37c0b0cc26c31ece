"""What our tunings write, opened by diffusers and peft: the same outputs. Live: under `make test-peers` alone."""

import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion import text_to_image
from diffusion.adapters import low_rank
from tests.peers.made_weights import drawn
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines

WITHIN = 5e-5  # of the largest number; as tests/peers/test_loras.py
INPUTS = {  # those of tests/peers/tunings.py
    "x": drawn("tuning x", 2, 8, 8, 4),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("tuning text", 2, 12, 24),
}
TARGETS = {"targets": rf"{low_rank.ATTENTION}|mid_block\.resnets\.0\.conv1$"}  # with convolutions
TUNINGS = {
    "lora": lambda base: low_rank.lora(base, 2, 3.0, **TARGETS, text_targets=low_rank.TEXT),
    "dora": lambda base: low_rank.dora(base, 2, 3.0, **TARGETS, text_targets=low_rank.TEXT),
    "loha": lambda base: low_rank.loha(base, 2, 3.0, **TARGETS),
    "lokr": lambda base: low_rank.lokr(base, 2, 3.0, **TARGETS),
}


@live
@pytest.mark.parametrize("kind", TUNINGS)
def test_others_open_what_a_tuning_writes(kind, tmp_path):
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    base = text_to_image.described(folder)
    model = text_to_image.load(folder)
    tuning = TUNINGS[kind](base)
    weights = tuning.init(jax.random.key(0), {part: model.params[part] for part in ("unet", "text_encoder")})
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(weights))))
    weights = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), weights)
    (path,) = tuning.write(tmp_path, jax.tree.map(np.asarray, weights), {})
    to = tmp_path / "outputs.safetensors"
    opened = "lora" if kind == "dora" else kind
    subprocess.run([PYTHON, "-m", "tests.peers.tunings", opened, folder, path, to], cwd=ROOT, check=True)
    theirs = load_file(to)
    tuned = tuning.attach(model, weights)
    condition = {"text": INPUTS["text"]}
    ours = {
        "unet": tuned.denoiser.apply({"params": tuned.params["unet"]}, INPUTS["x"], INPUTS["t"], condition),
        "text": tuned.encoded(tuned.params, tuned.tokens(["a cat", "a dog"]))["text"],
    }
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=WITHIN * np.abs(theirs[name]).max(), err_msg=name)
