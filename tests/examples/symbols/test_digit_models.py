"""The models of binary digits: bounds that can be written down, and samples of a law that is known."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.symbols import binary_digits, digit_models

MODELS = digit_models.all_models(16, 1, heads=2)
NUMBER = 1024


def blank(model):
    """Parameters 0: every bit is as likely as the other, and the velocity is 0."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.initial, 0))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["masked", "uniform", "Gaussian"])
def test_a_network_without_knowledge_is_charged_what_can_be_written_down(name):
    """log 2 a pixel; of the Gaussian's velocity 0, with t_0 = 0.2, the integral of 2 (1 - t) / t over t from t_0 to 1.

    There -SNR'(t) / 2 |x_0 - x_t|^2 has the mean 2 (1 - t) / t, since SNR = ((1 - t) / t)^2 and |x_0 - eps|^2 is 2 a
    pixel on the average. Prior and reconstruction are below 1e-3.
    """
    model = MODELS[name]
    first = digit_models.FIRST
    expected = 2 * (first - 1 - math.log(first)) if name == "Gaussian" else math.log(2)
    bits = jnp.asarray(np.random.default_rng(0).integers(0, 2, (NUMBER, digit_models.PIXELS)), jnp.int32)
    batch = {"x": bits, "label": jnp.zeros(NUMBER, jnp.int32)}
    nats = np.asarray(jax.jit(model.bound)(blank(model), jax.random.key(1), batch), np.float64)
    strata = nats.reshape(-1, digit_models.TIMES)
    error = math.sqrt(strata.var(0, ddof=1).mean() / NUMBER)
    assert abs(nats.mean() - expected) < 4 * error + 2e-3 and error < 0.05


@pytest.mark.extended
@pytest.mark.parametrize("name", ["masked", "Gaussian"])
def test_samples_are_bits_each_by_its_own_key(name):
    model = MODELS[name]
    keys, labels = jax.random.split(jax.random.key(0), 4), jnp.array([0, 1, 2, 3])
    sample = jax.jit(model.sample, static_argnums=3)
    x = np.asarray(sample(blank(model), keys, labels, 2))
    assert x.shape == (4, digit_models.PIXELS) and set(np.unique(x)) == {0, 1}
    again = sample(blank(model), keys[jnp.array([3, 2, 3, 3])], labels[jnp.array([3, 2, 1, 0])], 2)
    np.testing.assert_array_equal(again[1], x[2])
    np.testing.assert_array_equal(sample(blank(model), keys[2:3], labels[2:3], 2)[0], x[2])


def test_the_splits_are_bits_and_the_judge_knows_copies():
    data = binary_digits.splits()
    assert sum(len(split.x) for split in data.values()) == 1797 and set(np.unique(data["train"].x)) == {0, 1}
    assert binary_digits.pictures(data["test"].x).max() == 255


def test_the_page_names_the_digits_that_were_measured(monkeypatch, tmp_path):
    """The test split has 359 digits."""
    flags = {"pictures": 1000, "batch": 32, "width": 16, "depth": 1, "number": 20, "steps": 1}
    monkeypatch.setattr(binary_digits.flags, "FLAGS", types.SimpleNamespace(**flags))
    monkeypatch.setattr(binary_digits, "Judge", lambda *splits: types.SimpleNamespace(figures=lambda *pictures: {}))
    monkeypatch.setattr(binary_digits.digit_models, "all_models", lambda width, depth: {})
    monkeypatch.setattr(binary_digits.bits_report.report, "software", dict)
    content, _ = binary_digits.measured(tmp_path)
    assert content["protocol"]["pictures"] == content["sizes"]["test"] == 359
