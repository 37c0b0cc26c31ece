"""CLIP out of a folder as the embedder of a benchmark."""

import json

import jax
import numpy as np
import pytest

from diffusion import text
from diffusion.experiments.prompt_benchmark import clip_embedder
from diffusion.metrics import picture_scores
from diffusion.metrics.prompt_following import readers
from diffusion.models import interchange
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision, normalised
from diffusion.recipe import ConfigError
from tests.text import vocabularies


@pytest.mark.slow
def test_each_row_is_that_of_its_own_picture_and_text(tmp_path):
    folder = vocabularies.folder_of(tmp_path / "tiny", "clip")
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    towers = (
        CLIPText(vocabulary=vocabulary, width=16, depth=1, heads=2, hidden=32),
        CLIPVision(size=16, patch=8, width=16, depth=1, heads=2, hidden=32),
    )
    module = CLIP(*towers, features=12)
    tokens = text.Tokenizer.open(folder)
    params = jax.jit(module.init)(jax.random.key(0), tokens(["a"]).ids, np.zeros((1, 16, 16, 3)))["params"]
    interchange.save(folder, module, params)
    embedder, digest = clip_embedder.opened(str(folder))
    pictures = list(np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8))  # more than a batch
    texts = [f"a {word}" for word in "cat dog car hill bad red".split()] * 2
    found = readers.embedded_pictures(embedder, pictures), readers.embedded_texts(embedder, texts)
    assert len(found[0]) == 11 and len(found[1]) == 12 and len(digest) == 64
    seen = jax.jit(lambda x: module.apply({"params": params}, normalised(x), method="encode_images"))
    read = jax.jit(lambda ids: module.apply({"params": params}, ids, method="encode_text"))
    for picture, row in zip(pictures, found[0]):
        own = seen(picture[None])
        np.testing.assert_allclose(row, own[0], atol=2e-6)
    for words, row in zip(texts, found[1]):
        own = read(tokens([words]).ids)
        np.testing.assert_allclose(row, own[0], atol=2e-6)


def test_each_tower_reads_batches_of_one_shape_and_answers_in_the_order_of_the_rows(monkeypatch):
    """One program a tower: the last batch is filled, and what fills it is not among the answers."""
    shapes = []

    def images(batch):
        shapes.append(batch.shape)
        return batch[:, :1, 0, 0].astype(float)

    def texts(batch):
        shapes.append(len(batch))
        return np.array([[float(text)] for text in batch])

    towers = picture_scores.Towers(side=2, scale=1.0, images=images, texts=texts)
    monkeypatch.setattr(clip_embedder.picture_scores, "clip_towers", lambda folder: towers)
    monkeypatch.setattr(clip_embedder.model_index, "fingerprint", lambda folder: f"digest of {folder}")
    embedder, digest = clip_embedder.opened("clip")
    assert digest == "digest of clip"
    for count in (1, clip_embedder.BATCH - 1, clip_embedder.BATCH, clip_embedder.BATCH + 3, 2 * clip_embedder.BATCH):
        pictures = [np.full((2, 2, 3), value, np.uint8) for value in range(count)]
        np.testing.assert_array_equal(embedder.pictures(pictures)[:, 0], np.arange(count))
        np.testing.assert_array_equal(embedder.texts([str(value) for value in range(count)])[:, 0], np.arange(count))
    assert set(shapes) == {(clip_embedder.BATCH, 2, 2, 3), clip_embedder.BATCH}
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = 9  # the middle, which is what CLIP sees
    assert embedder.pictures([wide]) == 9


def test_a_folder_that_holds_no_clip_is_refused_by_the_flag(tmp_path):
    with pytest.raises(ConfigError, match=f"--clip={tmp_path}: "):
        clip_embedder.opened(str(tmp_path))
