"""Backbones of latent spaces: published sizes and fields. The peers test the outputs.

(tests/models/interchange/test_families.py; what all backbones do is in test_conformance.py.)
"""

import math

import jax
import numpy as np
import pytest

from diffusion.models import ddt_preset, dit_dh_preset, lightning_dit_preset
from diffusion.models.ddt import DDT
from diffusion.models.interchange import families, folders
from diffusion.models.layers.embeddings import rope_angles
from diffusion.models.mask_dit import MaskDiT

PUBLISHED = {  # millions of parameters, as the authors state them
    "LightningDiT, LightningDiT-XL/1, 256 x 256": 675,
    "DDT, DDT-XL/2, 256 x 256": 675,
    "DiTwDDTHead, DiT^DH-XL, DINOv2-B": 839,
}


def count(module, family):
    """All numbers that are learned, and the fixed positions, which torch counts in these networks."""
    positions = folders.computed_of(family, module, "original").get("pos_embed")
    learned = sum(leaf.size for leaf in jax.tree.leaves(folders.shapes_of(family, module)))
    return learned + (math.prod(positions.shape) if positions else 0)


@pytest.mark.extended
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_number_of_parameters(name):
    family, _, network = name.partition(", ")
    family = families.find(family)
    module = folders.built(family, family.published[network])
    assert round(count(module, family) / 1e6) == PUBLISHED[name]


def test_presets_are_the_published_networks():
    presets = (
        lightning_dit_preset("XL/1", 1000, shape=(16, 16, 32)),
        ddt_preset("XL/2", 1000, shape=(32, 32, 4)),
        dit_dh_preset("XL/1", 1000, shape=(16, 16, 768)),
    )
    for name, preset in zip(PUBLISHED, presets, strict=True):
        family, _, network = name.partition(", ")
        family = families.find(family)
        assert preset == folders.built(family, family.published[network])
    with pytest.raises(ValueError, match=r"size='XL/4'.*'XL/1'"):
        lightning_dit_preset("XL/4", 1000)


DDT_FIELDS = {"patch": 2, "width": 24, "depth": 2, "heads": 3, "decoder_width": 32, "decoder_depth": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_heads": 5}, "decoder_heads=5 does not divide decoder_width=32"),
        ({"heads": 12}, "width / heads = 2 must be a multiple of 4, for axial rotary positions"),
        ({"decoder_depth": 0}, "decoder_depth=0 must be positive"),
        ({"span": -1.0}, "span=-1.0 must be 0 or more"),
        ({"positions": "sincos"}, "positions='sincos'.*'sincos_rope'"),
        ({"clock": "fouriers"}, "clock='fouriers'.*mean 'fourier'"),
    ],
)
def test_bad_fields_of_a_ddt_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DDT(**{**DDT_FIELDS, "decoder_heads": 4, "num_classes": 3, **fields})


def test_options_that_no_file_of_a_family_has_are_refused():
    module = DDT(**DDT_FIELDS, decoder_heads=4, num_classes=3, shape=(8, 8, 3))
    with pytest.raises(ValueError, match="decoder_width = 32 and decoder_heads = 4 cannot be written"):
        families.find("DDT").describe(module)
    with pytest.raises(ValueError, match=r"bias = False cannot be written in this format\. Valid: True"):
        families.find("DiTwDDTHead").describe(module)
    with pytest.raises(ValueError, match="norm = 'rmsnorm'"):
        families.find("LightningDiT").describe(lightning_dit_preset("B/1", 3, norm="rmsnorm", shape=(4, 4, 3)))


def test_one_number_of_heads_is_that_of_encoder_and_decoder():
    config = {"hidden_size": [24, 36], "depth": [2, 1], "input_size": 4, "in_channels": 3}
    build = lambda heads: folders.built(families.find("DiTwDDTHead"), config | {"num_heads": heads})
    assert build(3) == build([3, 3])
    for heads in (0, True, [3], "3"):
        with pytest.raises(ValueError, match="num_heads"):
            build(heads)


@pytest.mark.extended
def test_labels_beyond_the_null_class_give_nan():
    module = MaskDiT(2, 8, 1, 2, 3, 8, 1, 2)
    x, t, label = np.ones((4, 2, 2, 1), np.float32), np.ones(4, np.float32), np.int32([-1, 0, 3, 4])
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, label)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    out = jax.jit(module.apply)(zeros, x, t, label)
    np.testing.assert_array_equal(np.isnan(out).any((1, 2, 3)), [True, False, False, True])


def test_rotary_positions_that_span_pictures_of_any_size():
    """The corners of a span stay where they are, however many tokens lie between."""
    small = rope_angles(2, 3, 8, span=16.0)
    large = rope_angles(5, 9, 8, span=16.0)
    np.testing.assert_allclose(small[[0, 2, 3, 5]], large[[0, 8, 36, 44]], atol=1e-6)
    np.testing.assert_allclose(small[5], [[16, 0.16], [16, 0.16]], rtol=1e-6)
    assert rope_angles(1, 1, 8, span=16.0).max() == 0
