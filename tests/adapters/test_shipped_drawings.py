"""Adapters on the text-to-image model that travels with the project; its pictures are measured without a network."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters import lora
from diffusion.experiments.sampling import shipped_models
from examples.techniques import steered

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return text_to_image.load(shipped_models.folder_of_prompts("drawings"))


def test_an_erased_shape_is_gone_and_the_others_stay(model):
    """Eight pictures of hearts and eight of other shapes, before and after, by the templates of the shapes."""
    row = steered.erased(model, 8)
    hearts, others = (
        {name: found["share"] for name, found in shares.items()} for shares in list(row.figures.values())[:2]
    )
    assert hearts["before"] >= 0.75 and hearts["after"] <= 0.25
    assert others["before"] >= 0.75 and others["after"] >= 0.75


def test_a_new_lora_changes_no_picture_and_a_drawn_one_does(model):
    """Its update is zero until it is trained; with any other factors it moves the pictures."""
    params = model.params["transformer"]
    adapter = lora.init(jax.random.key(0), params, 4, "attention/.*kernel")
    draw = lambda factors: text_to_image.generate(
        dataclasses.replace(model, params=model.params | {"transformer": lora.merge(params, factors)}),
        ["a red circle"], seeds=[0], steps=4,
    )  # fmt: skip
    same = text_to_image.generate(model, ["a red circle"], seeds=[0], steps=4)
    np.testing.assert_array_equal(draw(adapter), same)
    moved = jax.tree.map(lambda leaf: leaf + 0.05, adapter)
    assert np.abs(draw(moved).astype(int) - same).max() > 10
