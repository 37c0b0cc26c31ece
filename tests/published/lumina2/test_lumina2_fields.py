"""The config of Lumina-Image 2 in both directions, and what of it is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.models.interchange import Refusal, folders, rows
from diffusion.parameterizations import Prediction
from diffusion.published.lumina2 import Lumina2, pipeline, table
from tests.models.interchange import published

WIDE = Lumina2(4, 24, 2, 1, 4, 2, 512, 12, (2, 2, 2))


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == Lumina2(text_width=1024)


def test_the_vector_of_the_time_has_as_many_features_as_diffusers():
    """1024 at most, in one published layer of each kind."""
    config, theirs = published.listing("lumina2_full")
    module = table.FAMILY.build(config | {"num_layers": 1, "num_refiner_layers": 1})
    leaves = folders.leaves_of(folders.shapes_of(table.FAMILY, module))
    ours = rows.their_shapes(table.FAMILY.tables["diffusers"](module), leaves)
    assert ours == {name: shape for name, shape in theirs.items() if name in ours}


@pytest.mark.parametrize("hidden", [16, 96, 256, 512])
def test_a_width_of_the_mlp_survives(hidden):
    """Below four times the width it is a multiplier, else a multiple."""
    module = WIDE.clone(hidden=hidden)
    config = table.CONFIG.describe(module)
    assert table.CONFIG.build(config) == module
    assert config["axes_lens"] == [300, 512, 512] and config["axes_dim_rope"] == [2, 2, 2]


def test_the_width_of_the_mlp_is_rounded_up_to_a_multiple():
    small = {"hidden_size": 192, "num_attention_heads": 2, "num_kv_heads": 2, "multiple_of": 100}
    assert table.CONFIG.build(small).hidden == 800  # 768
    assert table.CONFIG.build(small | {"ffn_dim_multiplier": 0.5}).hidden == 400  # 384


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"out_channels": 8}, "out_channels = 8 is not supported; supported: 16"),
        ({"patch_size": 4}, "patch_size = 4 is not supported; supported: 2"),
        ({"num_layers": -1}, "num_layers = -1. Valid"),
        ({"unheard": 1}, "sets unheard = 1, which this version does not know"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)


def test_fields_without_effect_and_null_are_read():
    built = table.CONFIG.build({"out_channels": None, "sample_size": 64, "scaling_factor": 2.0, "num_kv_heads": None})
    assert built == Lumina2(text_width=1024, key_heads=24)


def test_guided_velocities_are_as_long_along_each_row_of_pixels_as_the_conditional_ones():
    """Its pipeline takes the norm over the last axis of [B, C, H, W], the columns: here the third of [B, H, W, C]."""
    flow, rng = schedules.rectified_flow(), np.random.default_rng(0)
    x, conditional, null = jnp.asarray(rng.standard_normal((3, 2, 3, 4, 5)), jnp.float32)
    t = jnp.array([0.3, 0.8])
    left = t[:, None, None, None]
    branches = lambda x, t: tuple(Prediction(x - left * v, x + (1 - left) * v) for v in (conditional, null))
    guided = pipeline.LUMINA2.guidance.guides(branches, flow, 4.0)(x, t)
    velocity, lengths = guided.eps - guided.x0, lambda v: np.linalg.norm(v, axis=2)
    np.testing.assert_allclose(lengths(velocity), lengths(conditional), rtol=1e-4)
    plain = null + 4.0 * (conditional - null)
    np.testing.assert_allclose(velocity / lengths(velocity)[:, :, None], plain / lengths(plain)[:, :, None], atol=1e-5)
