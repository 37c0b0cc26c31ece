"""CogVideoX before and behind its layers, and its positions, written out in numpy by the equations of its code."""

import jax
import numpy as np
import pytest

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.cogvideox import CogVideoX
from diffusion.published.cogvideox.network import _fitted
from tests.models.dit_oracle import silu
from tests.published.equations import close, dense, normal, normalised, timestep, without_layers


def fitted(rows, columns, height, width):
    """Rows and columns of a picture in a picture of the training, as diffusers' code has them."""
    if rows / columns > height / width:
        resized = height, round(height / rows * columns)
    else:
        resized = round(width / columns * rows), width
    starts = [round((side - size) / 2) for side, size in zip((height, width), resized)]
    stops = [start + size for start, size in zip(starts, resized)]
    return [np.linspace(a, b * (n - 1) / n, n) for a, b, n in zip(starts, stops, (rows, columns))]


@pytest.mark.parametrize("sides", [(6, 2), (2, 9), (5, 3), (7, 9), (12, 18)])
def test_rows_and_columns_are_fitted_into_a_picture_of_the_training(sides):
    for found, expected in zip(_fitted(sides, (6, 9)), fitted(*sides, 6, 9)):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert [list(axis) for axis in _fitted((6, 2), (6, 9))] == [[0, 1, 2, 3, 4, 5], [4, 3]]  # 4 columns from the 4th


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """With rotary positions of the video, patches of one frame, and the number 2 embedded beside the time."""
    net = CogVideoX(3, 5, 16, 1, 1, 4, 6, positions="rope", grid=(12, 18), offset=True)
    x, t, text = normal(2, 2, 4, 6, 5), np.float32([30, 800]), normal(2, 3, 4)
    p, found, [(tokens, (c, angles))] = without_layers(net, x, t, {"text": text})
    rows, columns = fitted(2, 3, 6, 9)
    places = np.array([(frame, row, column) for frame in range(2) for row in rows for column in columns])
    close(angles, np.concatenate([np.zeros((3, 8)), axis_angles(places, (4, 6, 6))]))
    for b in range(2):
        parts = np.float64(x[b]).reshape(2, 2, 2, 3, 2, 5).swapaxes(2, 3).reshape(12, 20)
        video = dense(p["patch_embedding"], parts)
        close(tokens[b], np.concatenate([dense(p["text_embedding"], np.float64(text[b])), video]))
        time = timestep(p["timestep_embedding"], np.float64(t[b]), 16)
        condition = silu(time + timestep(p["offset_embedding"], 2.0, 6))
        close(c[b], condition)
        shift, scale = dense(p["final_modulation"]["dense"], condition)
        for name, epsilon in (("norm", 1e-5), ("norm_out", 1e-5)):
            video = normalised(video, epsilon) * p[name]["scale"] + p[name]["bias"]
        pixels = dense(p["final"], video * (1 + scale) + shift).reshape(2, 2, 3, 2, 2, 3).swapaxes(2, 3)
        close(found[b], pixels.reshape(2, 4, 6, 3))


def test_learned_positions_start_at_zero_for_words_and_at_sines_and_cosines_for_the_video():
    """A quarter of the features is of the frame, and of the others one half of the column, then one of the row."""
    net = CogVideoX(3, 3, 16, 1, 1, 4, 6, frames=2, grid=(4, 6), spacing=(2.0, 3.0), words=3, learned=4)
    found = np.asarray(net._start(jax.random.key(0), (3 + 12, 16)))
    waves = lambda place, size: [f(place * 10_000.0 ** (-np.arange(size // 2) / (size // 2))) for f in (np.sin, np.cos)]
    expected = [
        np.concatenate([*waves(frame / 2, 4), *waves(column / 3, 6), *waves(row / 3, 6)])
        for frame in range(2) for row in range(2) for column in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(found, [*np.zeros((3, 16)), *expected], atol=1e-6)
