"""Small files of custom diffusion: diffusers opens ours and we open its own. Live, in `make test-peers`."""

import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion import text_to_image
from diffusion.adapters import custom_diffusion_files
from diffusion.adapters.custom_diffusion import custom_diffusion
from diffusion.adapters.erasure import CROSS
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.peers.test_tunings import INPUTS, WITHIN
from tests.text_to_image import made_pipelines

ALL = r"attn2\.to_([kvq]|out\.0)\.(weight|bias)$"
SAVED = ("keys.safetensors", "keys.bin", "queries.bin")  # of tests/peers/custom_diffusions.py


@live
@pytest.mark.parametrize("targets", [CROSS, ALL], ids=["keys", "queries"])
def test_layers_are_the_same_to_both(targets, tmp_path):
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    model = text_to_image.load(folder)
    tuning = custom_diffusion(text_to_image.described(folder), targets=targets)
    weights = tuning.init(jax.random.key(0), {part: model.params[part] for part in tuning.networks})
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(weights))))
    weights = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), weights)
    written = tuning.write(tmp_path, jax.tree.map(np.asarray, weights), {})
    path = tmp_path / custom_diffusion_files.FILE
    assert path in written
    subprocess.run([PYTHON, "-m", "tests.peers.custom_diffusions", folder, path, tmp_path], cwd=ROOT, check=True)
    theirs = load_file(tmp_path / "outputs.safetensors")
    apply = jax.jit(
        lambda params: model.denoiser.apply({"params": params}, INPUTS["x"], INPUTS["t"], {"text": INPUTS["text"]})
    )
    outputs = {"before": apply(model.params["unet"]), "ours": apply(tuning.attach(model, weights).params["unet"])}
    outputs |= {name: apply(text_to_image.load(folder, loras={tmp_path / name: 1.0}).params["unet"]) for name in SAVED}
    for name, array in outputs.items():
        within = WITHIN * np.abs(theirs[name]).max()
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=within, err_msg=name)
        assert name == "before" or np.abs(theirs[name] - theirs["before"]).max() > 100 * within
    np.testing.assert_allclose(
        apply(text_to_image.load(folder, loras={path: 1.0}).params["unet"]), outputs["ours"], rtol=0, atol=1e-5
    )
