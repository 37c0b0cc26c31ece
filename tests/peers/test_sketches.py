"""The T2I-Adapter that a tuning writes, opened by diffusers' pipeline: the same latents. Live: `make test-peers`."""

import subprocess

import jax
import numpy as np
from safetensors.numpy import load_file

from diffusion import text_to_image
from diffusion.adapters.control import t2i_adapter
from diffusion.text_to_image.picture_controls import Control
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_attached import latents, picture


@live
def test_diffusers_pipeline_follows_our_adapter(tmp_path):
    """Four steps with the weight 0.8."""
    folder = made_pipelines.attentive(tmp_path / "sd")
    tuning = t2i_adapter(text_to_image.described(folder))
    weights = jax.tree.map(np.asarray, tuning.init(jax.random.key(0), {}))
    tuning.write(tmp_path, weights, {})
    to = tmp_path / "latents.safetensors"
    adapter = tmp_path / "t2i_adapter"
    subprocess.run([PYTHON, "-m", "tests.peers.sketches", folder, adapter, to], cwd=ROOT, check=True)
    theirs = load_file(to)["latents"]
    model = text_to_image.load(folder, attachments={"sketch": adapter})
    control = Control("sketch", picture("sketch"), 0.8)
    within = 1e-4 * np.abs(theirs).max()
    np.testing.assert_allclose(latents(model, [control], 4), theirs, rtol=0, atol=within)
    assert np.abs(latents(model, [], 4) - theirs).max() > 100 * within
