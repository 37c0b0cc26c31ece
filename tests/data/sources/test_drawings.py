"""Drawings that are made when a record is read: by their row and split alone, with the shares that are asked for."""

import numpy as np
import pytest

from diffusion.data import identities, shapes, sources
from diffusion.data.shapes import arrangements, motions
from diffusion.data.sources import made_drawings
from diffusion.data.sources.made_drawings import SILENT, Drawings


def test_records_follow_from_their_rows_and_splits_share_none():
    made = Drawings("test", 3, lambda row: {"x": row})
    assert [made[row]["x"] for row in range(3)] == [0, 1, 2] and len(made) == 3
    for row in (-1, 3):
        with pytest.raises(IndexError):
            made[row]
    both = np.concatenate([made.identities(), Drawings("train", 3, None).identities()])
    assert len(np.unique(both, axis=0)) == 6
    np.testing.assert_array_equal(made.identities()[:2], Drawings("test", 2, None).identities())
    spelled = sources.spelled_drawings("test", number=3).identities()
    assert not identities.have_common_set(sources.drawings("test", number=3).identities(), spelled)
    moving = [
        sources.moving_drawings("test", frames=8, number=3),
        sources.moving_drawings("test", frames=8, number=3, alone=True),
        sources.moving_pairs("test", frames=8, number=3),
    ]
    assert len({source.identities()[0, 0] for source in moving}) == 3
    quiet = sources.drawings("test", silent=0.1, number=3)
    np.testing.assert_array_equal(quiet.identities(), sources.drawings("test", number=3).identities())
    with pytest.raises(ValueError, match=r"drawings have no split 'val'. Valid: train, test"):
        Drawings("val", 3, None)
    Drawings("train", 1, None)
    with pytest.raises(ValueError, match=r"number = 0. Valid: at least 1"):
        Drawings("train", 0, None)


@pytest.mark.parametrize("silent, low, high", [(0.0, 0, 0), (0.5, 25, 75), (1.0, 100, 100)])
def test_a_share_of_captions_says_nothing(silent, low, high, monkeypatch):
    monkeypatch.setattr(shapes.drawing, "draw", lambda scene, lot: np.zeros((2, 2, 3), np.uint8))
    source = sources.drawings(silent=silent, number=100)
    captions = [source[row]["caption"] for row in range(100)]
    assert low <= captions.count(SILENT) <= high and len(set(captions)) > (1 if silent < 1 else 0)
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="Valid: 0 to 1"):
            sources.drawings(silent=share)


def test_silence_changes_no_picture_and_no_other_caption():
    spoken, half = (sources.drawings(silent=silent, number=6) for silent in (0.0, 0.5))
    test = sources.drawings("test", silent=0.0, number=6)
    for row in range(6):
        np.testing.assert_array_equal(spoken[row]["image"], half[row]["image"])
        assert half[row]["caption"] in (SILENT, spoken[row]["caption"])
        assert not np.array_equal(spoken[row]["image"], test[row]["image"])
        np.testing.assert_array_equal(spoken[row]["image"], sources.drawings(silent=0.0, number=9)[row]["image"])


def test_spelled_drawings_have_words_of_random_letters_and_nothing_withheld():
    """The captions spell what the pictures show: a word covers the columns that its letters cover."""
    source = sources.spelled_drawings(share=1.0, number=200)
    words = [source[row]["caption"].split('"')[1] for row in range(200)]
    assert {len(word) for word in words} == {3, 4} and len(set(words)) > 190
    assert set("".join(words)) == set("abcdefghijklmnopqrstuvwxyz")
    expected = np.zeros((64, 64, 3))
    shapes.drawing._write(expected, words[5], "red", shapes.scenes.Lot(0, 0, 0))
    columns = lambda picture: np.abs(picture - np.median(picture, (0, 1))).max((0, 2)) > 60
    np.testing.assert_array_equal(columns(source[5]["image"].astype(float)), columns(expected))
    mixed = sources.spelled_drawings(number=300)
    shown = [shapes.scenes.parsed(mixed[row]["caption"]) for row in range(300)]
    spelled = [scene.word not in shapes.scenes.WORDS for scene in shown if scene.kind == "word"]
    assert 25 <= sum(spelled) <= 65 and not all(spelled) and not any(map(shapes.scenes.withheld, shown))
    plain = sources.spelled_drawings(share=0.0, number=100)
    assert not any("word" in plain[row]["caption"] and plain[row]["caption"].split('"')[1] not in shapes.scenes.WORDS
                   for row in range(100))  # fmt: skip
    with pytest.raises(ValueError, match=r"share = 1.5. Valid: 0 to 1"):
        sources.spelled_drawings(share=1.5)


