"""PixArt and U-ViT: positions of patches, and fields and adapter entries that are refused. The peers test the outputs.

(tests/models/interchange/test_families.py; what all backbones do is in test_conformance.py.)
"""

import jax
import numpy as np
import pytest

from diffusion.models.layers.embeddings import sincos_positions, sinusoid
from diffusion.models.u_vit import UViT
from diffusion.published.pixart.network import PixArt
from tests.models import backbones

PIXART = {"shape": (8, 8, 4), "patch": 2, "width": 24, "depth": 2, "heads": 2, "text_width": 12}
U_VIT = {"shape": (8, 8, 4), "patch": 2, "width": 24, "depth": 2, "heads": 2}


def test_pictures_of_any_size_span_the_same_places():
    """In a picture with twice as many patches on a side, every second one is where one of the smaller picture is."""
    small = sincos_positions(2, 3, 8, span=5)
    large = sincos_positions(4, 6, 8, span=5)
    np.testing.assert_allclose(large.reshape(4, 6, 8)[::2, ::2], small.reshape(2, 3, 8), atol=1e-6)
    np.testing.assert_array_equal(sincos_positions(3, 3, 8, span=3), sincos_positions(3, 3, 8))
    place = lambda row, column: [
        np.sin(column),
        np.sin(column / 100),
        np.cos(column),
        np.cos(column / 100),
        np.sin(row),
        np.sin(row / 100),
        np.cos(row),
        np.cos(row / 100),
    ]
    np.testing.assert_allclose(sincos_positions(4, 2, 8, span=6)[5], place(2 * 6 / 4, 1 * 6 / 2), atol=1e-6)


def test_the_last_frequency_with_and_without_a_shift():
    t = np.float32([10_000 * np.pi / 2])
    np.testing.assert_allclose(sinusoid(t, 8, shift=1)[0, [3, 7]], [0, 1], atol=1e-6)  # of 1 / max_period
    np.testing.assert_allclose(sinusoid(t, 8)[0, [3, 7]], [np.cos(5 * np.pi), np.sin(5 * np.pi)], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (PixArt, {"heads": 5}, "heads=5 does not divide width=24"),
        (PixArt, {"width": 20, "sized": True}, "width=20 must.*with sized=True also of 3"),
        (PixArt, {"span": 0}, "span=0 must be positive"),
        (PixArt, {"remat": "dot"}, "remat='dot'.*mean 'dots'"),
        (UViT, {"depth": 3}, "depth=3 must be even"),
        (UViT, {"patch": 3}, "multiples of patch=3"),
        (UViT, {"num_classes": 3, "text_width": 4}, "num_classes=3, text_width=4:.*a class or.*a text"),
        (UViT, {"attention": "flash"}, "attention='flash'.*'auto'"),
    ],
)
def test_bad_fields_are_refused_where_they_are_written(model, fields, message):
    with pytest.raises(ValueError, match=message):
        model(**{**(PIXART if model is PixArt else U_VIT), **fields})


def test_bad_adapter_entries_are_refused():
    x, t, condition = backbones.inputs(backbones.BACKBONES["pixart"])
    module = PixArt(**PIXART, sized=True)
    tokens = np.zeros((2, 16, 24), np.float32)
    pair = (np.zeros((2, 3, 24), np.float32),) * 2
    for entries, message in [
        ({"residuals": (tokens,) * 3}, "1 to 2 arrays; got 3"),
        ({"residuals": (tokens[:, 1:],)}, r"\(2, 16, 24\); got \(2, 15, 24\)"),
        ({"extra": ((pair,),)}, "this network has 2 layers that attend to image prompts; got 1"),
        ({"skip": np.zeros((2, 3), bool)}, r"'skip' has shape \(2, 3\)"),
        ({"text_mask": np.ones((2, 5), np.float32)}, r"'text_mask' must be Bool \[B, M\] = \(2, 5\); got float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.init, jax.random.key(0), x, t, {**condition, **entries})
    with pytest.raises(ValueError, match=r"depth \+ 1 = 3 arrays of the tokens' shape \(2, 17, 24\)"):
        jax.eval_shape(UViT(**U_VIT).init, jax.random.key(0), x, t, {"residuals": (tokens,) * 3})
