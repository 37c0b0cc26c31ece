"""SigLIP's text tower: its count of parameters, and what it refuses. (Peers: test_families.py.)"""

import math

import jax
import jax.numpy as jnp
import pytest

from diffusion.models import interchange
from diffusion.models.image_encoders import siglip
from diffusion.models.interchange import folders
from diffusion.models.text_encoders.siglip_text import SigLIPText, SigLIPTowers
from tests.models.interchange import published

SMALL = {"vocabulary": 9, "width": 8, "depth": 1, "heads": 2, "hidden": 8, "features": 12, "positions": 4}


def test_both_towers_have_the_listed_number_of_parameters():
    family = interchange.FAMILIES["SiglipModel"]
    module = family.build(family.published["So400m/14@384"])
    _, shapes = published.listing("siglip_towers_full_so400m")
    leaves = folders.leaves_of(folders.shapes_of(family, module)).values()
    assert sum(leaf.size for leaf in leaves) == sum(map(math.prod, shapes.values())) == 1_136_008_498


@pytest.mark.parametrize("ids", [jnp.zeros((1, 3), int), jnp.zeros((1, 4)), jnp.zeros(4, int)])
def test_texts_of_another_length_are_refused(ids):
    with pytest.raises(ValueError, match=r"\[B, 4\], padded to this length"):
        jax.eval_shape(SigLIPText(**SMALL).init, jax.random.key(0), ids)


def test_fields_out_of_range_are_refused():
    for field, value in {"heads": 3, "positions": 0, "vocabulary": 0, "dtype": "float16"}.items():
        with pytest.raises(ValueError, match=field):
            SigLIPText(**{**SMALL, field: value})
    vision = siglip.SigLIP(width=16, depth=1, heads=2, hidden=8, size=8, patch=4)
    with pytest.raises(ValueError, match="texts have 12 features but images have 16"):
        SigLIPTowers(SigLIPText(**SMALL), vision)
    with pytest.raises(interchange.Refusal, match=r"text_config.*hidden_act"):
        interchange.FAMILIES["SiglipModel"].build({"text_config": {"hidden_act": "relu"}})
