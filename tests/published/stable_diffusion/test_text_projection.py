"""The U-Net with a layer on the text before its attentions, as Kolors has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import Refusal, folders, rows
from diffusion.published.stable_diffusion import ConditionalUNet, table
from diffusion.published.stable_diffusion.network import Layers

NET = ConditionalUNet((4,), (1,), (1,), 6, layers=1, middle=0, groups=2, text_projection=3)


class Read(nn.Module):
    """The text as the attentions of the network receive it."""

    @nn.compact
    def __call__(self, text):
        inputs = NET.checked(np.zeros((1, 4, 4, 4)), np.zeros(1), {"text": text})
        return Layers(NET, jnp.zeros(1), inputs).text


def test_the_attentions_read_what_the_layer_makes_of_the_text():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    text = draw(1, 5, 6)
    params = jax.tree.map(lambda shape: draw(*shape.shape), jax.eval_shape(Read().init, jax.random.key(0), text))
    layer = params["params"]["text_projection"]
    expected = text @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(Read().apply(params, text), expected, rtol=1e-5, atol=1e-5)


def test_the_published_config_in_both_directions():
    kolors = table.CONFIG.build(table.KOLORS)
    assert (kolors.text_width, kolors.text_projection, kolors.added_width) == (4096, 2048, 5632)
    assert table.CONFIG.build(table.KOLORS | {"encoder_hid_dim_type": "text_proj"}) == kolors
    written = table.CONFIG.describe(kolors)
    assert table.CONFIG.build(written) == kolors
    assert (written["encoder_hid_dim"], written["cross_attention_dim"]) == (4096, 2048)
    plain = table.CONFIG.describe(table.CONFIG.build(table.SD_XL))
    assert "encoder_hid_dim" not in plain and plain["cross_attention_dim"] == 2048


def test_the_layer_has_a_name_in_each_layout():
    leaves = folders.leaves_of(folders.shapes_of(table.FAMILY, NET))
    for layout in table.LAYOUTS:
        rows.check_cover(table.table(NET, layout), leaves)
        assert {"encoder_hid_proj.weight", "encoder_hid_proj.bias"} <= rows.names(table.table(NET, layout))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"encoder_hid_dim_type": "text_image_proj"}, "encoder_hid_dim_type = 'text_image_proj' is not supported"),
        ({"encoder_hid_dim": None, "encoder_hid_dim_type": "text_proj"}, "'text_proj' needs encoder_hid_dim"),
        ({"cross_attention_dim": [2048, 2048, 2048]}, "Supported: one number for all levels"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(table.KOLORS | field)
    with pytest.raises(ValueError, match="text_projection must be 0"):
        NET.clone(text_projection=-1)
