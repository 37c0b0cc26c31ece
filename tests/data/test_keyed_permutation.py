"""The permutation that needs no table: a bijection of any size, uniform, and what its definition says."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from diffusion.data.keyed_permutation import ROUNDS, keyed_permutation

BILLION = 10**9


def keys(seed):
    return np.random.Philox(key=seed).random_raw(ROUNDS)


def whole(size, seed):
    return keyed_permutation(np.arange(size), size, keys(seed))


def reference(position, size, words):
    """The definition for one position, in Python's integers."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    bits = (size - 1).bit_length()
    low = bits // 2
    while True:
        left, right = divmod(position, 2**low)
        for i in range(0, ROUNDS, 2):
            left ^= mix((right + words[i]) % 2**64) % 2 ** (bits - low)
            right ^= mix((left + words[i + 1]) % 2**64) % 2**low
        position = left * 2**low + right
        if position < size:
            return position


def chi_square(counts):
    """Distance of counts from equal ones, in standard deviations of its distribution."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("first", range(1, 601, 100))
def test_every_small_size_is_permuted(first):
    for size in range(first, first + 100):
        np.testing.assert_array_equal(np.sort(whole(size, size)), np.arange(size), err_msg=str(size))


@pytest.mark.extended
@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=st.integers(601, 2**18) | st.builds(lambda b, d: 2**b + d, st.integers(10, 17), st.integers(-1, 1)))
def test_large_sizes_are_permuted(size):
    assert np.bincount(whole(size, 1), minlength=size).max() == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.integers(1, 2**62), share=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**64 - 1))
def test_follows_its_definition(size, share, seed):
    position = min(int(size * share), size - 1)
    words = keys(seed)
    (image,) = keyed_permutation(np.array([position]), size, words).tolist()
    assert image == reference(position, size, words.tolist())


def test_positions_may_come_in_any_parts_and_order():
    positions = np.random.default_rng(0).integers(0, BILLION, 1000)
    expected = keyed_permutation(positions, BILLION, keys(3))
    parts = [keyed_permutation(part, BILLION, keys(3)) for part in np.array_split(positions, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(keyed_permutation(positions[::-1], BILLION, keys(3))[::-1], expected)


def test_no_two_of_many_positions_of_a_billion_meet():
    image = keyed_permutation(np.arange(BILLION - 200_000, BILLION), BILLION, keys(0))
    assert 0 <= image.min() and image.max() < BILLION and len(np.unique(image)) == 200_000


@pytest.mark.extended
def test_all_orders_of_four_are_as_likely():
    """More than 4.5 standard deviations has a probability of about 1e-4 under equal ones."""
    counts = np.zeros(4**4)
    for seed in range(4800):
        np.add.at(counts, whole(4, seed) @ (64, 16, 4, 1), 1)
    assert np.count_nonzero(counts) == 24
    assert chi_square(counts[counts > 0]) < 4.5


@pytest.mark.extended
@pytest.mark.parametrize("size", [3, 7, 17])
def test_every_position_takes_every_value_as_often(size):
    counts = np.zeros((size, size))
    for seed in range(100 * size):
        counts[np.arange(size), whole(size, seed)] += 1
    for row in counts:
        assert chi_square(row) < 4.5


def test_neighbours_of_a_billion_are_independent():
    """Their values, and the differences of those that follow one another, are uniform; a batch is a fair sample."""
    image = keyed_permutation(np.arange(200_000), BILLION, keys(5))
    bins = lambda values: np.bincount(values * 100 // BILLION, minlength=100)
    for gap in (1, 2, 64, 2**15):
        assert chi_square(bins((image[gap:] - image[:-gap]) % BILLION)) < 4.5
    assert chi_square(bins(image)) < 4.5
    tenths = image * 10 // BILLION
    assert chi_square(np.bincount(tenths[:-1:2] * 10 + tenths[1::2], minlength=100)) < 4.5


def test_memory_is_that_of_the_batch():
    positions = np.arange(1024)
    peaks = []
    for size in (10**4, BILLION, 2**60):
        tracemalloc.start()
        keyed_permutation(positions, size, keys(0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 20 * positions.nbytes


@pytest.mark.parametrize("size", [0, 2**62 + 1])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=rf"size must be in 1..2\^62, got {size}"):
        keyed_permutation(np.arange(0), size, keys(0))


@pytest.mark.parametrize("position", [-1, 5])
def test_a_position_out_of_range_is_refused(position):
    with pytest.raises(ValueError, match=r"positions must be in 0\.\.4"):
        keyed_permutation(np.array([0, position]), 5, keys(0))
