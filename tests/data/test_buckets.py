"""Buckets: their sizes against published lists, and which picture comes when against counting."""

import collections

import numpy as np
import pytest

from diffusion.data import buckets
from diffusion.data.buckets import Order

# Podell et al. 2023, appendix I: heights and widths.
SDXL = """
512 2048 512 1984 512 1920 512 1856 576 1792 576 1728 576 1664 640 1600 640 1536 704 1472 704 1408 704 1344
768 1344 768 1280 832 1216 832 1152 896 1152 896 1088 960 1088 960 1024 1024 1024 1024 960 1088 960 1088 896
1152 896 1152 832 1216 832 1280 768 1344 768 1408 704 1472 704 1536 640 1600 640 1664 576 1728 576 1792 576
1856 512 1920 512 1984 512 2048 512
"""


def test_sizes_within_an_area_are_sdxls():
    published = {tuple(pair) for pair in np.array(SDXL.split(), int).reshape(-1, 2).tolist()}
    found = buckets.within(1024 * 1024)
    assert len(published) == 40 and set(found) == published | {(1344, 704)}
    ratios = [w / h for h, w in found]
    assert ratios == sorted(ratios)
    assert buckets.within(64, multiple=8, least=8, most=16, share=0.5) == ((8, 8),)


def test_the_widest_sizes_are_novel_ais():
    """Its text: 512 x 768 pixels, sides of 256 to 1024; for each width the greatest height, and a square."""
    found = set(buckets.widest(512 * 768))
    assert {(1024, 384), (1024, 320), (1024, 256), (768, 512), (512, 768), (576, 640), (256, 1024)} <= found
    for h, w in found:
        assert h % 64 == w % 64 == 0 and h * w <= 512 * 768 and 256 <= min(h, w) and max(h, w) <= 1024
        # One step more does not fit, in one direction at least.
        grown = [(h + 64) * w <= 512 * 768 and h < 1024, h * (w + 64) <= 512 * 768 and w < 1024]
        assert not all(grown) or h == w == 576  # the square
    with pytest.raises(ValueError, match="no size fits"):
        buckets.widest(100)


def test_the_widest_sizes_reach_the_least_side():
    found = buckets.widest(64 * 192, multiple=64, least=64, most=192)
    assert found == ((192, 64), (128, 64), (64, 64), (64, 128), (64, 192))


@pytest.mark.parametrize(
    "area, multiple, least, most", [(512 * 768, 64, 250, 1000), (512 * 512, 48, 100, 700), (2048 * 2048, 64, 256, 1024)]
)
def test_the_widest_sizes_keep_to_the_multiple_and_to_both_ends(area, multiple, least, most):
    sizes = buckets.widest(area, multiple, least, most)
    for h, w in sizes:
        assert h % multiple == w % multiple == 0 and least <= min(h, w) and max(h, w) <= most and h * w <= area
    square = max(side for side in range(multiple, most + 1, multiple) if side * side <= area)
    assert (square, square) in sizes
    with pytest.raises(ValueError, match="no size fits"):
        buckets.widest(128 * 128, multiple=64, least=256, most=1024)


def test_a_picture_goes_to_the_nearest_ratio():
    sizes = ((1024, 512), (768, 768), (512, 1024), (640, 640))
    pictures = [(2000, 1000), (300, 300), (10, 100), (100, 142), (100, 141), (142, 100)]
    # Between 1 and 2 the middle is the root of 2; the larger of two squares is taken.
    np.testing.assert_array_equal(buckets.nearest(np.array(pictures), sizes), [0, 1, 2, 2, 1, 0])
    mirrored = buckets.nearest(np.array(pictures)[:, ::-1], sizes)
    np.testing.assert_array_equal(mirrored, [2, 1, 0, 0, 1, 2])
    with pytest.raises(ValueError, match="heights and widths of at least 1"):
        buckets.nearest(np.array([[0, 3]]), sizes)


ASSIGNED = np.random.default_rng(0).choice(4, 103, p=[0.6, 0.3, 0.08, 0.02])
BATCH = 8


def of(seed=3):
    return Order.from_buckets(ASSIGNED, 5, BATCH, seed)  # the last bucket is empty


