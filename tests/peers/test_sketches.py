"""The T2I-Adapter that a tuning writes, opened by diffusers' pipeline: the same latents. Live: `make test-peers`."""

import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion import text_to_image
from diffusion.adapters.control import t2i_adapter
from diffusion.models import interchange
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter
from diffusion.text_to_image.picture_controls import Control
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_attached import latents, picture


def tuned(folder, place):
    """An adapter as a tuning writes it."""
    tuning = t2i_adapter(text_to_image.described(folder))
    tuning.write(place, jax.tree.map(np.asarray, tuning.init(jax.random.key(0), {})), {})


def light(folder, place):
    """A light adapter with a width for each level, whose last feature has no place in the base."""
    module = T2IAdapter((16, 32, 32), factor=2, kind="light")
    params = module.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))["params"]
    interchange.save(place / "t2i_adapter", module, params)


@live
@pytest.mark.parametrize("write", [tuned, light])
def test_diffusers_pipeline_follows_our_adapter(write, tmp_path):
    """Four steps with the weight 0.8."""
    folder = made_pipelines.attentive(tmp_path / "sd")
    write(folder, tmp_path)
    to = tmp_path / "latents.safetensors"
    adapter = tmp_path / "t2i_adapter"
    subprocess.run([PYTHON, "-m", "tests.peers.sketches", folder, adapter, to], cwd=ROOT, check=True)
    theirs = load_file(to)["latents"]
    model = text_to_image.load(folder, attachments={"sketch": adapter})
    control = Control("sketch", picture("sketch"), 0.8)
    within = 1e-4 * np.abs(theirs).max()
    np.testing.assert_allclose(latents(model, [control], 4), theirs, rtol=0, atol=within)
    assert np.abs(latents(model, [], 4) - theirs).max() > 100 * within
