"""Codes of drawings: patches, a codebook by hand, models of one size, and figures of pictures that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.data.shapes import scenes
from diffusion.metrics import frechet
from examples.symbols import drawing_codes, drawing_tokens, token_models


@pytest.fixture(scope="module")
def drawings():
    return drawing_codes.drawings(40, "test")


def test_a_halved_picture_has_the_means_of_squares():
    picture = np.zeros((4, 2, 3), np.uint8)
    picture[0, 0], picture[1, 1], picture[3, 0] = 100, 50, 7  # 150 / 4 = 37.5 and 7 / 4, to the even number
    np.testing.assert_array_equal(drawing_codes.halved(picture)[..., 0], [[38], [2]])


def test_patches_stand_in_rows_and_join_to_the_same_picture(drawings):
    patches = drawing_codes.patches(drawings.images)
    corner = drawings.images[0, 4:8, 8:12].reshape(-1) / 127.5 - 1  # second row of patches, third column
    np.testing.assert_allclose(patches[0, 8 + 2], corner, atol=1e-6)
    np.testing.assert_array_equal(drawing_codes.joined(patches), drawings.images)


def test_a_class_is_a_pair_that_is_not_withheld(drawings):
    assert len(drawing_codes.PAIRS) == 56 and not scenes.WITHHELD & set(drawing_codes.PAIRS)
    assert drawings.images.shape == (40, 32, 32, 3) and drawings.images.dtype == np.uint8
    again, train = drawing_codes.drawings(2, "test"), drawing_codes.drawings(2, "train")
    np.testing.assert_array_equal(again.images, drawings.images[:2])
    assert (train.images != again.images).any()


@pytest.mark.extended
def test_codes_are_the_means_of_their_vectors():
    """Two clusters of two: from any two vectors, Lloyd's iterations end at the means 1 and 11."""
    vectors = np.array([[0.0], [2.0], [10.0], [12.0]], np.float32)
    for seed in range(4):
        codes = drawing_codes.codebook(vectors, 2, iterations=8, seed=seed)
        np.testing.assert_allclose(np.sort(codes[:, 0]), [1, 11], atol=1e-5)
        numbers = drawing_codes.tokens(codes, vectors)
        np.testing.assert_allclose(codes[numbers, 0], [1, 1, 11, 11], atol=1e-5)


@pytest.mark.extended
def test_a_codebook_of_all_patches_loses_nothing(drawings):
    some = drawings.images[:3]
    codes = np.unique(drawing_codes.patches(some).reshape(-1, 48), axis=0)
    found = drawing_codes.figures(codes, some)
    assert found["psnr"] == np.inf and found["used"] == 1
    np.testing.assert_allclose(found["ssim"], 1, atol=1e-6)
    assert 1 < found["perplexity"] <= len(codes)


@pytest.mark.extended
@pytest.mark.parametrize("width, depth", [(16, 1), (48, 2)])
def test_the_gaussian_model_has_the_size_of_the_others(width, depth):
    """To less than one hidden feature of each layer: 2 `width` weights and a bias."""
    every = token_models.all_models(512, width, depth)
    sizes = {name: token_models.parameters(model) for name, model in every.items()}
    assert 0 <= sizes["uniform"] - sizes["Gaussian"] < depth * (2 * width + 1)
    assert sizes["flow"] == sizes["uniform"] and sizes["masked"] == sizes["uniform"] + 2 * width + 1  # the mask's rows
    assert every["Gaussian"].bound is None


@pytest.mark.extended
def test_a_network_that_predicts_the_mean_of_the_patches_draws_it():
    """It predicts x_0 in numbers of mean 0: zeros are the mean."""
    model = token_models.gaussian(16, 1, 4, 64)
    params = jax.tree.map(jnp.zeros_like, model.initial(0))
    patches = model.sample(params, jax.random.split(jax.random.key(0), 2), jnp.zeros(2, int), 3)
    np.testing.assert_allclose(patches, np.full((2, 64, 48), token_models.MEAN), atol=1e-6)


@pytest.mark.extended
def test_templates_recognise_drawings_and_refuse_another_class(drawings):
    features, right = drawing_tokens.judged(drawings.images, drawings.label)
    assert features.shape == (40, 19) and np.mean(right) > 0.95
    named = [drawing_codes.scene_of(label) for label in drawings.label]
    best = [scenes.SHAPES[row[:8].argmax()] == scene.shape for row, scene in zip(features, named)]
    hue = [scenes.COLOURS[row[8:16].argmax()] == scene.colour for row, scene in zip(features, named)]
    assert np.mean(best) > 0.95 and np.mean(hue) > 0.95
    others = (drawings.label + 1) % len(drawing_codes.PAIRS)
    assert not any(drawing_tokens.judged(drawings.images, others)[1])


@pytest.mark.extended
def test_an_empty_picture_is_wrong_and_has_finite_features():
    features, right = drawing_tokens.judged(np.full((1, 32, 32, 3), 245, np.uint8), [0])
    assert right == [False] and np.isfinite(features).all()


def test_the_figures_of_two_trainings_are_means_and_ranges():
    """Moved by 3, samples of equal covariance lie 9 from the reference; moved by 1, 1."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 2))
    reference = frechet.moments(features)
    move = np.array([1.0, 0])
    found = drawing_tokens.figures([(features + 3 * move, [True, False]), (features + move, [True, True])], reference)
    np.testing.assert_allclose([found["distance"], *found["range"]], [5, 1, 9], rtol=1e-6)
    assert found["right"] == 0.75 and found["error"] > 0
