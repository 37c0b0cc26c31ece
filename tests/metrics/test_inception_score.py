"""The Inception Score of made-up logits, against closed forms and the definition."""

import math

import numpy as np
import pytest

from diffusion.metrics.inception_score import inception_score, inception_score_of_parts


def by_definition(probabilities):
    """exp of the mean Kullback-Leibler divergence, term by term."""
    n, k = probabilities.shape
    marginal = [sum(probabilities[:, c]) / n for c in range(k)]
    terms = [p[c] * math.log(p[c] / marginal[c]) for p in probabilities for c in range(k) if p[c] > 0]
    return math.exp(sum(terms) / n)


@pytest.mark.parametrize("splits", [1, 10])
def test_uniform_predictions_score_1_and_certain_balanced_ones_score_k(splits):
    uniform = inception_score(np.full((50, 7), 3.0), splits)
    assert uniform.value == pytest.approx(1) and uniform.standard_deviation == pytest.approx(0, abs=1e-12)
    certain = inception_score(np.tile(1e4 * np.eye(5), (splits, 1)), splits, seed=None)
    assert certain.value == pytest.approx(5) and certain.standard_deviation == pytest.approx(0, abs=1e-12)
    assert (certain.splits, certain.samples) == (splits, 5 * splits)


def test_certain_unbalanced_predictions_score_the_exponential_of_the_entropy():
    logits = 1e4 * np.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]]
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert inception_score(logits, 1).value == pytest.approx(math.exp(entropy), rel=1e-12)
    missing = 1e4 * np.eye(3)[[0, 0, 2, 2]]  # one class never predicted
    assert inception_score(missing, 1).value == pytest.approx(2, rel=1e-12)


def test_the_definition_in_uneven_splits(rng):
    logits = rng.normal(size=(11, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = inception_score(logits, splits=3, seed=None)
    scores = [by_definition(p[a:b]) for a, b in ((0, 3), (3, 7), (7, 11))]  # i N // splits, none dropped
    assert found.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.standard_deviation == pytest.approx(np.std(scores), rel=1e-10)


def test_parts_have_one_size_and_the_last_has_the_rest(rng):
    """`compute_inception_score(activations, split_size)` of ADM's evaluator."""
    logits = rng.normal(size=(11, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    score = inception_score_of_parts(logits, 4)
    scores = [by_definition(p[start : start + 4]) for start in range(0, 11, 4)]
    assert score.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert score.standard_deviation == pytest.approx(np.std(scores), rel=1e-10)
    assert (score.splits, score.samples) == (3, 11)
    assert inception_score_of_parts(logits, 11) == inception_score(logits, 1, seed=None)
    with pytest.raises(ValueError, match="size = 0 must be at least 1"):
        inception_score_of_parts(logits, 0)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        inception_score_of_parts(logits[:, :1], 4)


def test_large_logits_and_common_offsets_do_no_harm(rng):
    logits = rng.normal(size=(40, 6))
    plain = inception_score(logits, 2)
    assert inception_score(logits + 1e6, 2).value == pytest.approx(plain.value, rel=1e-9)
    assert 1 <= inception_score(1e30 * logits.astype(np.float32), 2).value <= 6


def test_sorted_classes_need_the_shuffle():
    logits = np.repeat(50 * np.eye(10), 40, axis=0)
    assert inception_score(logits, 10, seed=None).value == pytest.approx(1)
    shuffled = inception_score(logits, 10)
    assert shuffled.value > 8
    assert shuffled == inception_score(logits, 10, seed=0) != inception_score(logits, 10, seed=1)


def test_bad_input(rng):
    logits = rng.normal(size=(9, 4))
    with pytest.raises(ValueError, match="logits must have at least 10 rows, got 9"):
        inception_score(logits)
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        inception_score(logits, 0)
    with pytest.raises(ValueError, match=r"\[N, D\], got \[9, 4, 1\]"):
        inception_score(logits[..., None], 1)
    with pytest.raises(ValueError, match="2 classes, got 1"):
        inception_score(logits[:, :1], 1)
    logits[4, 2] = np.nan
    with pytest.raises(ValueError, match="row 4"):
        inception_score(logits, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_two_classes_are_enough():
    assert inception_score(1e4 * np.eye(2)[[0, 1, 0, 1]], 1).value == pytest.approx(2)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        inception_score(np.zeros((4, 1)), 1)


@pytest.mark.parametrize("score", [inception_score, inception_score_of_parts])
def test_probabilities_are_no_logits(score):
    """Their softmax is nearly uniform, so that they once gave a score near 1 without a word."""
    probabilities = np.random.default_rng(0).dirichlet(np.full(10, 0.1), size=30).astype(np.float32)
    for rows in (probabilities, np.eye(10, dtype=np.float32)):  # with zeros too
        with pytest.raises(ValueError, match=r"takes logits, but each row is a distribution.*log\(probabilities\)"):
            score(rows)
    score(np.log(probabilities.astype(np.float64) + 1e-30))
