"""Boxes of neighbours as channels, against indices that are counted one by one."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.arrays.boxes import depth_to_space, patchify, pixel_shuffle, pixel_unshuffle, space_to_depth, unpatchify
from diffusion.models.autoencoders.column_patches import column_patches, column_pixels

# The last is what follows the first frame of a picture that an autoencoder of clips reads.
CASES = [((4, 6), (2, 3)), ((2, 4, 6), (2, 1, 3)), ((8,), (4,)), ((0, 4, 4), (2, 2, 2))]


def values_of_box(x, position, box):
    """[prod(box), C] the values of the box at a position of the result, in the order of its axes."""
    corners = [p * side for p, side in zip(position, box)]
    return np.stack(
        [x[tuple(c + o for c, o in zip(corners, offsets))] for offsets in itertools.product(*map(range, box))]
    )


@pytest.mark.parametrize("sizes, box", CASES)
def test_a_channel_counts_the_box_first_or_the_channels_first(sizes, box):
    x = np.random.default_rng(0).permutation(2 * np.prod(sizes) * 5).reshape(2, *sizes, 5)
    depth, unshuffled = space_to_depth(x, box), pixel_unshuffle(x, box)
    grid = tuple(size // side for size, side in zip(sizes, box))
    assert depth.shape == unshuffled.shape == (2, *grid, 5 * np.prod(box))
    for example, *position in itertools.product(range(2), *map(range, grid)):
        box_values = values_of_box(x[example], position, box)
        np.testing.assert_array_equal(depth[example][tuple(position)], box_values.reshape(-1))
        np.testing.assert_array_equal(unshuffled[example][tuple(position)], box_values.T.reshape(-1))
    np.testing.assert_array_equal(depth_to_space(depth, box), x)
    np.testing.assert_array_equal(pixel_shuffle(unshuffled, box), x)


def test_patches_of_clips_count_columns_before_rows():
    x = np.arange(2 * 2 * 6 * 3).reshape(1, 2, 2, 6, 3)
    patches = column_patches(x, 2)
    assert patches.shape == (1, 2, 1, 3, 12)
    expected = [x[0, 1, row, 4 + column, c] for c in range(3) for column in range(2) for row in range(2)]
    np.testing.assert_array_equal(patches[0, 1, 0, 2], expected)
    np.testing.assert_array_equal(column_pixels(patches, 2), x)


def test_a_box_has_a_side_for_each_axis():
    with pytest.raises(ValueError, match="zip"):
        space_to_depth(np.zeros((1, 4, 4, 3)), (2,))


def test_patches_are_cut_and_put_back():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].ravel())  # the second row's second patch
    np.testing.assert_array_equal(unpatchify(tokens, 2, 4, 6), x)
