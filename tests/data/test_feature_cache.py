"""Features beside latents: of the same picture, and of the same view of it."""

import json

import numpy as np
import pytest

from diffusion.data import feature_cache, latent_cache, latent_writer, pipeline
from diffusion.data.latent_cache import CacheError
from tests.data.test_latent_cache import SIZE, SPEC, Pictures, description, encode

VIEWS = {"views": ("plain", "flipped")}


def features(images):
    """[B, 1, 1, 2, 1]: two patches, whose features tell the picture's first column."""
    return np.repeat(images[:, :1, 0, 0].astype(np.float32), 2, axis=1)[:, None, None, :, None]


def written(folder, **changes):
    """A cache of latents with features, whose description has these changes."""
    latents = description(kind="mean", scale=1.0, shift=0.0, **VIEWS)
    latent_writer.write(folder, Pictures(), SPEC, latents, lambda images: encode(images)[:, :1], batch_size=4)
    of_features = {"shape": (1, 2, 1), "dtype": "float16", "autoencoder": {"sha256": "cd" * 32}}
    about = latents._replace(**of_features | changes)
    latent_writer.write(feature_cache.beside(folder), Pictures(), SPEC, about, features, batch_size=4)
    return latent_cache.open_cache(folder)[0]


def test_a_batch_has_the_features_of_the_view_that_its_latents_are_of(tmp_path):
    latents = written(tmp_path)
    source = feature_cache.Featured(latents, feature_cache.open_beside(tmp_path, latents.description))
    batches = pipeline.batches(source, latents.spec, seed=3, batch_size=SIZE, augment=(latents.draw,), threads=0)
    batch = next(batches)
    assert batch["features"].shape == (SIZE, 2, 1) and batch["features"].dtype == np.float16
    np.testing.assert_array_equal(batch["features"][:, 0, 0], batch["x"][:, 0, 0, 0])
    rows = pipeline.records_at(np.arange(SIZE), SIZE, 3)
    assert set(batch["features"][:, 1, 0] - 10 * rows) == {0, 5}  # the first column, and that of the mirror image
    without = next(pipeline.batches(latents, latents.spec, seed=3, batch_size=SIZE, augment=(latents.draw,), threads=0))
    np.testing.assert_array_equal(batch["x"], without["x"])  # the features change no draw
    stored = latent_cache.open_cache(feature_cache.beside(tmp_path))[0]
    assert source.fingerprint() == {
        **latents.fingerprint(),
        "features": stored.fingerprint()["sha256"],
        "encoder": "cd" * 32,
    }
    assert source.fingerprint()["features"] != source.fingerprint()["sha256"]


def test_features_of_other_pictures_or_views_are_refused(tmp_path):
    latents = description(**VIEWS)
    with pytest.raises(FileNotFoundError, match=r"the features of an encoder beside.*FOLDER --encoder_size"):
        feature_cache.open_beside(tmp_path, latents)
    written(tmp_path)
    with pytest.raises(CacheError, match=r"features of other pictures.*views: \['plain', 'flipped'\] -> \['plain'\]"):
        feature_cache.open_beside(tmp_path, description())
    other = latents._replace(dataset={**latents.dataset, "shape": [8, 8, 3]})
    with pytest.raises(CacheError, match=r"dataset.shape: \[4, 6, 3\] -> \[8, 8, 3\]"):
        feature_cache.open_beside(tmp_path, other)


def test_features_of_another_order_than_the_latents_are_refused(tmp_path):
    """Both were written again for the pictures of a table, whose lines had moved between the two commands."""
    latents = written(tmp_path)
    for order, other in (("ab", "ab"), ("ab", None), ("ab", "cd")):
        for path, digest in ((tmp_path, order), (feature_cache.beside(tmp_path), other)):
            note = json.loads((path / latent_cache.INDEX).read_text())
            note.pop(latent_cache.ORDER, None)
            note |= {latent_cache.ORDER: digest} if digest else {}
            (path / latent_cache.INDEX).write_text(json.dumps(note))
        if other != "cd":  # earlier versions noted none
            feature_cache.open_beside(tmp_path, latents.description)
    with pytest.raises(CacheError, match="features of records with other names, or in another order"):
        feature_cache.open_beside(tmp_path, latents.description)
