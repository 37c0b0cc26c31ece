"""Where an autoencoder's pictures are computed."""

import jax
import numpy as np
import pytest

from diffusion.experiments.sampling import autoencoder_folders


@pytest.mark.parametrize("devices, count", [(1, 3), (2, 3), (3, 4)])
def test_pictures_that_devices_do_not_divide_are_moved_by_nobody(monkeypatch, devices, count):
    monkeypatch.setattr(autoencoder_folders.jax, "local_devices", lambda: jax.devices()[:1] * devices)
    params, images = object(), np.zeros((count, 2, 2, 3), np.uint8)
    placed = autoencoder_folders.placed(params, images)
    assert placed[0] is params and placed[1] is images