def test_sides_are_no_shorter_than_the_least_where_it_is_no_multiple():
    sizes = buckets.within(256 * 256, multiple=64, least=100, most=1024, share=0.5)
    assert min(map(min, sizes)) == 128


def test_two_buckets_of_one_size_are_in_orders_of_their_own():
    order = Order.from_buckets(np.repeat([0, 1], 24), 2, BATCH, 3)
    places = collections.defaultdict(list)
    for step in range(6):
        bucket, rows = order.batch(step)
        places[bucket] += (rows - 24 * bucket).tolist()
    assert sorted(places[0]) == sorted(places[1]) == list(range(24)) and places[0] != places[1]


def test_a_batch_is_of_one_bucket_and_every_picture_comes_once_an_epoch():
    order = of()
    streams = collections.defaultdict(list)
    before = collections.Counter()
    steps = order.batches_before(BATCH)  # after B epochs every bucket's pictures fill whole batches
    assert steps == len(ASSIGNED)
    for step in range(steps):
        bucket, rows = order.batch(step)
        assert len(rows) == BATCH and (ASSIGNED[rows] == bucket).all()
        streams[bucket] += rows.tolist()
        if step + 1 in {order.batches_before(e) for e in range(1, BATCH + 1)}:
            epoch = order.epoch_of(step) + 1
            for k, rows_of in enumerate(order.members):  # what is left over is less than a batch
                assert 0 <= epoch * len(rows_of) - len(streams[k]) < BATCH
    assert not streams.pop(4)  # the empty bucket
    for k, stream in streams.items():
        n = len(order.members[k])
        for start in range(0, len(stream), n):
            assert sorted(stream[start : start + n]) == order.members[k].tolist()
        before.update(stream)
    assert set(before.values()) == {BATCH} and len(before) == len(ASSIGNED)
    first = streams[0]
    n = len(order.members[0])
    assert first[:n] != first[n : 2 * n]


def test_a_step_says_all_and_seeds_differ():
    once = [of().batch(step) for step in range(40)]
    for step in (39, 0, 17):
        bucket, rows = of().batch(step)
        assert bucket == once[step][0]
        np.testing.assert_array_equal(rows, once[step][1])
    other = [of(seed=4).batch(step) for step in range(40)]
    assert [bucket for bucket, _ in once] != [bucket for bucket, _ in other]
    assert [bucket for bucket, _ in once] != sorted(bucket for bucket, _ in once)
    assert Order.from_buckets(ASSIGNED, 5, BATCH, 0).epoch_of(10**9) > 10**6  # far steps are found as fast
    with pytest.raises(ValueError, match="0 pictures and batch_size = 8"):
        Order.from_buckets(np.zeros(0, int), 5, BATCH, 0)


def test_small_sets_and_large_batches():
    """Fewer pictures than a batch holds: a batch of the bucket comes once every few epochs."""
    order = Order.from_buckets(np.array([0, 0, 0, 1]), 2, 8, 0)
    found = [order.batch(step) for step in range(8)]
    assert collections.Counter(bucket for bucket, _ in found) == {0: 6, 1: 2}
    rows = np.concatenate([rows for bucket, rows in found if bucket == 0])
    assert collections.Counter(rows.tolist()) == {0: 16, 1: 16, 2: 16}


def picture(height, width):
    """Rows and columns as brightness, in two channels."""
    ramp = np.broadcast_to(np.linspace(0, 240, height)[:, None], (height, width))
    return np.stack([ramp, np.broadcast_to(np.linspace(0, 240, width), (height, width))], -1).astype(np.uint8)


def test_fit_covers_the_bucket_and_tells_sizes_and_cut():
    image, size = buckets.fit(picture(40, 80), (20, 20))
    assert image.shape == (20, 20, 2) and image.dtype == np.uint8
    np.testing.assert_array_equal(size, [40, 80, 0, 10, 20, 20])
    # The middle half of the columns, and all rows.
    np.testing.assert_allclose(image[0, [0, -1], 1], [62, 178], atol=3)
    np.testing.assert_allclose(image[[0, -1], 0, 0], [2, 238], atol=3)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        image, size = buckets.fit(picture(40, 80), (20, 20), rng)
        seen.add(int(size[3]))
        np.testing.assert_allclose(image[0, 0, 1], (size[3] + 0.5) * 6, atol=4)
    assert seen == set(range(21))
    whole, size = buckets.fit(picture(16, 24), (16, 24))
    np.testing.assert_array_equal(whole, picture(16, 24))
    np.testing.assert_array_equal(size, [16, 24, 0, 0, 16, 24])
    for shape in [(7, 1000), (1000, 7), (15, 17), (333, 100)]:
        assert buckets.fit(picture(*shape), (24, 16), rng)[0].shape == (24, 16, 2)


