"""Qwen-Image before and behind its layers, written out in numpy: pictures that are edited, and layers of a picture."""

import numpy as np
import pytest

from diffusion import schedules
from diffusion.models.layers.rotary import axis_angles
from diffusion.parameterizations import Prediction
from diffusion.published.qwen_image import QwenImage, pipeline
from tests.models.dit_oracle import silu
from tests.published.equations import close, dense, normal, normalised, patches, rms, timestep, without_layers

SHOWN = np.array([[True, False, True], [True, True, True]])
AROUND = {2: (-1, 0), 4: (-2, -1, 0, 1), 3: (-2, -1, 0)}  # positions of so many patches in a row


def grid(k, rows, columns):
    return [(k, row, column) for row in AROUND[rows] for column in AROUND[columns]]


@pytest.mark.parametrize("layered", [False, True])
def test_before_and_behind_its_layers_the_network_is_its_equations(layered):
    """x has 2 x 3 patches, and the pictures 4 x 2 and 2 x 2; the text is behind half the longest side."""
    net = QwenImage(3, 12, 1, 2, 5, (2, 2, 2), clean=True, layered=layered)
    x, t, text = normal(2, *(2,) * layered, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 3, 5)
    pictures = normal(2, 8, 4, 3), normal(2, 4, 4, 3)
    inputs = {"text": text, "text_mask": SHOWN, "pictures": pictures} | ({"kind": np.array([1, 0])} if layered else {})
    p, found, [((image, words), (times, angles, per_layer))] = without_layers(net, x, t, inputs)
    number, behind = (12, 3) if layered else (6, 2)  # layers and pictures before the last are three
    places = [(behind + i,) * 3 for i in range(3)] + grid(0, 2, 3)
    places += grid(1, 2, 3) + grid(2, 4, 2) + grid(-1, 2, 2) if layered else grid(1, 4, 2) + grid(2, 2, 2)
    close(angles, axis_angles(np.array(places), (2, 2, 2)))
    np.testing.assert_array_equal(times.others, np.arange(number + 12) >= number)
    for b in range(2):
        np.testing.assert_array_equal(per_layer["seen"][0, b], [*SHOWN[b], *[True] * (number + 12)])
        read = p["text_norm"]["scale"] * rms(np.float64(text[b]), 1e-6)
        close(words[b], dense(p["text_embedding"], read))
        parts = [patches(np.float64(part)) for part in (*(x[b] if layered else x[b][None]), *(a[b] for a in pictures))]
        h = dense(p["patch_embedding"], np.concatenate(parts))
        close(image[b], h)
        kind = p["kinds"]["embedding"][[1, 0][b]] if layered else 0
        c = silu(timestep(p["time"], 1000 * np.float64(t[b])) + kind)
        close(times.c[b], c)
        close(times.other[b], silu(timestep(p["time"], 0.0) + kind))
        shift, scale = dense(p["final_modulation"]["dense"], c)
        expected = dense(p["final"], normalised(h[:number], 1e-6) * (1 + scale) + shift)
        found_parts = [patches(part) for part in (found[b] if layered else found[b][None])]
        close(np.concatenate(found_parts), expected)


def test_guided_velocities_are_as_long_in_each_patch_as_the_conditional_ones():
    """Its pipeline takes the norm of each token, which is 2 x 2 pixels with all their channels."""
    x, conditional, null, t = normal(2, 4, 6, 3), normal(2, 4, 6, 3), normal(2, 4, 6, 3), np.float32([0.3, 0.8])
    left = t[:, None, None, None]
    branches = lambda x, t: tuple(Prediction(x - left * v, x + (1 - left) * v) for v in (conditional, null))
    guided = pipeline.QWEN_IMAGE.guidance.guides(branches, schedules.rectified_flow(), 4.0)(x, t)
    for b in range(2):
        plain = patches(np.float64(null[b] + 4.0 * (conditional[b] - null[b])))
        length = np.linalg.norm(patches(conditional[b]), axis=1) / np.linalg.norm(plain, axis=1)
        close(patches((guided.eps - guided.x0)[b]), plain * length[:, None])
