"""Qwen 2.5 VL sees pictures at the sizes of transformers' `smart_resize`; processors of other kinds are refused."""

import json

import numpy as np
import pytest

from diffusion.io import limits
from diffusion.published.qwen_vl import picture_sizes
from diffusion.published.qwen_vl.network import Attention, text_positions, windows
from diffusion.published.qwen_vl.picture_sizes import Bounds

# By `smart_resize` of transformers 5.23.0, with factor 28 and the default bounds.
SIZES = {
    (1024, 1024): (980, 980),  # larger than 28 x 28 x 1280 pixels
    (448, 896): (448, 896),
    (434, 434): (448, 448),
    (42, 70): (56, 56),  # halves are rounded to even numbers
    (30, 30): (56, 56),
    (10, 100): (28, 196),
    (3000, 200): (2996, 196),
}


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_seen_at_the_size_of_the_peer(size):
    assert picture_sizes.seen_size(*size, 28, Bounds()) == SIZES[size]


@pytest.mark.parametrize(
    "size, bounds, seen",
    [
        ((60, 80), Bounds(4704, 4704), (56, 84)),  # whose area is a bound itself
        ((56, 2800), Bounds(1, 56 * 2800 // 4), (28, 1400)),  # both halved
        ((56, 2800), Bounds(1, 56 * 2800 // 9), (28, 924)),  # a third of 56 is less than a token
        ((44, 252), Bounds(1, 44 * 252), (28, 252)),  # its area is the bound, although 44 rounds to 56
        ((36, 36), Bounds(4 * 36 * 36, 10**6), (84, 84)),  # both doubled and rounded up, although 36 rounds to 28
    ],
)
def test_sides_are_whole_tokens_and_at_least_one(size, bounds, seen):
    """scale^2 = H W / most, of the sides before rounding; both are divided by it and rounded down (up for least)."""
    assert picture_sizes.seen_size(*size, 28, bounds) == seen


def test_a_strip_is_refused():
    assert picture_sizes.seen_size(200, 1, 28, Bounds())[1] == 28  # 200 times is allowed
    with pytest.raises(ValueError, match=r"a picture of 201 x 1 pixels .* at most 200 times"):
        picture_sizes.seen_size(201, 1, 28, Bounds())


def write(folder, **fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder


def test_the_bounds_are_those_of_the_processor_in_both_of_its_spellings(tmp_path):
    assert picture_sizes.read_bounds(write(tmp_path)) == Bounds(3136, 1003520)
    assert picture_sizes.read_bounds(write(tmp_path, min_pixels=784, max_pixels=12845056)) == (784, 12845056)
    edges = {"shortest_edge": 784, "longest_edge": 1568}
    assert picture_sizes.read_bounds(write(tmp_path, size=edges)) == (784, 1568)
    both = write(tmp_path, size=edges, max_pixels=3136)  # a field of the old name counts before the new one
    assert picture_sizes.read_bounds(both) == (784, 3136)
    write(tmp_path, size=edges)
    whole = tmp_path / "processor_config.json"
    (tmp_path / "preprocessor_config.json").rename(whole)
    whole.write_text(json.dumps({"image_processor": {"size": edges}}))
    assert picture_sizes.read_bounds(tmp_path) == (784, 1568)


@pytest.mark.parametrize("fields, message", [
    ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean = .* Valid: .* as Qwen 2.5 VL's"),
    ({"resample": 2}, "resample = 2. Valid: 3"),
    ({"max_pixels": "many"}, "the area = 'many'. Valid: a whole number"),
    ({"min_pixels": False}, "the area = False. Valid: a whole number"),
    ({"size": [1, 2]}, r"size = \[1, 2\]. Valid: a table"),
    ({"image_processor": 3}, "image_processor = 3. Valid: a table"),
    ({"min_pixels": 3136, "max_pixels": 784}, "the smallest area, 3136 pixels, is above the largest, 784 pixels"),
])  # fmt: skip
def test_another_processor_is_refused(fields, message, tmp_path):
    with pytest.raises(limits.Refused, match=message):
        picture_sizes.read_bounds(write(tmp_path, **fields))


def test_a_folder_without_processor_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither preprocessor_config.json nor processor_config.json"):
        picture_sizes.read_bounds(tmp_path)


def test_windows_part_a_grid_into_squares_from_its_corner():
    found = windows(3, 5, 2)
    # 0  1 | 2  3 | 4
    # 5  6 | 7  8 | 9
    # ------+------+--
    # 10 11| 12 13| 14
    whole = [[0, 1, 5, 6], [2, 3, 7, 8], [4, -1, 9, -1], [10, 11, -1, -1], [12, 13, -1, -1], [14, -1, -1, -1]]
    np.testing.assert_array_equal(found, whole)


def test_attention_within_windows_sees_no_padding_in_any_example():
    """Windows of the tokens 0 and 2, and of token 1 alone, in two examples, token by token."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 3, 1, 4)).astype(np.float32)
    out = Attention(1, "xla", "float32")._by_window(q, k, v, np.array([[0, 2], [1, -1]]))
    for b in range(2):
        np.testing.assert_allclose(out[b, 1], v[b, 1], rtol=1e-5)
        for n in (0, 2):
            weights = np.exp([q[b, n, 0] @ k[b, m, 0] / 2 for m in (0, 2)])
            np.testing.assert_allclose(out[b, n, 0], weights @ v[b, [0, 2], 0] / weights.sum(), rtol=1e-5, atol=1e-6)


def test_words_go_on_behind_the_longer_side_of_a_picture():
    """The example of two pictures of 1 x 2 and 3 x 1 tokens between three words."""
    standing = np.array([[False, True, True, False, True, True, True, False]])
    found = text_positions(standing, [(1, 2), (3, 1)])[0]
    rows = [(0, 0, 0), (1, 1, 1), (1, 1, 2), (3, 3, 3), (4, 4, 4), (4, 5, 4), (4, 6, 4), (7, 7, 7)]
    np.testing.assert_array_equal(found, rows)
