"""The config of LTX-2's connectors in both directions, what of it is refused, and what padding becomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.ltx2 import connectors, connectors_table
from diffusion.published.ltx2.connectors import LTX2Connectors, ranged

SMALL = LTX2Connectors(8, 3, 8, 8, 2, 1, 4)


def test_the_defaults_are_diffusers():
    assert connectors_table.CONFIG.build({}) == LTX2Connectors()


def test_separate_layers_state_the_widths_that_the_others_share():
    config = connectors_table.CONFIG.describe(SMALL)
    assert "video_hidden_dim" not in config and config["audio_connector_attention_head_dim"] == 4
    module = SMALL.clone(separate=True, width=16, sound_width=12, gated=True, biased=True)
    config = connectors_table.CONFIG.describe(module)
    assert (config["video_hidden_dim"], config["audio_hidden_dim"]) == (16, 12)
    assert connectors_table.CONFIG.build(config) == module


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"video_connector_num_learnable_registers": None}, "video_connector_num_learnable_registers = None"),
        ({"audio_connector_num_learnable_registers": 64}, "= 64 is not supported; supported: 128"),
        (
            {"audio_connector_num_attention_heads": 32},
            "= 30 and audio_connector_num_attention_heads = 32 must be equal",
        ),
        ({"video_connector_attention_head_dim": 64}, "width=1920 must be text_width=3840, unless separate=True"),
        ({"per_modality_projections": True}, "video_hidden_dim = 4096 is not supported; supported: 3840"),
        ({"audio_gated_attn": True}, "audio_gated_attn = True is not supported; supported: False"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        connectors_table.CONFIG.build(field)


def test_states_are_centred_and_divided_by_the_range_of_valid_ones():
    """Of one state the valid numbers are 1, 3, 5 and 7, of the others twice and three times as much, plus one."""
    one = np.array([[99.0, -99.0], [1.0, 3.0], [5.0, 7.0]], np.float32)
    states = np.stack([one, 2 * one + 1, 3 * one + 1], axis=1)[None]
    expected = 8 * np.array([[0, 0], [-3, -1], [1, 3]]) / 6
    out = ranged(jnp.asarray(states), jnp.asarray([[False, True, True]]))
    for state in range(3):
        np.testing.assert_allclose(out[0, :, state], expected, rtol=1e-5, atol=1e-6)


def test_separate_layers_read_states_times_the_root_of_their_width(monkeypatch):
    """States of one and kernels of one give sqrt(width / 8), once for each of 3 x 8 numbers."""
    monkeypatch.setattr(connectors, "LTX2Connector", lambda *fields, name: lambda x, mask: x)
    module = SMALL.clone(separate=True, width=16, sound_width=12)
    kernels = {"projection": np.ones((3, 8, 16), np.float32), "sound_projection": np.ones((3, 8, 12), np.float32)}
    params = {"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}
    text, sound = module.apply(params, np.ones((1, 4, 24), np.float32), jnp.ones((1, 4), bool))
    np.testing.assert_allclose(text, np.full((1, 4, 16), 24 * 2**0.5), rtol=1e-5)
    np.testing.assert_allclose(sound, np.full((1, 4, 12), 24 * 1.5**0.5), rtol=1e-5)


@pytest.mark.extended
def test_padding_changes_nothing_wherever_it_stands():
    """Valid tokens come first and registers stand in the place of padding, whose states are not read."""
    states = np.random.default_rng(0).normal(size=(2, 8, 24)).astype(np.float32)
    left, right = np.arange(8) >= np.array([[3], [3]]), np.arange(8) < 5
    states[1] = np.concatenate([states[0, 3:], 9 * states[1, :3]])
    params = SMALL.init(jax.random.key(0), states, jnp.asarray(left))
    mask = jnp.asarray(np.stack([left[0], right]))
    text, sound = jax.jit(lambda params, states: SMALL.apply(params, states, mask))(params, states)
    for out in (text, sound):
        np.testing.assert_allclose(out[0], out[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("states", "mask", "words"),
    [
        ((1, 6, 24), jnp.ones((1, 6), bool), "where registers=4 divides M"),
        ((1, 4, 23), jnp.ones((1, 4), bool), r"take states \[B, M, 24\]"),
        ((1, 4, 24), jnp.ones((1, 4)), r"the mask must be Bool \[B, M\] = \(1, 4\); got float32"),
    ],
)
def test_inputs_of_another_shape_are_refused(states, mask, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.ones(states), mask)
