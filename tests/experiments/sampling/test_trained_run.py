"""The real examples that a trained run is compared with."""

import types

import jax
import numpy as np
import pytest

from diffusion import schedules
from diffusion.experiments.sampling import generate, trained_run

LABELS = np.array([0, 0, 1, 1, 2])
IN_TURN = [0, 2, 4, 1]  # the first rows of each class in turn, then the second ones


@pytest.mark.parametrize("bytes_", [True, False])
def test_bytes_are_scaled_and_numbers_stay_as_they_are(monkeypatch, bytes_):
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * 60
    images = images if bytes_ else np.float32(images) / 7
    asked = []
    split = types.SimpleNamespace(images=images, labels=LABELS, conditions=None if bytes_ else {"real": 2 * LABELS})
    monkeypatch.setattr(trained_run.real_images, "split_of", lambda *about: asked.append(about) or split)
    run = types.SimpleNamespace(recipe=types.SimpleNamespace(on_latents=False), config="config")
    x, conditions = trained_run.Trained.real(run, "test", 4)
    assert asked == [("config", "test")] and x.dtype == np.float32
    np.testing.assert_allclose(x, images[IN_TURN] / 127.5 - 1 if bytes_ else images[IN_TURN], atol=1e-6)
    np.testing.assert_array_equal(
        conditions if bytes_ else conditions["real"], (LABELS if bytes_ else 2 * LABELS)[IN_TURN]
    )


def test_images_are_drawn_with_their_classes(monkeypatch):
    """Of 400 images in the order of their classes, 60 are drawn: each once, of both halves, with its own class."""
    images = np.arange(400, dtype=np.float32).reshape(400, 1, 1, 1)
    split = types.SimpleNamespace(images=images, labels=np.arange(400) // 40, conditions=None)
    monkeypatch.setattr(trained_run.real_images, "split_of", lambda *about: split)
    run = types.SimpleNamespace(recipe=types.SimpleNamespace(on_latents=False), config="config")
    x, labels = trained_run.Trained.drawn(run, "test", 60)
    rows = np.asarray(x).ravel().astype(int)
    assert len(set(rows)) == 60 and 18 < (rows < 200).sum() < 42  # 30 +- 3 deviations
    np.testing.assert_array_equal(labels, rows // 40)


def test_the_noise_of_seeds_and_the_keys_of_their_steps_are_those_of_samples(monkeypatch):
    """The start is made of the first half of each seed's keys, and the other half is left for the steps."""
    seeds = np.arange(7, 10, dtype=np.uint32)
    monkeypatch.setattr(generate, "seeds", lambda config, number: seeds[:number])
    run = types.SimpleNamespace(config=None, schedule=schedules.rectified_flow(), shape=(2, 2, 1))
    x, keys = trained_run.Trained.noise(run, 3)
    halves = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    np.testing.assert_allclose(x, [jax.random.normal(half[0], (2, 2, 1)) for half in halves], atol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(keys), [jax.random.key_data(half[1]) for half in halves])