def test_a_random_word_is_none_that_the_dataset_withholds(monkeypatch):
    monkeypatch.setattr(made_drawings.string, "ascii_lowercase", "owl")
    lots = (shapes.scenes.Lot(1, 0, row) for row in range(300))
    words = {made_drawings._random_word(lot).word for lot in lots}
    assert "owl" not in words and len(words) > 60


def test_an_arrangement_has_its_picture_and_its_control():
    kinds = {kind: sources.arranged_drawings("test", kind=kind, number=4) for kind in arrangements.CONTROLS}
    for kind, source in kinds.items():
        scene = arrangements.example("test", 2, kind)
        record = source[2]
        np.testing.assert_array_equal(record["image"], scene.image)
        np.testing.assert_array_equal(record["condition"]["control"], scene.control)
        np.testing.assert_array_equal(record["image"], kinds["outlines"][2]["image"])
        assert record["caption"] == scene.caption
    with pytest.raises(ValueError, match=r"kind = 'none'. Valid: "):
        sources.arranged_drawings(kind="none")


@pytest.mark.parametrize("alone", [True, False])
def test_a_clip_says_its_motion(alone):
    source = sources.moving_drawings("train", frames=8, side=16, number=5, alone=alone)
    setting = motions.Setting(radii=(6.0, 6.6))
    setting = setting._replace(two=0.0, tilted=True) if alone else setting
    for row in (0, 4):
        clip = motions.example("train", row, 8, setting=setting)
        record = source[row]
        assert record["image"].shape == (8, 16, 16, 3) and record["caption"] == clip.caption
        means = clip.frames.reshape(8, 16, 4, 16, 4, 3).mean((2, 4))
        assert np.abs(record["image"] - means).max() <= 1  # of the pixels that each covers
        if alone:
            assert len(clip.movers) == 1 and "label" not in record
            np.testing.assert_array_equal(record["condition"]["vector"], motions.words(clip.caption))
            np.testing.assert_array_equal(source.conditions([row])[0]["vector"], motions.words(clip.caption))
        else:
            assert record["label"] == list(motions.MOTIONS).index(clip.movers[0].motion)
    assert alone or source.spec.num_classes == len(motions.MOTIONS)


@pytest.mark.parametrize("radii", [(3.9, 6.0), (6.0, 9.1), (7.0, 6.0)])
def test_radii_out_of_range_are_refused(radii):
    with pytest.raises(ValueError, match="Valid: two numbers from 4 to 9"):
        sources.moving_drawings(radii=radii)


def test_the_ends_of_radii_and_spans_are_valid():
    sources.moving_drawings(frames=8, side=8, number=1, radii=(4, 9))
    sources.moving_drawings(frames=9, side=8, number=1, span=8)
    sources.moving_drawings(frames=8, side=8, number=1, span=8)
    for span in (7, 9, -1):
        with pytest.raises(ValueError, match="Valid: 0, or 8 to 8, the number of frames"):
            sources.moving_drawings(frames=8, side=8, number=1, span=span)


def test_pairs_of_moving_drawings_hold_the_words_of_each_shape():
    source = sources.moving_pairs("train", frames=8, side=16, number=6)
    setting = motions.Setting(radii=(7.6, 8.2), tilted=True)
    for row in range(6):
        clip = motions.example("train", row, 8, setting=setting)
        assert source[row]["caption"] == clip.caption and "label" not in source[row]
        np.testing.assert_array_equal(source[row]["image"], motions.shrunk(clip.frames, 16))
        for condition in (source[row]["condition"], source.conditions([row])[0]):
            np.testing.assert_array_equal(condition["vector"], motions.words_of_both(clip.caption))
    assert {len(motions.example("train", row, 8, setting=setting).movers) for row in range(6)} == {1, 2}


def test_a_pair_of_moving_drawings_is_drawn_once(monkeypatch):
    source = sources.moving_pairs("test", frames=8, side=16, number=5)
    record = source[3]
    monkeypatch.setattr(motions, "example", None)  # nothing is drawn any more
    assert source[3]["image"] is record["image"]


@pytest.mark.extended
@pytest.mark.parametrize("side", [1, 24, 48, 63, 64])
def test_a_smaller_frame_has_the_means_of_what_its_pixels_cover(side):
    """Against the mean over a picture whose pixels are each cut into parts."""
    frames = np.random.default_rng(side).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    fine = frames.repeat(side, 1).repeat(side, 2)
    means = fine.reshape(2, side, 64, side, 64, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(motions.shrunk(frames, side), np.round(means).astype(np.uint8))
