"""Qwen-Image-Layered: the fields of its config, and the positions of layers and of the picture that is taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.qwen_image import QwenImage, network, pipeline, table

LAYERED = {"use_additional_t_cond": True, "use_layer3d_rope": True}
SMALL = QwenImage(4, 24, 1, 2, 12, (4, 4, 4), layered=True)


def test_both_fields_of_layers_are_read_together():
    assert table.CONFIG.build(LAYERED) == QwenImage(layered=True)
    assert {name: table.CONFIG.describe(QwenImage(layered=True))[name] for name in LAYERED} == LAYERED
    assert not LAYERED.keys() & table.CONFIG.describe(QwenImage()).keys()
    for name in LAYERED:
        with pytest.raises(Refusal, match="of these two fields, both or neither must be true"):
            table.CONFIG.build({name: True})


def test_layers_are_counted_the_last_picture_stands_before_them_and_the_text_behind_all():
    """Of three layers and two pictures, each of one patch: the text is behind the four that are counted."""
    found = network._token_positions(2, [(1, 1)] * 5, True)
    assert found[:, 0].tolist() == [4, 5, 0, 1, 2, 3, -1]
    assert network._token_positions(2, [(1, 1)] * 5)[:, 0].tolist() == [0, 1, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(network._token_positions(1, [(12, 2), (2, 2)], True)[0], [6, 6, 6])


def test_a_pipeline_of_pictures_refuses_a_denoiser_of_layers():
    assert pipeline.QWEN_IMAGE.objection(SMALL) == "no layers (use_layer3d_rope)"
    assert pipeline.QWEN_IMAGE.objection(QwenImage()) == ""


@pytest.mark.extended
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pictures": ()}, "'pictures' must hold the picture that is taken apart"),
        ({"kind": jnp.zeros(1)}, r"'kind' must be integers \[B\] = \(1,\)"),
        ({"kind": jnp.zeros(2, int)}, r"'kind' must be integers \[B\] = \(1,\)"),
    ],
)
def test_layers_need_a_picture_and_kinds_are_integers(changed, words):
    x, text, mask = jnp.zeros((1, 3, 2, 2, 4)), jnp.zeros((1, 2, 12)), jnp.ones((1, 2), bool)
    condition = {"text": text, "text_mask": mask, "pictures": (x[:, 0],)} | changed
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda x: SMALL.init(jax.random.key(0), x, jnp.zeros(1), condition), x)
