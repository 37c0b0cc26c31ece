"""The config of Krea 2 in both directions, and what of it is refused."""

import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.krea2 import Krea2, table

SMALL = Krea2(4, 24, 2, 2, 1, 16, 12, 3, 2, 1, 8, 1, 1, (4, 4, 4))


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == Krea2()


def test_a_token_has_its_states_one_after_the_other():
    config = table.CONFIG.describe(SMALL)
    assert (config["num_text_layers"], config["text_hidden_dim"], config["in_channels"]) == (3, 4, 16)
    assert table.CONFIG.build(config) == SMALL


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"in_channels": 66}, "in_channels = 66 must be a multiple of 4"),
        ({"rope_theta": 10000.0}, r"rope_theta = 10000\.0 is not supported; supported: 1000\.0"),
        ({"timestep_embed_dim": 128}, "timestep_embed_dim = 128 is not supported; supported: 256"),
        ({"num_key_value_heads": 7}, "key_heads=7 does not divide heads=48"),
        ({"text_num_key_value_heads": 3}, "text_key_heads=3 does not divide text_heads=20"),
        ({"text_hidden_dim": 30}, "text_width=360 must be a multiple of states=12 times text_heads=20"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)
