"""Samples made batch by batch: a sampling that was killed goes on, and ends in the same images."""

import numpy as np
import pytest

from configs import digits
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import batches_on_disk

LABELS = np.arange(23, dtype=np.int32) % 4
SEEDS = np.arange(100, 123, dtype=np.uint32)


def maker(calls, dies_at=None):
    def make(params, labels, seeds):
        if dies_at == len(calls):
            raise KeyboardInterrupt
        calls.append(len(labels))
        return (params + 10 * labels + seeds).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)

    return make


def make_all(place, calls, dies_at=None):
    return batches_on_disk.images(maker(calls, dies_at), 1, LABELS, SEEDS, 5, place, lambda done: None)


def test_one_process_at_a_time_samples_into_a_folder(tmp_path):
    """The first to end would remove the batches of the other."""
    with batches_on_disk.held(tmp_path):
        with pytest.raises(WorkdirError, match="is in use: another process writes samples there"):
            with batches_on_disk.held(tmp_path):
                pass
        make_all(tmp_path / ".samples-a", [])
    with batches_on_disk.held(tmp_path):
        batches_on_disk.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_batches_cost_is_summed_over_all_that_made_them(tmp_path):
    """A process that dies after two batches, one that goes on, and one that finds all made."""
    place = tmp_path / ".samples-a"
    for dies_at in (2, None, None):
        calls = []
        make = maker(calls, dies_at)
        count = lambda calls=calls: np.array([sum(calls), len(calls)])
        try:
            batches_on_disk.images(make, 1, LABELS, SEEDS, 5, place, lambda done: None, work=count)
        except KeyboardInterrupt:
            np.testing.assert_array_equal(batches_on_disk.work(place), [10, 2, 0])
    np.testing.assert_array_equal(batches_on_disk.work(place), [23, 5, 0])


@pytest.mark.parametrize("dies_at", [0, 1, 4])
def test_goes_on(tmp_path, dies_at):
    expected = (1 + 10 * LABELS + SEEDS).astype(np.uint8)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        make_all(tmp_path / ".samples-a", calls, dies_at)
    calls = []
    found = make_all(tmp_path / ".samples-a", calls)
    np.testing.assert_array_equal(found[:, 1, 0, 2], expected)
    assert sum(calls) == 23 - 5 * dies_at and found.shape == (23, 2, 2, 3)
    batches_on_disk.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_images_done_are_counted_and_a_process_without_a_batch_makes_the_first(tmp_path):
    done, calls = [], []
    make = lambda share: batches_on_disk.images(maker(calls), 1, LABELS, SEEDS, 5, tmp_path, done.append, share)
    make((0, 1))
    assert done == [5, 10, 15, 20, 23]
    first = (1 + 10 * LABELS + SEEDS).astype(np.uint8)[:5]
    np.testing.assert_array_equal(make((6, 7))[:, 0, 0, 0], first)


def test_a_damaged_batch_is_made_again(tmp_path):
    place = tmp_path / ".samples-a"
    calls = []
    whole = make_all(place, calls)
    (place / "00000005.npy").write_bytes(b"torn")
    np.save(place / "00000010.npy", np.zeros((4, 2, 2, 3), np.uint8))
    calls.clear()
    np.testing.assert_array_equal(make_all(place, calls), whole)
    assert calls == [5, 5]


def test_the_key_is_of_all_that_makes_a_sample():
    config = digits.get_config()
    leaves = {"params/x": {"checksum": "1"}}
    keys = [batches_on_disk.key(config, leaves, "ema", LABELS, SEEDS)]
    assert keys[0] == batches_on_disk.key(digits.get_config(), dict(leaves), "ema", LABELS.copy(), SEEDS.copy())
    keys.append(batches_on_disk.key(config, {"params/x": {"checksum": "2"}}, "ema", LABELS, SEEDS))
    keys.append(batches_on_disk.key(config, leaves, "params", LABELS, SEEDS))
    keys.append(batches_on_disk.key(config, leaves, "ema", LABELS + 1, SEEDS))
    keys.append(batches_on_disk.key(config, leaves, "ema", LABELS, SEEDS + 1))
    config.sample.guidance.scale = 3.0
    keys.append(batches_on_disk.key(config, leaves, "ema", LABELS, SEEDS))
    assert len(set(keys)) == len(keys)


def test_what_cannot_be_removed_is_left(tmp_path):
    (tmp_path / ".samples-a").write_text("no folder")
    (tmp_path / ".samples-b").mkdir()
    batches_on_disk.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".samples-a"]
