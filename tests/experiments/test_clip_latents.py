"""From clips to latents, to a run of videos on them, and back: samples and films are clips of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion.experiments import encode, film, train
from diffusion.experiments.sampling import autoencoder_folders, run_samples, trained_run
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.recipe import checks, recipes
from diffusion.recipe.data import named

VAE = AutoencoderKLVideo(widths=(4, 4), layers=1, temporal=(True,), latent_channels=2, scale=0.5, shift=0.1)
SOURCE = {"name": "moving_drawings", "frames": 9, "side": 8, "number": 4}


def test_latents_are_sampled_with_the_conditions_of_what_they_are_of(tmp_path):
    """Also where only their shape is known; the vectors are read from the clips' own source."""
    np.savez(tmp_path / "clips.npz", x=np.zeros((3, 9, 8, 8, 3)), vector=np.ones((3, 5)))
    source = {"name": "arrays", "path": str(tmp_path / "clips.npz"), "x": "x", "condition": ("vector",)}
    base = recipes.module("small_flow")
    density = {"name": "uniform_density"}
    config: ConfigDict = base.flow(source, {"name": "flow_matching", "density": density}, steps=2, batch_size=2)
    config.objective.wrappers = ({"name": "condition_dropout", "rate": 0.5},)
    config.model = {"name": "video_dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "vector_width": 5}
    config.data.update({"shape": (5, 4, 4, 2), "latents": {"dir": "latents", "autoencoder": "vae"}})
    recipe = checks.on_its_data(checks.validate(config))
    assert recipe.examples.shape == (5, 4, 4, 2) and recipe.examples.dtype is None
    np.testing.assert_array_equal(recipe.examples.null["vector"], np.zeros(5))


@pytest.mark.slow
def test_a_run_on_latents_of_clips_makes_clips(tmp_path):
    vae, cache, run = (str(tmp_path / name) for name in ("vae", "cache", "run"))
    shapes = jax.eval_shape(lambda: VAE.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8, 3))))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * rng.normal(size=s.shape), jnp.float32), shapes)
    interchange.save(vae, VAE, params)
    text = '{"name": "moving_drawings", "frames": 9, "side": 8, "number": 4}@train'
    cached = encode.run(autoencoder_folders.load(vae), named(text), cache, batch_size=4)
    assert cached.shape == (5, 4, 4, 2) and cached.autoencoder["family"] == "AutoencoderKLWan"

    base = recipes.module("small_flow")
    density = {"name": "given_frames", "density": {"name": "uniform_density"}, "patterns": (".....", "1....")}
    config: ConfigDict = base.flow(SOURCE, {"name": "flow_matching", "density": density}, steps=2, batch_size=2)
    config.objective.wrappers = ({"name": "pictures", "share": 0.5},)
    config.model = {"name": "video_dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 4}
    config.data.latents.update({"dir": cache, "autoencoder": vae})
    config.train.log_every = 1
    base.sampled(config, "euler", steps=2, number=3, batch_size=3)
    assert train.run(config, run) == 0
    recipe = checks.on_its_data(checks.validate(config))
    made = run_samples.sample(recipe, run)
    assert made.shape == (3, 9, 8, 8, 3) and made.dtype == np.uint8 and (tmp_path / "run" / "samples.gif").is_file()

    films = film.film(trained_run.load(run), "train", first=1, frames=7)
    assert films["images"].shape == (3, 13, 8, 8, 3) and films["given"].tolist() == [True] + [False] * 12
    np.testing.assert_array_equal(films["images"][:, 0], films["originals"][:, 0])