def test_hidden_colours_do_not_show_beside_opaque_pixels():
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., :3] = (0, 255, 0)  # hidden
    image[16:48, 16:48] = (200, 30, 30, 255)
    small, _ = buckets.fit(image, (20, 20))
    seen = small[small[..., 3] > 100]
    assert len(seen) > 80 and seen[:, 1].max() <= 32 and abs(seen[:, 0].astype(int) - 200).max() <= 5  # rounding
    opaque = np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8)
    opaque[..., 3] = 255
    both = [buckets.fit(opaque[..., :channels], (16, 16))[0] for channels in (3, 4)]
    np.testing.assert_array_equal(both[1], np.concatenate([both[0], np.full((16, 16, 1), 255, np.uint8)], -1))


class Pictures:
    SIZES = np.array([(20 + k % 7, 20 + 5 * (k % 5)) for k in range(30)])

    def __len__(self):
        return 30

    def __getitem__(self, row):
        return {"image": picture(*self.SIZES[row]), "label": row % 4}


def test_batches_go_on_from_a_step_whoever_reads_which_rows():
    sizes = ((24, 24), (16, 32))
    order = Order.from_buckets(buckets.nearest(Pictures.SIZES, sizes), 2, 4, seed=1)
    data = buckets.batches(Pictures(), order, sizes, threads=0)
    first = [next(data) for _ in range(8)]
    assert {batch["image"].shape for batch in first} == {(4, 24, 24, 2), (4, 16, 32, 2)}
    for step, batch in enumerate(first):
        bucket, rows = order.batch(step)
        np.testing.assert_array_equal(batch["label"], rows % 4)
        np.testing.assert_array_equal(batch["size"][:, :2], Pictures.SIZES[rows])
        np.testing.assert_array_equal(batch["size"][:, 4:], np.tile(sizes[bucket], (4, 1)))
        np.testing.assert_array_equal(batch["index"], 4 * step + np.arange(4))
    later = next(buckets.batches(Pictures(), order, sizes, start=5, positions=(3, 1), threads=0))
    for name in later:
        np.testing.assert_array_equal(later[name], first[5][name][[3, 1]])


def test_a_cut_and_an_augmentation_have_draws_of_their_own():
    """Pictures 271 x 16 in a bucket 16 x 16: the first draw says the top of the cut, one of 256."""
    records = [{"image": np.zeros((271, 16, 1), np.uint8)}] * 8
    order = Order.from_buckets(np.zeros(8, int), 1, 8, seed=1)
    number = lambda rng, image: np.full_like(image, rng.integers(256))
    batch = next(buckets.batches(records, order, ((16, 16),), augment=(number, lambda rng, image: image), threads=0))
    tops, numbers = batch["size"][:, 2].astype(int), batch["image"][:, 0, 0, 0].astype(int)
    assert len(set(tops)) > 4 and len(set(numbers)) > 4 and (tops != numbers).all()


def test_a_picture_is_cut_at_another_place_in_each_epoch():
    """Four pictures 271 x 16, whose tops are 256 to choose from, in eight epochs of one batch."""
    records = [{"image": np.zeros((271, 16, 1), np.uint8), "label": k} for k in range(4)]
    order = Order.from_buckets(np.zeros(4, int), 1, 4, seed=1)
    data = buckets.batches(records, order, ((16, 16),), threads=0)
    tops = {k: set() for k in range(4)}
    for _ in range(8):
        batch = next(data)
        for k, size in zip(batch["label"], batch["size"]):
            tops[int(k)].add(int(size[2]))
    assert all(len(places) >= 7 for places in tops.values())
