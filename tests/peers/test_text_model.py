"""A text-to-image model as examples.text writes it, opened by diffusers: the same pictures of the noise."""

import dataclasses
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, text_to_image
from diffusion.experiments.text import model as text_model
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.interchange import families, folders
from diffusion.models.text_encoders.clip import CLIPText
from diffusion.published.pixart.network import PixArt
from diffusion.text import byte_pairs
from diffusion.text_to_image import pipelines

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers/bin/python"
PROMPTS, NEGATIVE, STEPS, GUIDANCE = ["a red circle", "two Blue stars, neon"], "a moon", 5, 3.0
live = pytest.mark.skipif(not os.environ.get("PEERS_FIXTURES"), reason="opened by the libraries in make test-peers")


def drawn(module, seed):
    """Parameters of a module by lot, as large as makes every layer matter."""
    shapes = folders.shapes_of(families.family_of(module), module)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.15, shapes)


@live
@pytest.mark.parametrize("order", [1, 2])
def test_diffusers_makes_the_same_pictures(order, tmp_path):
    byte_pairs.write(tmp_path / "tokenizer", byte_pairs.learn(PROMPTS, 560), 24)
    vae = AutoencoderKL(widths=(8, 16), layers=1, groups=4, middle_attention=False, scale=1.0)
    clip = CLIPText(vocabulary=560, width=16, depth=2, heads=2, hidden=32, positions=24)
    for name, module in (("vae", vae), ("text_encoder", clip)):
        interchange.save(tmp_path / name, module, drawn(module, 1))
    module = PixArt(shape=(16, 16, 4), width=24, depth=2, heads=2, text_width=16, span=8.0, learn_sigma=False)
    parts = {name: tmp_path / name for name in ("text_encoder", "tokenizer", "vae")}
    scheduler = {**text_model.PLUS, "solver_order": order, "flow_shift": 3.0}
    text_model.write(tmp_path / "model", module, drawn(module, 2), scheduler, pipelines.Usual(STEPS, GUIDANCE), parts)

    model = text_to_image.load(tmp_path / "model")
    # It tells the network whole times, 799 for 799.2; ours would differ by that alone.
    whole = parameterizations.x0(lambda schedule, t: jnp.floor(1000 * t))
    model = dataclasses.replace(model, process=model.process._replace(parameterization=whole))
    ours = text_to_image.generate(model, PROMPTS, negative=NEGATIVE, steps=STEPS, guidance=GUIDANCE, seeds=[0, 1])
    own = [jax.random.split(jax.random.key(seed), 3)[0] for seed in (0, 1)]
    noise = np.stack([jax.random.normal(key, (16, 16, 4)) for key in own])
    np.savez(tmp_path / "noise.npz", noise=noise, prompts=PROMPTS, negative=NEGATIVE, steps=STEPS, guidance=GUIDANCE)
    subprocess.run(
        [
            PYTHON,
            "-m",
            "tests.peers.text_model_opened",
            tmp_path / "model",
            tmp_path / "noise.npz",
            tmp_path / "theirs.npz",
        ],
        cwd=ROOT,
        check=True,
    )
    theirs = np.load(tmp_path / "theirs.npz")["pictures"].astype(int)
    assert theirs.std() > 10, "pictures of one colour compare nothing"
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1 and difference.mean() < 0.01
