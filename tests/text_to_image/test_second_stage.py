"""The second stage of a text-to-image model draws noise of its own."""

import types

import jax
import numpy as np

from diffusion import samplers
from diffusion.models.interchange import schedulers
from diffusion.text_to_image import second_stage

SHAPE = (2, 3, 4)


def test_its_keys_are_drawn_from_no_others(monkeypatch):
    """The first stage splits the same keys into three, for its noise, its steps and an image (programs.begin)."""
    calls = []
    monkeypatch.setattr(second_stage, "denoiser", lambda *_: None)
    monkeypatch.setattr(samplers, "sample", lambda sampler, denoise, schedule, x, plan, keys: calls.append((x, keys)))
    process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    stage = types.SimpleNamespace(network="decoder", steps=3)
    model = types.SimpleNamespace(kind=types.SimpleNamespace(second_stage=stage), second_process=process)
    course = types.SimpleNamespace(decoded_latents=lambda model: SHAPE)
    keys = jax.random.split(jax.random.key(0), 5)
    second_stage.finer(model, course, {}, np.zeros((5, 1, 1, 1)), {}, keys)
    ((x, step_keys),) = calls
    data = lambda keys: {tuple(key) for key in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}
    first = [jax.random.split(key, 3) for key in keys]
    assert len(data(step_keys)) == 5 and not data(step_keys) & (data(keys) | set().union(*map(data, first)))
    noises = [jax.random.normal(key, SHAPE) for part in (*first, step_keys) for key in part]
    start = schedulers.trajectory(process, "", 3).start
    for row in np.asarray(x):
        assert not any(np.allclose(row, start * noise) for noise in noises)
    assert len({row.tobytes() for row in np.asarray(x)}) == 5
