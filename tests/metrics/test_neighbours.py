"""Nearest neighbours against brute force in integers, and copying that shows."""

import numpy as np
import pytest

from diffusion.metrics import detection, neighbours


def brute_force(queries, references):
    """Distances by integer arithmetic, image by image."""
    q, r = (a.reshape(len(a), -1).astype(np.int64) for a in (queries, references))
    squared = np.array([[((x - y) ** 2).sum() for y in r] for x in q])
    return np.sqrt(squared.min(1)) / 255, squared.argmin(1)


@pytest.mark.parametrize("shape", [(4, 4, 1), (32, 32, 3)])
@pytest.mark.parametrize("block", [3, 1024])
def test_exact_whatever_the_block(rng, shape, block):
    references = rng.integers(0, 256, (17, *shape), dtype=np.uint8)
    queries = np.concatenate([rng.integers(0, 256, (7, *shape), dtype=np.uint8), references[[5, 16]]])
    queries[-1, 0, 0, 0] ^= 1  # one bit from a copy
    distances, indices = neighbours.nearest(queries, references, block)
    expected, where = brute_force(queries, references)
    assert (distances == expected).all()  # not almost: 32-bit sums of squares would miss by units here
    assert (indices == where).all()
    assert distances[-2] == 0 and distances[-1] == 1 / 255


def test_extreme_bytes_do_not_overflow_exactness():
    black = np.zeros((1, 64, 64, 3), np.uint8)
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    white[0, 0, 0, 0] = 254
    distance, _ = neighbours.nearest(white, black)
    assert distance[0] == np.sqrt(255**2 * (64 * 64 * 3 - 1) + 254**2) / 255


def test_copying_shows(rng):
    draw = lambda n: rng.integers(0, 256, (n, 5, 5, 1), dtype=np.uint8)
    train = draw(200)
    held_out = draw(300)
    honest = neighbours.copying(draw(400), held_out, train)
    assert honest["share_below_held_out_percentile"]["5"] < 0.12
    assert honest["samples"]["exact_duplicates"] == 0 and honest["samples"]["count"] == 400
    copies = train[rng.integers(0, 200, 400)].copy()
    copies[:300, 0, 0, 0] ^= 3
    copied = neighbours.copying(copies, held_out, train)
    assert copied["share_below_held_out_percentile"] == {"1": 1.0, "5": 1.0}
    assert copied["interval_below_held_out_percentile"]["5"] == pytest.approx([400 / (400 + 2.2414027**2), 1.0])
    distance = lambda pictures: brute_force(pictures, train)[0]
    wanted = detection.hits_interval(-distance(train[:90] ^ 64), -distance(held_out), 0.05)
    found = neighbours.copying(train[:90] ^ 64, held_out, train)["interval_below_held_out_percentile"]
    assert found["5"] == pytest.approx(wanted) and found["1"][0] == 0  # 1 % of 300 may be none
    assert copied["samples"]["exact_duplicates"] == 100
    assert copied["samples"]["quantiles"]["0.5"] < 0.02 < honest["samples"]["quantiles"]["0"]
    expected = np.quantile(brute_force(held_out, train)[0], [0, 0.5, 1])
    found = [copied["held_out"]["quantiles"][q] for q in ("0", "0.5", "1")]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bad_input(rng):
    images = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(TypeError, match="queries must be uint8 images, got float32"):
        neighbours.nearest(images.astype(np.float32), images)
    with pytest.raises(TypeError, match="references must be uint8 images, got int64"):
        neighbours.nearest(images, images.astype(np.int64))
    with pytest.raises(ValueError, match=r"shape; got \[4, 4, 1\] and \[5, 4, 1\]"):
        neighbours.nearest(images, np.zeros((3, 5, 4, 1), np.uint8))
    with pytest.raises(ValueError, match="at least one reference"):
        neighbours.nearest(images, images[:0])
    with pytest.raises(ValueError, match="got 0 and 3"):
        neighbours.copying(images[:0], images, images)
    with pytest.raises(ValueError, match="got 3 and 0"):
        neighbours.copying(images, images[:0], images)
    assert neighbours.copying(images, images[:1], images)["held_out"]["count"] == 1


@pytest.fixture
def rng():
    return np.random.default_rng(0)
