"""Pictures between two prompts and two noises, of networks that a test can read."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.text_to_image import interpolation
from tests.text_to_image.stand_ins import made_model

HOW = {"guidance": 1.5, "steps": 3}


@pytest.fixture(scope="module")
def model():
    model = made_model()
    return dataclasses.replace(model, kind=model.kind._replace(multiple=lambda denoiser: 1))


@pytest.mark.extended
@pytest.mark.parametrize("seeds", [(3, 5), (4, 4)])
def test_the_way_begins_and_ends_at_the_pictures_of_the_prompts(model, seeds):
    prompts = ["a cat", "a dog on a very long leash"]
    way = text_to_image.between(model, prompts, seeds, np.array([0.0, 0.5, 1.0]), **HOW)
    assert way.shape == (3, 8, 8, 3) and way.dtype == np.uint8
    ends = text_to_image.generate(model, prompts, seeds=seeds, **HOW).astype(int)
    assert np.abs(way[0].astype(int) - ends[0]).max() <= 1
    assert np.abs(way[2].astype(int) - ends[1]).max() <= 1
    assert all(np.abs(way[1].astype(int) - end).max() > 1 for end in ends)


@pytest.mark.extended
def test_the_same_prompt_and_seed_stay_where_they_are(model):
    way = text_to_image.between(model, ["a cat"] * 2, (3, 3), np.array([0.0, 0.3, 1.0]), **HOW).astype(int)
    assert np.abs(way - way[:1]).max() <= 1


def test_conditions_are_mixed_and_masks_have_what_either_has():
    weight = jnp.array([0.0, 0.25, 1.0])
    ends = jnp.array([[[1.0, 2.0]], [[5.0, -2.0]]])
    expected = [[[1, 2]], [[2, 1]], [[5, -2]]]
    np.testing.assert_allclose(interpolation._mixed(ends, weight), expected)
    half = interpolation._mixed(ends.astype(jnp.bfloat16), weight)
    assert half.dtype == jnp.bfloat16
    mask = jnp.array([[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(interpolation._mixed(mask, weight), [[True, True, False]] * 3)
