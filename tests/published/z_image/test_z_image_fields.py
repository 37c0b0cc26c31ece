"""The config of Z-Image in both directions, and what of it is refused."""

import pytest

from diffusion.models.interchange import Refusal, folders, rows
from diffusion.published.z_image import ZImage, table
from tests.models.interchange import published


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == ZImage()
    assert table.CONFIG.build({"rope_theta": 2}).theta == 2.0


def test_a_config_has_every_field_of_the_published_one():
    """transformer/config.json of Z-Image-Turbo."""
    assert table.CONFIG.describe(ZImage()) == {
        "all_f_patch_size": [1], "all_patch_size": [2], "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
        "cap_feat_dim": 2560, "dim": 3840, "in_channels": 16, "n_heads": 30, "n_kv_heads": 30, "n_layers": 30,
        "n_refiner_layers": 2, "norm_eps": 1e-05, "qk_norm": True, "rope_theta": 256.0, "t_scale": 1000.0,
    }  # fmt: skip


@pytest.mark.extended
def test_the_vector_of_the_time_has_as_many_features_as_diffusers():
    """256 at most, from 1024, in one published layer of each kind."""
    config, theirs = published.listing("z_image_full")
    module = table.FAMILY.build(config | {"n_layers": 1, "n_refiner_layers": 1})
    leaves = folders.leaves_of(folders.shapes_of(table.FAMILY, module))
    ours = rows.their_shapes(table.FAMILY.tables["diffusers"](module), leaves)
    assert ours == {name: shape for name, shape in theirs.items() if name in ours}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"n_kv_heads": 10}, "n_kv_heads = 10 is not supported; supported: 30"),
        ({"n_heads": 15, "dim": 1920}, "n_kv_heads = 30 is not supported; supported: 15"),
        ({"qk_norm": False}, "qk_norm = False is not supported; supported: True"),
        ({"siglip_feat_dim": 1152}, "siglip_feat_dim = 1152 is not supported; supported: None"),
        ({"all_patch_size": [4]}, "all_patch_size"),
        ({"unheard": 1}, "sets unheard = 1, which this version does not know"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)
