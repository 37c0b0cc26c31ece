"""Characters of prose: the program learns, measures and infills."""

import collections
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from diffusion.data import english_prose as prose
from diffusion.recipe import ConfigError
from examples.symbols import characters, comparison


def test_windows_begin_anywhere_and_times_have_a_place_of_their_own_in_each_stratum():
    windows = characters.windows_of(np.arange(9), 64, 8)(np.random.default_rng(0))
    assert {tuple(row) for row in np.asarray(windows).tolist()} == {tuple(range(8)), tuple(range(1, 9))}
    keys, t = characters.keys_and_times(jax.random.key(0), 16)
    place = np.asarray(t) * 16 - np.arange(16)
    assert keys.shape == (16,) and ((place > 0) & (place < 1)).all() and len(np.unique(place.round(4))) == 16


def test_the_quality_of_samples_is_that_of_their_runs_and_complete_words():
    """Words that a window may have cut count neither at its beginning nor at its end."""
    real = np.stack([prose.encode("the mean of the rows"), prose.encode("an array of the mean")])
    texts = ["a the cat of thex", "e mean an array an", "the of  the mean a"]
    length = min(map(len, texts))
    x = np.stack([prose.encode(text[:length]) for text in texts])
    found = comparison.quality(x, real, frozenset(["the", "of", "mean", "an"]), [])
    assert found["words"] == pytest.approx((2 + 2 + 3) / (3 + 3 + 3))
    runs_of = lambda rows: collections.Counter(tuple(row[i : i + 3]) for row in rows for i in range(len(row) - 2))
    runs = [runs_of(real), runs_of(x)]
    shares = np.array([[runs[k][one] for one in runs[0] | runs[1]] for k in (0, 1)], float)
    assert found["trigrams"] == pytest.approx(scipy.spatial.distance.jensenshannon(*shares, base=2) ** 2)
    assert found["entropy"] == pytest.approx(scipy.stats.entropy(np.bincount(x.ravel()), base=2))
    assert found["judged"] == pytest.approx(math.log2(27))  # without counts all letters are equal


@pytest.mark.slow
def test_the_estimate_of_a_network_without_knowledge_is_the_bits_of_equal_letters():
    """All parameters 0: every letter has probability 1 / 27, and the bound of a window is log2 27 on the average."""
    network = characters.network_of(32, 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    text = np.random.default_rng(0).integers(0, 27, 20 * 8).astype(np.int8)
    rows = text.reshape(-1, 8).astype(np.int32)
    found = characters.mean_bits(functools.partial(characters.loss, network), params, rows, times=64)
    # One over a small time weighs a mask that is seen there: a few windows make most of the error.
    assert 0 < found.error < 0.3 and abs(found.bits - math.log2(27)) < 4 * found.error


@pytest.mark.slow
def test_a_few_steps_learn_that_a_window_repeats_one_letter():
    """Half of the text is one letter, half another: 1 bit for a window of 8, and one that shows says all the others."""
    text = np.repeat(np.array([1, 2], np.int8), 800)
    network = characters.network_of(32, 1)
    loss = functools.partial(characters.loss, network)
    first = characters.initial(network, 8, seed=0)
    params = characters.train(first, loss, characters.windows_of(text, 16, 8), steps=200, seed=0)
    rows = np.concatenate([text[:80], text[-80:]]).reshape(-1, 8).astype(np.int32)
    found = characters.mean_bits(loss, params, rows, times=8)
    assert 1 / 8 - 4 * found.error < found.bits < 0.4
    predict = characters.predictor(network, params)
    assert characters.infilled(predict, "b_____bb", jax.random.key(1)) == "bbbbbbbb"


def test_a_network_that_returns_nan_is_named():
    loss = lambda params, key, rows: rows * params["scale"]
    params, rows = {"scale": jnp.float32(jnp.nan)}, np.ones(3, np.float32)
    with pytest.raises(ValueError, match="the loss of step 1 is nan"):
        characters.train(params, loss, lambda rng: rows, steps=1, seed=0)
    with pytest.raises(ValueError, match="the bound of 3 of 3 rows is NaN"):
        characters.mean_bits(loss, {"scale": jnp.float32(jnp.nan)}, rows, times=2)


def test_no_more_windows_are_measured_than_the_text_has(monkeypatch):
    """A request for more ended in numpy's error about a shape, or the page named windows that do not exist."""
    text = np.arange(50, dtype=np.int8) % 27
    windows = characters.held_out_windows(text, 200, 12)
    assert windows.dtype == np.int32
    np.testing.assert_array_equal(windows, np.arange(48).reshape(4, 12) % 27)
    assert characters.held_out_windows(text, 3, 12).shape == (3, 12)
    with pytest.raises(ConfigError, match=r"--length=26: the held-out text has 50 characters.*Valid: at most 25"):
        characters.held_out_windows(text, 200, 26)


def test_the_page_of_the_comparison_names_the_windows_that_were_measured(monkeypatch):
    flags = {"length": 12, "windows": 200, "batch": 1, "width": 32, "depth": 1, "number": 4, "times": 1, "steps": 1}
    monkeypatch.setattr(comparison.flags, "FLAGS", types.SimpleNamespace(**flags))
    text = np.random.default_rng(0).integers(0, 27, 1250).astype(np.int8)
    prose = types.SimpleNamespace(train=text, held_out=text[:50], versions={})
    monkeypatch.setattr(comparison.prose, "read", lambda: prose)
    monkeypatch.setattr(comparison.text_models, "all_models", lambda width, depth: {})
    monkeypatch.setattr(comparison.bits_report.report, "software", dict)
    assert comparison.measured(None)["protocol"]["windows"] == 4
