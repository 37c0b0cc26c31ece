"""Averages made after training, against the integral of their profile."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion.experiments.sampling import averages
from diffusion.recipe import ConfigError, versions
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import to_json
from diffusion.training import power_ema

KEPT = list(range(100, 3001, 100))


def mean_of_line(step: float, width: float) -> float:
    """The average of params(t) = t by a power function: step (gamma + 1) / (gamma + 2)."""
    gamma = power_ema.gamma(width)
    return step * (gamma + 1) / (gamma + 2)


@pytest.fixture
def run(monkeypatch):
    """A run whose parameter at time t is t, and whose checkpoints keep averages of width 0.05."""
    load = lambda folder, step: ({"w": np.full(2, mean_of_line(step, 0.05), np.float32)}, step)
    monkeypatch.setattr(averages.checkpoints, "load_ema", load)
    monkeypatch.setattr(averages.checkpoints, "steps", lambda folder: KEPT)
    monkeypatch.setattr(averages.checkpoints, "latest", lambda folder: KEPT[-1])


@pytest.mark.parametrize(
    ("step", "width", "tolerance"),  # the more are kept, the closer; the tracked width itself is exact
    [(None, 0.05, 1e-6), (None, 0.07, 2e-3), (None, 0.1, 2e-3), (1500, 0.05, 1e-6), (1500, 0.1, 2e-2)],
)
def test_any_width_comes_from_the_kept_averages(run, step, width, tolerance):
    params, end, description = averages.post_hoc("run", 0.05, width, step)
    steps = [kept for kept in KEPT if kept <= end]
    assert end == (step or 3000) and description["of_steps"] == steps and len(description["weights"]) == len(steps)
    assert (description["average"], description["tracked"]) == (width, 0.05)
    np.testing.assert_allclose(params["w"], mean_of_line(end, width), rtol=tolerance)


def test_an_average_far_from_the_requested_one_is_said(run, monkeypatch):
    """One checkpoint has one average, whatever the width; many come close, without a word."""
    assert averages.post_hoc("run", 0.05, 0.07)[2]["distance"] < 0.1
    monkeypatch.setattr(averages.checkpoints, "steps", lambda folder: KEPT[-1:])
    assert averages.post_hoc("run", 0.05, 0.05)[2]["distance"] == 0
    words = r"--average = 0\.1: the profile from 1 checkpoints differs by 69 % .*config\.checkpoint\.keep_every"
    with pytest.warns(UserWarning, match=words):
        _, _, description = averages.post_hoc("run", 0.05, 0.1)
    assert description["distance"] == pytest.approx(0.69, abs=5e-3)


def test_what_cannot_be_made_is_refused_in_words(run, monkeypatch):
    with pytest.raises(ConfigError, match=r"sigma_rel=0\.05"):
        averages.post_hoc("run", 0.0, 0.1)
    with pytest.raises(ConfigError, match=r"--average = 0\.9"):
        averages.post_hoc("run", 0.05, 0.9)
    with pytest.raises(
        ConfigError, match=rf"no checkpoint at or before --step=1\. Valid: a step of at least {KEPT[0]}"
    ):
        averages.post_hoc("run", 0.05, 0.1, 1)
    monkeypatch.setattr(averages.checkpoints, "steps", lambda folder: [])
    monkeypatch.setattr(averages.checkpoints, "latest", lambda folder: None)
    with pytest.raises(ConfigError, match=r"--average=0\.1: run has no checkpoint of a trained step\. Train"):
        averages.post_hoc("run", 0.05, 0.1)


def test_a_config_chooses_the_average():
    recipe = digits.get_config("tiny")
    first = lambda: Resolver(recipe).average.update({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, jnp.int32(0))["w"]
    assert 0 < first() < 1  # an exponential average of the start and of the first update
    recipe.ema.sigma_rel = 0.05
    assert first() == 1  # a power function forgets its start
    before = to_json(digits.get_config()).replace('"sigma_rel": 0.0', '"warmup": true')
    assert versions.read(before).ema.sigma_rel == 0.0  # a run of before the field was there


def test_the_start_of_a_run_is_no_average(run, monkeypatch):
    monkeypatch.setattr(averages.checkpoints, "steps", lambda folder: [0, *KEPT])
    assert averages.post_hoc("run", 0.05, 0.05)[2]["of_steps"] == KEPT
