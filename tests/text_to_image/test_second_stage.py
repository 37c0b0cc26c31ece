"""The second stage of a text-to-image model draws noise of its own."""

import pathlib
import types

import jax
import numpy as np
import pytest

from diffusion import samplers
from diffusion.models.interchange import schedulers
from diffusion.models.interchange.family import Refusal
from diffusion.text_to_image import denoiser_checks, second_stage

SHAPE = (2, 3, 4)


def test_its_keys_are_drawn_from_no_others(monkeypatch):
    """The first stage splits the same keys into three, for its noise, its steps and an image (programs.begin)."""
    calls, passed = [], []
    monkeypatch.setattr(second_stage, "denoiser", lambda *arguments: passed.append(arguments))
    monkeypatch.setattr(samplers, "sample", lambda sampler, denoise, schedule, x, plan, keys: calls.append((x, keys)))
    process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    stage = types.SimpleNamespace(network="decoder", steps=3)
    model = types.SimpleNamespace(kind=types.SimpleNamespace(second_stage=stage), second_process=process)
    course = types.SimpleNamespace(decoded_latents=lambda model: SHAPE)
    keys = jax.random.split(jax.random.key(0), 5)
    coarse = np.zeros((5, 1, 1, 1))
    second_stage.finer(model, course, "params", coarse, "condition", keys)
    ((x, step_keys),), ((to_model, trajectory, *rest),) = calls, passed
    assert to_model is model and len(trajectory.plan.t) == 3
    assert (rest[0], rest[2]) == ("params", "condition") and rest[1] is coarse
    data = lambda keys: {tuple(key) for key in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}
    first = [jax.random.split(key, 3) for key in keys]
    assert len(data(step_keys)) == 5 and not data(step_keys) & (data(keys) | set().union(*map(data, first)))
    noises = [jax.random.normal(key, SHAPE) for part in (*first, step_keys) for key in part]
    start = schedulers.trajectory(process, "", 3).start
    for row in np.asarray(x):
        assert not any(np.allclose(row, start * noise) for noise in noises)
    assert len({row.tobytes() for row in np.asarray(x)}) == 5
    numbers = np.arange(1000)  # of the most steps of a request, which the first stage folds in
    steps = jax.vmap(lambda i: jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i), 3))(keys))(numbers)
    assert not data(step_keys) & data(steps)
    folded = [jax.random.split(jax.random.fold_in(key, 2**31)) for key in keys]  # the same in every version
    np.testing.assert_allclose(x, start * np.stack([jax.random.normal(noise, SHAPE) for noise, _ in folded]), rtol=1e-6)
    np.testing.assert_array_equal(jax.random.key_data(step_keys), [jax.random.key_data(step) for _, step in folded])


def test_its_denoiser_sees_the_first_stages_latents_and_the_pooled_text():
    """The network predicts the noise, here the sum of what it sees: x_0 = (x - sigma eps) / alpha."""
    seen = []

    class Sum:
        def apply(self, variables, x, clock, condition):
            seen.append((variables, set(condition)))
            return x + condition["coarse"] + condition["pooled"][:, None, None]

    process = schedulers.read({"_class_name": "DDIMScheduler", "num_train_timesteps": 1000})
    kind = types.SimpleNamespace(second_stage=types.SimpleNamespace(network="decoder", steps=3))
    model = types.SimpleNamespace(kind=kind, second_process=process, modules={"decoder": Sum(), "prior": None})
    trajectory = schedulers.trajectory(process, "", 3)
    rng = np.random.default_rng(0)
    x, coarse = (rng.normal(size=(2, 2, 2, 1)).astype(np.float32) for _ in range(2))
    condition = {"pooled": np.float32([[0.5], [-1.0]]), "text": 1}
    params = {"decoder": "own", "prior": "other"}
    t = float(trajectory.plan.t[1])
    predicted = second_stage.denoiser(model, trajectory, params, coarse, condition)(x, t)
    assert seen == [({"params": "own"}, {"coarse", "pooled"})]
    eps = x + coarse + condition["pooled"][:, None, None]
    np.testing.assert_allclose(predicted.eps, eps, rtol=1e-5, atol=1e-6)
    alpha, sigma = float(process.schedule.alpha(t)), float(process.schedule.sigma(t))
    np.testing.assert_allclose(predicted.x0, (x - sigma * eps) / alpha, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coarse, made, fits", [(3, 4, True), (4, 3, False), (3, 5, False), (2, 4, False)])
def test_it_makes_the_latents_of_the_autoencoder_from_those_of_the_first(coarse, made, fits):
    first, vae = types.SimpleNamespace(channels=3), types.SimpleNamespace(latent_channels=4)
    check = lambda **channels: denoiser_checks.check_second_stage(
        pathlib.Path("a"), first, types.SimpleNamespace(**channels), vae
    )
    if fits:
        check(coarse_channels=coarse, channels=made)
    else:
        message = rf"a: .* latents of 4 channels from latents of 3, but this one makes {made} from {coarse}\."
        with pytest.raises(Refusal, match=message):
            check(coarse_channels=coarse, channels=made)
    with pytest.raises(Refusal, match=r"but this one makes 4 from 0\."):
        check(channels=4)
