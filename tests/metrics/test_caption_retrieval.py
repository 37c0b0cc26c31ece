"""Retrieval of captions: exact shares of made similarities, and towers that learn colours."""

import jax
import numpy as np
import pytest
import scipy.special

from diffusion.metrics import caption_retrieval

CAPTIONS = [f"caption {i}" for i in range(60)]


def test_exact_shares_of_made_similarities():
    found = caption_retrieval.retrieved(np.eye(60), CAPTIONS, among=50)
    assert found["share"] == 1 and found["chance"] == 1 / 50 and found["count"] == 60
    assert caption_retrieval.retrieved(-np.eye(60), CAPTIONS, among=50)["share"] == 0
    some = np.diag([1.0] * 15 + [-1.0] * 45)  # a quarter of the pictures are nearest to their own
    assert caption_retrieval.retrieved(some, CAPTIONS, among=10)["share"] == 0.25


def test_similarities_that_know_nothing_are_chance():
    scores = np.random.default_rng(0).normal(size=(600, 600))
    found = caption_retrieval.retrieved(scores, [f"{i}" for i in range(600)], among=5)
    assert abs(found["share"] - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 600)


def test_equal_captions_do_not_compete():
    captions = ["a", "b"] * 5
    scores = np.array([[one == other for other in captions] for one in captions], float)
    assert caption_retrieval.retrieved(scores, captions, among=2)["share"] == 1
    with pytest.raises(ValueError, match="needs 3 different ones; there are only 2"):
        caption_retrieval.retrieved(scores, captions, among=3)


def test_words_of_captions():
    assert caption_retrieval.split("Woman pilot, medium-dark skin_tone") == [
        "woman",
        "pilot",
        "medium",
        "dark",
        "skin",
        "tone",
    ]
    words = {"red": 0, "very": 1}
    assert caption_retrieval.bags(["very, very red", "blue"], words).tolist() == [[1, 2], [0, 0]]


def test_similarities_are_cosines(monkeypatch):
    """Of vectors of words that are summed, with pictures whose vectors are known."""
    pictures = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    monkeypatch.setattr(caption_retrieval, "features", lambda retriever, images: pictures)
    monkeypatch.setattr(caption_retrieval, "bags", lambda captions, words: np.float32([[1, 0], [0, 1], [1, 1]]))
    retriever = caption_retrieval.Retriever({"word": np.float32([[3, 0], [0, 4]])}, ("red", "dot"), "d")
    cosines = caption_retrieval.similarities(retriever, None, ["red", "dot", "red dot"])
    np.testing.assert_allclose(cosines, [[1, 0, 0.6], [0.6, 0.8, 0.36 + 0.64]], rtol=1e-6, atol=1e-7)


@pytest.mark.extended
def test_two_steps_of_training_know_all_words_and_put_pictures_on_the_sphere():
    """A batch is no larger than the set; what is known of a caption does not depend on its other pictures."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    seen, captions = [], ["a red cat", "a cat", "blue", "Red blue", "a dog"]
    found = caption_retrieval.train(images, captions, steps=2, progress=lambda *at: seen.append(at))
    assert [step for step, _ in seen] == [1, 2] and all(np.isfinite(loss) for _, loss in seen)
    assert found.words == {"a": 0, "blue": 1, "cat": 2, "dog": 3, "red": 4} and found.params["word"].shape == (5, 64)
    places = caption_retrieval.features(found, images)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, rtol=1e-5)
    words = found.params["word"]
    bags = np.stack([words[0] + words[2] + words[4], 2 * words[1]])
    expected = places @ (bags / np.linalg.norm(bags, axis=1, keepdims=True)).T
    scores = caption_retrieval.similarities(found, images, ["a red cat", "blue and blue"])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_towers_learn_which_caption_is_whose():
    rng = np.random.default_rng(0)
    hue = rng.integers(0, 3, 60)
    grey = rng.integers(0, 3, 60)
    images = np.zeros((60, 16, 16, 3), np.uint8)
    images[np.arange(60), :8, :, hue] = 220
    images[:, 8:] = np.array([20, 120, 230])[grey][:, None, None, None]
    captions = [f"{('red', 'green', 'blue')[h]} over {('black', 'grey', 'white')[g]}" for h, g in zip(hue, grey)]
    found = caption_retrieval.train(images, captions, steps=60, batch_size=30)
    scores = caption_retrieval.similarities(found, images, captions)
    assert caption_retrieval.retrieved(scores, captions, among=9)["share"] > 0.95
    moved = caption_retrieval.retrieved(np.roll(scores, 1, axis=0), captions, among=9)
    assert moved["share"] < 0.4
    assert caption_retrieval.similarities(found, images[:2], ["purple"]).tolist() == [[0], [0]]


def test_the_loss_is_the_mean_over_pictures_and_over_captions(monkeypatch):
    """-log p of the right caption among those of the batch, and of the right picture, by logits of 16 cosines."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    captions = ["red cat", "cat", "blue blue dog"]
    losses = []

    def minimised(loss, params, keys_of_steps, batch, *rest):
        params = jax.tree.map(np.asarray, params)
        losses.append((params, float(loss(params, keys_of_steps(0), images, caption_retrieval.bags(captions, words)))))
        return params

    words = {"blue": 0, "cat": 1, "dog": 2, "red": 3}
    flat = lambda images: np.reshape(images, (len(images), -1))[:, : caption_retrieval.attribute_reader.DIM] / 255
    for name, instead in {
        "minimised": minimised,
        "init_hidden": lambda key, shape: {},
        "he_normal": lambda key, shape: rng.normal(size=shape),
        "changed": lambda key, images: images,
        "hidden": lambda params, images: flat(images),
    }.items():
        monkeypatch.setattr(caption_retrieval.attribute_reader, name, instead)
    caption_retrieval.train(images, captions, steps=1)
    ((params, loss),) = losses
    red_cat = params["word"][3] + params["word"][1]
    texts = np.stack([red_cat, params["word"][1], 2 * params["word"][0] + params["word"][2]])
    pictures = flat(images) @ params["picture"]
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    logits = 16 * unit(pictures) @ unit(texts).T
    right = [-np.diag(scipy.special.log_softmax(logits, axis=axis)).mean() for axis in (0, 1)]
    assert abs(right[0] - right[1]) > 0.1
    assert loss == pytest.approx(np.mean(right), rel=1e-4)


def test_no_step_has_a_key_that_drew_the_parameters(monkeypatch):
    folded, fold_in = [], jax.random.fold_in
    note = lambda key, number: folded.append((*np.asarray(jax.random.key_data(key)).tolist(), number))
    monkeypatch.setattr(jax.random, "fold_in", lambda key, number: note(key, number) or fold_in(key, number))

    def minimised(loss, params, keys_of_steps, *rest):
        assert len({tuple(np.asarray(jax.random.key_data(keys_of_steps(step)))) for step in range(6)}) == 6
        return jax.tree.map(np.asarray, params)

    monkeypatch.setattr(caption_retrieval.attribute_reader, "minimised", minimised)
    caption_retrieval.train(np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"], steps=6)
    assert len(folded) == len(set(folded)) > 6
