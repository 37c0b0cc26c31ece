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
    real, every, more = (real_images.captioned("made@train[:60]", made, number) for number in (7, 0, 61))
    assert len(real.images) == len(real.captions) == 7 and len(every.images) == len(more.images) == 60
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
    with pytest.raises(ConfigError, match=r"of 32 pixels, but the pictures of made@train\[:60\] have 16"):
        caption_report.run(
            types.SimpleNamespace(side=32), "model", "out", "made@train[:60]", "made@train[60:]", data_dir=made
        )


def test_each_figure_is_of_the_pictures_and_captions_that_it_says(tmp_path, monkeypatch):
    """Picture k of the data has the value and the caption k; the first one that is made is of another caption."""
    folder = lambda start, number: types.SimpleNamespace(
        images=np.arange(start, start + number, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8),
        captions=tuple(map(str, range(start, start + number))),
    )
    sets = {"a@train": folder(0, 60), "a@test": folder(100, 12)}
    real, others = sets.values()
    others.captions = (*others.captions[:-1], "110")  # nearest to the picture 111 is the picture 110's
    value = lambda images: images[:, 0, 0, 0].tolist()
    calls = {}
    keep = lambda name, result=None: (
        lambda *arguments, **named: (
            calls.setdefault(name, []).append((arguments, named))
            or (result(*arguments) if callable(result) else result)
        )
    )
    similar = lambda retriever, images, texts: -np.abs(np.subtract.outer(value(images), list(map(int, texts))))
    copies = {"share_below_held_out_percentile": {"1": 0.0, "5": 0.0}, "samples": {"exact_duplicates": 0, "count": 60}}
    frechet = {"floor": {"mean": 1.0, "std": 0.5}, "ratio": 2.0, "noise": 9.0, "distance": 2.0}
    share = lambda matrix, texts, among: {
        "share": float((matrix.argmax(1) == np.arange(len(texts))).mean()),
        "interval": (0.25, 0.75), "chance": 1 / among, "among": among,
    }  # fmt: skip
    made = lambda model, texts: np.concatenate([real.images[59:], real.images[list(map(int, texts))][1:]])
    monkeypatch.setattr(caption_report, "captioned", lambda name, folder: sets[name])
    monkeypatch.setattr(caption_report, "trained_on", lambda *sets: types.SimpleNamespace(count=0))
    monkeypatch.setattr(model_index, "fingerprint", lambda folder: "0" * 64)
    monkeypatch.setattr(text_to_image, "generate", keep("generate", made))
    monkeypatch.setattr(caption_report, "distance", keep("distance", frechet))
    monkeypatch.setattr(caption_report.neighbours, "copying", keep("copying", copies))
    monkeypatch.setattr(caption_report.plots, "captioned", keep("captioned"))
    towers = caption_report.caption_retrieval
    monkeypatch.setattr(towers, "train", keep("train", types.SimpleNamespace(digest="d")))
    monkeypatch.setattr(towers, "similarities", similar)
    monkeypatch.setattr(towers, "retrieved", share)
    content = caption_report.run(
        types.SimpleNamespace(side=16), tmp_path, tmp_path, "a@train", "a@test", number=20, train_steps=3, among=5
    )
    rows = np.sort(np.random.default_rng(caption_report.SEED).permutation(60)[:20]).tolist()
    (((_, texts), generated),) = calls["generate"]
    assert texts == list(map(str, rows)) and list(generated["seeds"]) == list(range(20))
    found = content["figures"]["retrieval"]
    assert [found[name]["share"] for name in ("pictures", "real_pictures", "held_out_pictures")] == [
        0.95, 1, 11 / 12
    ]  # fmt: skip
    assert {part["among"] for part in found.values()} == {5}
    (((_, images, labels, *sides, count), how),) = calls["distance"]
    assert value(images) == [59, *rows[1:]] and labels.tolist() == [0] * 20 and sides == [real, others] and count == 12
    assert how == {"balanced": False, "effort": caption_report.FULL}
    (((images, held, train), _),) = calls["copying"]
    assert (value(images), held is others.images, train is real.images) == ([59, *rows[1:]], True, True)
    some = np.random.default_rng(caption_report.SEED + 1).permutation(20)
    (first, _), (second, _) = calls["captioned"]
    assert value(first[0]) == [59 if i == 0 else rows[i] for i in some] and first[1] == [texts[i] for i in some]
    assert first[2] == [bool(i) for i in some]
    assert value(second[0]) == [rows[i] for i in some] and second[1] == first[1] and second[2] == [True] * 20
    text = (tmp_path / "report.md").read_text()
    assert (
        "| the requested caption is the nearest of 5 | **95.0% (25.0% to 75.0%)** | chance 20.0%; real pictures" in text
    )
