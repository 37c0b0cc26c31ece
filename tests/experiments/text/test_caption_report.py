"""The report by retrieval: real pictures in place of a model's score as real pictures do, exchanged ones as chance."""

import json
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffusion import text_to_image
from diffusion.experiments import caption_report
from diffusion.experiments.evaluation import real_images
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_index
from tests.data.made import image_feature, png, write

HUES, GREYS = ("red", "green", "blue"), ("black", "grey", "white")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sixty pictures 16 x 16 of nine captions: a hue above, a grey below."""
    rng = np.random.default_rng(0)
    examples = []
    for hue, grey in zip(rng.integers(0, 3, 90), rng.integers(0, 3, 90)):
        image = rng.integers(0, 20, (16, 16, 3)).astype(np.uint8)
        image[:8, :, hue] += 200
        image[8:] += np.array([0, 110, 220], np.uint8)[grey]
        examples.append({"image": png(image), "caption": f"{HUES[hue]} over {GREYS[grey]}"})
    features = {"image": image_feature(shape=(16, 16, 3)), "caption": tfds.features.Text()}
    return write(tmp_path_factory.mktemp("made"), features, examples)


@pytest.mark.slow
@pytest.mark.parametrize("turn, right", [(0, True), (1, False)])
def test_real_pictures_score_as_real_and_exchanged_ones_as_chance(made, tmp_path, monkeypatch, turn, right):
    real = real_images.captioned("made@train[:60]", made)
    texts = real.captions
    monkeypatch.setattr(model_index, "fingerprint", lambda folder: "0" * 64)
    monkeypatch.setattr(caption_report, "FULL", caption_report.FULL._replace(draws=5, subsets=2))
    rows = np.sort(np.random.default_rng(caption_report.SEED).permutation(60)[:40])
    monkeypatch.setattr(text_to_image, "generate", lambda *_, **__: np.roll(real.images[rows], turn, axis=0))
    content = caption_report.run(
        types.SimpleNamespace(side=16),
        tmp_path,
        tmp_path,
        "made@train[:60]",
        "made@train[60:]",
        data_dir=made,
        number=40,
        train_steps=80,
        among=6,
    )
    found = content["figures"]["retrieval"]
    assert found["real_pictures"]["share"] > 0.9 and found["held_out_pictures"]["share"] > 0.9
    if right:
        assert found["pictures"] == found["real_pictures"]
        assert content["figures"]["copies"]["samples"]["exact_duplicates"] == 40
    else:
        agree = np.mean([texts[a] == texts[b] for a, b in zip(rows, np.roll(rows, turn))])
        assert abs(found["pictures"]["share"] - agree) < 0.15  # right where the other picture has the same caption
    assert json.loads((tmp_path / "report.json").read_text()) == content
    assert "chance 16.7%" in (tmp_path / "report.md").read_text() and (tmp_path / "requested.png").is_file()


def test_the_first_pictures_have_their_captions_and_one_class(made):
    real, every = (real_images.captioned("made@train[:60]", made, number) for number in (7, 0))
    assert len(real.images) == len(real.captions) == 7 and len(every.images) == 60
    np.testing.assert_array_equal(real.labels, np.zeros(7))
    for image, caption in zip(real.images, real.captions):
        hue, grey = caption.split(" over ")
        assert image[:8].mean((0, 1)).argmax() == HUES.index(hue)
        assert round(image[8:].mean() / 110 - 0.1) == GREYS.index(grey)


def test_data_that_are_not_there_are_named(made):
    with pytest.raises(ConfigError, match="Valid: NAME@SPLIT"):
        real_images.captioned("made", made)
    with pytest.raises(ConfigError, match="has no split 'test'"):
        real_images.captioned("made@test", made)
    with pytest.raises(ConfigError, match=r"of 32 pixels, but those of made@train\[:60\] have 16"):
        caption_report.run(
            types.SimpleNamespace(side=32), "model", "out", "made@train[:60]", "made@train[60:]", data_dir=made
        )
