"""VBench's dimensions of clips and answers whose figures are known."""

import numpy as np
import pytest

from diffusion.metrics import vbench
from diffusion.metrics.prompt_following.readers import Detection


def still(value=90, frames=6):
    return np.full((1, frames, 8, 8, 3), value, np.uint8)


def test_frames_that_do_not_change_are_consistent_and_do_not_flicker():
    features = np.tile(np.random.default_rng(0).normal(size=(3, 1, 5)), (1, 4, 1))
    np.testing.assert_allclose(vbench.consistency(features), 1)
    np.testing.assert_array_equal(vbench.flickering(still()), 1)
    middle = lambda a, b: ((a.astype(int) + b) // 2).astype(np.uint8)
    np.testing.assert_array_equal(vbench.motion_smoothness(still(), middle), 1)


def test_consistency_is_of_the_frame_before_and_of_the_first():
    """Directions at 0, 60, 180 degrees: cosines with the one before 1/2, -1/2 -> 0; with the first 1/2, -1 -> 0."""
    angles = np.deg2rad([0.0, 60.0, 180.0])
    features = 3.0 * np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    assert vbench.consistency(features)[0] == pytest.approx((0.5 + 0.0) / 2)
    angles = np.deg2rad([0.0, 90.0, 120.0])  # before: 0, cos 30; first: 0, -1/2 -> 0
    features = np.stack([np.cos(angles), np.sin(angles)], -1)[None]
    assert vbench.consistency(features)[0] == pytest.approx(np.cos(np.pi / 6) / 4)


def test_flicker_is_the_mean_change():
    clip = still()
    clip[:, 1::2] += 51  # 51 of 255 from each frame to the next
    assert vbench.flickering(clip)[0] == pytest.approx(0.8)
    clip = still()
    clip[:, 3:, :4] -= 85  # once in five steps, of half the pixels
    assert vbench.flickering(clip)[0] == pytest.approx(1 - 85 / 255 / 2 / 5)


def test_smoothness_is_the_error_of_the_odd_frames():
    """The even frames are 0, 20, 40 and their middles 10, 30; the odd ones are 10 and 81, and the last is left out."""
    clip = np.zeros((1, 6, 8, 8, 3), np.uint8)
    clip[0] += np.array([0, 10, 20, 81, 40, 200], np.uint8)[:, None, None, None]
    middle = lambda a, b: ((a.astype(int) + b) // 2).astype(np.uint8)
    assert vbench.motion_smoothness(clip, middle)[0] == pytest.approx(1 - 51 / 2 / 255)
    with pytest.raises(ValueError, match=r"interpolate returned uint8 \[1, 8, 8, 3\]"):
        vbench.motion_smoothness(clip, lambda a, b: a[:1])
    with pytest.raises(ValueError, match="this figure needs films of at least 3 frames; got 2"):
        vbench.motion_smoothness(clip[:, :2], middle)


def test_a_film_moves_if_enough_steps_are_longer_than_the_bound():
    """Lengths count in pixels of 256. At 8 frames a second the bound is 6, and of 16 frames four steps are needed."""
    clips = np.zeros((1, 16, 64, 64, 3), np.uint8)

    def flow(steps, length, share=0.05):
        def of(first, second):
            motion = np.zeros((len(first), 64 * 64, 2))
            motion[:steps, : int(share * 64 * 64)] = length / 4 * np.array([0.6, -0.8])
            return motion.reshape(len(first), 64, 64, 2)

        return of

    moves = lambda *how, rate=8.0: bool(vbench.dynamic(clips, flow(*how), rate)[0])
    assert moves(4, 6.01) and not moves(4, 5.99) and not moves(3, 60.0)
    assert not moves(4, 6.01, 0.04) and moves(4, 7.6, 0.04)  # the mean of the 5 % that move most
    assert not moves(4, 6.01, rate=4.0) and moves(4, 12.01, rate=4.0)
    assert moves(2, 6.01, rate=16.0) and not moves(1, 6.01, rate=16.0)  # every second frame: 8, two steps are needed
    with pytest.raises(ValueError, match="flow returned the shape"):
        vbench.dynamic(clips, lambda a, b: np.zeros(3), 8.0)


@pytest.mark.parametrize("height, width", [(64, 128), (128, 64)])
def test_the_bound_of_a_film_counts_in_its_shorter_side(height, width):
    """6 pixels of 256 are 1.5 of 64, whichever side is the shorter one."""
    clips = np.zeros((1, 16, height, width, 3), np.uint8)
    flow = lambda length: lambda first, second: np.full((len(first), height, width, 2), length / np.sqrt(2))
    assert vbench.dynamic(clips, flow(1.51), 8.0)[0] and not vbench.dynamic(clips, flow(1.49), 8.0)[0]


def test_texts_are_compared_by_the_mean_cosine():
    features = np.array([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, 0.0], [-3.0, 0.0]]])
    texts = np.array([[2.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(vbench.text_consistency(features, texts), [0.5, -1.0])
    with pytest.raises(ValueError, match="texts have the shape"):
        vbench.text_consistency(features, texts[:1])
    with pytest.raises(ValueError, match="row of zeros"):
        vbench.consistency(0 * features)


def box(label, left, top, right, bottom):
    return Detection(label, 0.9, (left, top, right, bottom))


def test_objects_colours_scenes_and_actions_are_shares():
    frames = [[box("cat", 0, 0, 1, 1)], [box("cat", 0, 0, 1, 1), box("dog", 0, 0, 1, 1)], []]
    assert vbench.objects(frames, ["cat"]) == pytest.approx(2 / 3)
    assert vbench.objects(frames, ["cat", "dog"]) == pytest.approx(1 / 3)
    said = [[("car", "a red car")], [("car", "a blue car"), ("bus", "a red bus")], [("car", "a car")], []]
    assert vbench.colour(said, "car", "red") == 0.5
    assert vbench.colour(said, "tree", "red") is None
    assert vbench.scene(["a train station at night", "a train", "station"], "train station") == pytest.approx(1 / 3)
    likely = {name: 0.9 - 0.01 * i for i, name in enumerate("abcdefg")}
    assert vbench.action(likely, "e") and not vbench.action(likely, "f")
    assert not vbench.action({"a": 0.84, "b": 0.1}, "a")
    # The authors' code rounds to four digits first.
    assert vbench.action({"a": 0.84996}, "a") and not vbench.action({"a": 0.84994}, "a")


def test_a_relation_is_of_centres_and_overlap():
    left, right, above = box("cat", 0, 0, 10, 10), box("dog", 20, 2, 30, 12), box("dog", 0, -40, 10, -30)
    place = "on the left of"
    assert vbench.relation([[left, right]], "cat", "dog", place) == 1
    assert vbench.relation([[left, right], [left, above], [left]], "cat", "dog", place) == pytest.approx(1 / 3)
    assert vbench.relation([[left, above]], "cat", "dog", "on the top of") == 1
    overlapping = box("dog", 5, 0, 15, 10)  # 50 of 150 in common
    assert vbench.relation([[left, overlapping]], "cat", "dog", place) == pytest.approx(0.1 / (1 / 3))
    with pytest.raises(ValueError, match="near"):
        vbench.relation([[left]], "cat", "dog", "near")


def test_the_total_weighs_quality_four_times():
    ends = lambda part: {name: getattr(each, part) for name, each in vbench.DIMENSIONS.items()}
    assert vbench.total(ends("most")) == pytest.approx({"quality": 1, "semantic": 1, "total": 1})
    assert vbench.total(ends("least")) == pytest.approx({"quality": 0, "semantic": 0, "total": 0})
    assert vbench.total({**ends("least"), "dynamic degree": 1.0})["total"] == pytest.approx(0.8 * 0.5 / 6.5)
    assert vbench.total({**ends("least"), "scene": 0.8222})["semantic"] == pytest.approx(1 / 9)
    with pytest.raises(ValueError, match="missing: scene; unknown: none"):
        vbench.total({name: value for name, value in ends("most").items() if name != "scene"})
