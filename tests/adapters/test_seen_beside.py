"""What a U-Net of more channels sees beside x_t: the mask and the masked picture of inpainting, latent by latent."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.adapters.inpainting import inpainting


@pytest.mark.extended
def test_inpainting_sees_the_mask_and_the_latents_of_the_picture_outside_of_it(monkeypatch):
    """The autoencoder takes every second pixel; what is masked is zero, a latent is painted with one of its pixels."""
    monkeypatch.setattr(sys.modules[inpainting.__module__], "widened", lambda *arguments, **how: (*arguments, how))
    apply = lambda variables, x, method: x[:, ::2, ::2]
    vae = types.SimpleNamespace(factor=2, scale=2.0, shift=0.5, apply=apply)
    kind = types.SimpleNamespace(relatives=types.SimpleNamespace(inpainting="Painting"))
    base = types.SimpleNamespace(kind=kind, channels=3, modules={"vae": vae})
    _, pipeline, channels, seen, how = inpainting(base)
    assert pipeline == "Painting" and channels == 4 and how == {"networks": ("vae",), "reads": ("picture", "mask")}
    picture = np.random.default_rng(0).uniform(0.1, 1, (1, 4, 4, 3)).astype(np.float32)
    mask = np.zeros((1, 4, 4, 1), np.float32)
    mask[0, 0, 0] = mask[0, 3, 3] = 1  # the second is no pixel that the autoencoder takes
    condition = {"picture": jnp.asarray(picture), "mask": jnp.asarray(mask), "text": 1}
    beside = seen({"vae": {}}, condition, jnp.zeros((1, 2, 2, 3)))
    np.testing.assert_array_equal(beside[0, :, :, 0], [[1, 0], [0, 1]])
    latents = (np.where(mask > 0, 0, picture)[0, ::2, ::2] - 0.5) * 2
    np.testing.assert_allclose(beside[0, :, :, 1:], latents, atol=1e-6)
    assert condition == {"text": 1}
