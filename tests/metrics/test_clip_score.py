"""CLIP score by hand."""

import math

import numpy as np
import pytest

from diffusion.metrics.clip_score import clip_score, clip_scores


def test_by_hand():
    """Cosines 1, 0.6, 0 and -1, whatever the lengths; the last counts as 0."""
    images = np.array([[2.0, 0], [3, 4], [0, 5], [1, 0]])
    texts = np.array([[7.0, 0], [2, 0], [1, 0], [-3, 0]])
    found = clip_score(images, texts)
    assert found.value == pytest.approx(100 * (1 + 0.6) / 4)
    scores = [100, 60, 0, 0]
    deviation = math.sqrt(sum((s - 40) ** 2 for s in scores) / 3)
    assert found.standard_error == pytest.approx(deviation / 2) and found.samples == 4
    assert clip_score(images, texts, 2.5).value == pytest.approx(2.5 * 1.6 / 4)
    np.testing.assert_allclose(clip_scores(images, texts, 2.5), [2.5, 1.5, 0, 0], atol=1e-12)
    assert clip_score(images.astype(np.float32), texts.astype(np.float16)).value == pytest.approx(40)
    assert math.isnan(clip_score(images[:1], texts[:1]).standard_error)


def test_bad_input():
    rows = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"got \[3, 2\] and \[2, 2\]"):
        clip_score(rows, rows[:2])
    with pytest.raises(ValueError, match="texts: row 1 is zero"):
        clip_score(rows, rows * (np.arange(3) != 1)[:, None])
    with pytest.raises(ValueError, match="images must be finite, but row 0"):
        clip_score(rows * np.nan, rows)
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        clip_score(rows, rows, 0)
