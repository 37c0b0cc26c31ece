"""Clips of moving shapes: what is said of them is what their pixels do, and what is withheld is withheld."""

import collections
import math
import re

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.data.shapes import drawing, motions, scenes


@pytest.fixture(scope="module")
def clips():
    return [motions.example("train", number, 12) for number in range(60)]


def tinted(clip, mover):
    """The pixels of each frame in the mover's colour, in its half of the picture and not at the edge of a bar."""
    others = [tint for colour, tint in drawing.PALETTE.items() if colour != mover.colour]
    near = lambda tints: np.min([np.abs(clip.frames - np.array(tint)).sum(-1) for tint in tints], axis=0)
    found = near([drawing.PALETTE[mover.colour]]) < near([*others, *drawing.PAPERS, motions.BAR])
    if len(clip.movers) == 2:
        found[:, slice(32, 64) if mover is clip.movers[0] else slice(0, 32)] = False
    for edge in (mover.bar or ())[:2]:
        found[:, :, int(edge) - 1 : int(edge) + 2] = False
    return found


def test_a_line_that_would_leave_comes_back():
    places = 10 + 8 * np.array([-0.25, 0.25, 1.0, 1.25, 2.0, 2.25, 3.5])
    np.testing.assert_allclose(
        motions._reflected(places, 10, 18), 10 + 8 * np.array([0.25, 0.25, 1, 0.75, 0, 0.25, 0.5])
    )


def test_a_shape_is_turned_clockwise():
    """By 30 degrees, y down: what was at (1, 0) is at (cos, sin) then."""
    distance = motions._turned(lambda x, y, radius: 10 * x + y + radius, math.radians(30))
    x, y = np.array([2.0, 0.0, -3.0]), np.array([0.0, 4.0, 5.0])
    cos, sin = 3**0.5 / 2, 0.5
    np.testing.assert_allclose(distance(x, y, 7.0), 10 * (cos * x + sin * y) + (cos * y - sin * x) + 7)


def test_a_bar_covers_its_share_of_each_pixel():
    """From 10.25 to 20.5 along x and from 0 to 32 along y."""
    cover = motions._cover((10.25, 20.5, 0.0, 32.0))
    row = np.where((np.arange(64) > 10) & (np.arange(64) < 20), 1.0, 0.0)
    row[10], row[20] = 0.75, 0.5
    np.testing.assert_allclose(cover[5], row)
    assert (cover[31] == row).all() and not cover[32:].any()


def test_a_bar_is_as_wide_as_a_shape_and_its_step():
    """From 7 to 57 in ten steps of 5 pixels: 6 + 2.5 to both sides of the middle; the right half is from 32 to 64."""
    assert motions._bar(5.0, 11, None) == (23.5, 40.5, 0.0, 64.0)
    assert motions._bar(5.0, 11, 1) == (23.5, 40.5, 32.0, 64.0)


@pytest.mark.extended
def test_shapes_are_where_the_truth_says_in_every_frame(clips):
    """The centre of the pixels of a colour moves as the truth does, by one vector a frame where motion is straight."""
    kinds = collections.Counter()
    for clip in clips:
        for k, mover in enumerate(clip.movers):
            pixels = tinted(clip, mover)
            whole = np.flatnonzero(clip.visible[:, k] == 1)
            along = np.arange(64) + 0.5
            centres = np.array([(m.sum(0) @ along / m.sum(), m.sum(1) @ along / m.sum()) for m in pixels[whole]])
            shift = centres - mover.places[whole]
            if mover.motion != "turns":  # the middle of a moon or a heart is not its centre, but stays off it alike
                assert np.abs(shift - shift.mean(0)).max() < 0.8, clip.caption
            assert np.hypot(*shift.T).max() < 2.6, clip.caption
            if mover.motion == "moves":
                steps = np.diff(mover.places, axis=0)
                np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-9)
                sign = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[mover.direction]
                np.testing.assert_array_equal(np.sign(np.round(steps[0], 6)), sign)
            hidden = pixels[clip.visible[:, k] == 0]
            assert not hidden.any() and (len(hidden) > 0) == (mover.motion == "hides"), clip.caption
            kinds[mover.motion] += 1
    assert set(kinds) == set(motions.MOTIONS) and min(kinds.values()) >= 5


def test_what_bounces_keeps_its_speed_and_stays_inside(clips):
    """Between reflections each step is as long; at one, a coordinate turns round, at the border's distance."""
    bouncing = [clip.movers[0] for clip in clips if clip.movers[0].motion == "bounces"]
    assert len(bouncing) > 3
    for mover in bouncing:
        margin = motions.REACH * mover.radius + 1
        assert mover.places.min() >= margin - 1e-9 and mover.places.max() <= 64 - margin + 1e-9
        speeds = np.abs(np.diff(mover.places, axis=0))
        for axis in (0, 1):
            steps = np.diff(mover.places[:, axis])
            straight = np.isclose(speeds[:, axis], speeds[:, axis].max(), atol=1e-9)
            assert (~straight).sum() <= (np.diff(np.sign(steps)) != 0).sum() + 1  # a step with a reflection is shorter
        assert any((np.diff(np.sign(np.diff(mover.places[:, axis]))) != 0).any() for axis in (0, 1))


def test_a_shape_turns_by_the_angle_that_is_said_and_the_way_that_is_said(clips):
    """Its first frame, turned by Pillow, is its last one."""
    from PIL import Image

    seen = 0
    for clip in clips:
        mover = clip.movers[0]
        if mover.motion != "turns" or len(clip.movers) > 1:
            continue
        first, last = (Image.fromarray(tinted(clip, mover)[i].astype(np.uint8) * 255) for i in (0, -1))
        centre = tuple(mover.places[0])
        turned = first.rotate(-np.degrees(mover.turns[-1]), Image.Resampling.BILINEAR, center=centre)
        other = first.rotate(np.degrees(mover.turns[-1]) + 20, Image.Resampling.BILINEAR, center=centre)
        off = lambda picture, last=last: (np.abs(np.float64(picture) - np.float64(last)) > 128).sum()
        assert off(turned) < 0.25 * (np.asarray(last) > 0).sum(), clip.caption
        assert (mover.turns[-1] > 0) == (mover.direction == "clockwise")
        seen += off(other) > 2 * off(turned)
    assert seen >= 2


def test_no_shape_seems_to_turn_the_other_way():
    """At the fewest frames, no turn the other way that is as large or smaller looks like the next frame."""
    lots = [motions.draw(scenes.Lot(5, 0, number), motions.LEAST) for number in range(400)]
    turning = [mover for movers in lots for mover in movers if mover.motion == "turns" and mover.speed == "quickly"]
    assert {"star", "square", "cross"} <= {mover.shape for mover in turning}
    along = np.arange(64) + 0.5

    def inside(mover, angle):
        x, y = along - 32, along[:, None] - 32
        turned = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
        return np.clip(0.5 - drawing.DISTANCES[mover.shape](*turned, 20.0), 0, 1)

    for mover in turning[:40]:
        step = mover.turns[1] - mover.turns[0]
        assert (step > 0) == (mover.direction == "clockwise")
        seen = inside(mover, step)
        off = lambda angle, mover=mover, seen=seen: np.abs(inside(mover, angle) - seen).sum()
        assert min(map(off, np.linspace(-step, 0, 20))) > 0.3 * off(0.0), (mover.shape, step)


def test_what_hides_is_seen_before_and_after_and_not_at_all_in_a_frame_between():
    """At the fewest frames, between which a shape moves the farthest."""
    hiding = [mover for number in range(120) for mover in motions.draw(scenes.Lot(7, 0, number), motions.LEAST)
              if mover.motion == "hides"]  # fmt: skip
    assert len(hiding) > 20
    for mover in hiding:
        seen = motions._seen(mover)
        assert seen[0] == seen[-1] == 1 and seen.min() < 1e-9, mover.shape


def test_a_turn_is_as_fast_as_its_word_says_in_clips_of_enough_frames():
    """Of 32 frames no shape has to turn more slowly to be seen to turn the right way."""
    turning = [mover for number in range(200) for mover in motions.draw(scenes.Lot(6, 0, number), 32)
               if mover.motion == "turns"]  # fmt: skip
    assert {"star", "square", "cross", "diamond"} <= {mover.shape for mover in turning}
    for mover in turning:
        least, most = {"slowly": (0.15, 0.25), "quickly": (0.5, 0.9)}[mover.speed]
        assert least <= abs(mover.turns[-1]) / (2 * np.pi) <= most, (mover.shape, mover.speed)


def test_what_is_withheld_stands_in_no_clip_of_training_and_in_every_clip_of_its_split(clips):
    def pairs(mover):
        return (mover.colour, mover.shape) in scenes.WITHHELD, (mover.shape, mover.motion) in motions.WITHHELD

    lots = [motions.draw(scenes.Lot(3, 0, number), 8) for number in range(300)]
    assert not any(any(pairs(mover)) for movers in lots for mover in movers)
    lots = [motions.draw(scenes.Lot(3, 2, number), 8, of_withheld=True) for number in range(60)]
    assert all(any(pairs(movers[0])) and not any(map(any, map(pairs, movers[1:]))) for movers in lots)
    assert {pairs(movers[0]) for movers in lots} >= {(True, False), (False, True)}


def test_captions_say_what_is_drawn(clips):
    for clip in clips[:20]:
        for mover in clip.movers:
            assert (
                f"{mover.colour} {mover.shape} {'passes' if mover.motion == 'hides' else mover.motion}" in clip.caption
            )
            assert mover.direction in clip.caption and mover.speed in clip.caption
    assert clips[0].frames.shape == (12, 64, 64, 3) and clips[0].frames.dtype == np.uint8
    again = motions.example("train", 0, 12)
    np.testing.assert_array_equal(again.frames, clips[0].frames)
    assert (motions.example("test", 0, 12).frames != clips[0].frames).any()


def test_the_source_gives_small_clips_and_refuses_what_it_has_not():
    source = sources.moving_drawings("withheld", frames=8, side=16, number=3)
    record = source[1]
    clip = motions.example("withheld", 1, 8)
    assert record["image"].shape == (8, 16, 16, 3) and record["image"].dtype == np.uint8
    np.testing.assert_allclose(record["image"][5, 1, 3], clip.frames[5, 4:8, 12:16].mean((0, 1)), atol=0.5)
    assert record["caption"] == clip.caption
    assert tuple(motions.MOTIONS)[record["label"]] == clip.movers[0].motion
    for options, message in [
        ({"split": "validation"}, "no split 'validation'. Valid: train, test, withheld"),
        ({"side": 65}, "side = 65. Valid: 1 to 64"),
        ({"number": 0}, "number = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            sources.moving_drawings(**options)
    with pytest.raises(ValueError, match=r"frames = 7\. Valid: at least 8"):
        motions.example("train", 0, 7)


def test_clips_of_one_shape_begin_at_any_angle_and_longer_ones_go_on():
    setting = motions.Setting(two=0.0, radii=(7.6, 8.2), tilted=True)
    made = {}
    for number in range(60):
        clip = motions.example("train", number, 8, setting=setting)
        assert len(clip.movers) == 1 and 7.6 <= clip.movers[0].radius <= 8.2
        made.setdefault(clip.movers[0].motion, []).append((number, clip))
    assert set(made) == set(motions.MOTIONS)
    assert len({round(clip.movers[0].turns[0], 3) for _, clip in made["turns"]}) == len(made["turns"])
    for motion, examples in made.items():
        number, clip = examples[0]
        longer = motions.example("train", number, 32, setting=setting._replace(span=8))
        assert longer.caption == clip.caption
        mover = longer.movers[0]
        np.testing.assert_allclose(mover.places[:8], clip.movers[0].places, atol=1e-9)
        np.testing.assert_array_equal(longer.frames[:8], clip.frames)
        if motion == "turns":
            steps = np.diff(mover.turns)
            np.testing.assert_allclose(steps, steps[0])
        else:
            assert not mover.turns.any()  # upright
        if motion in ("moves", "hides"):
            np.testing.assert_array_equal(mover.places[8:], np.broadcast_to(mover.places[7], (24, 2)))
        if motion == "bounces":  # 3 of 4 parts of the way are still to come
            assert np.abs(np.diff(mover.places[8:], axis=0)).sum() > np.abs(np.diff(mover.places[:8], axis=0)).sum()


def test_words_and_what_they_say():
    caption = "a red star turns clockwise slowly"
    found = motions.words(caption)
    assert found.dtype == np.float32 and found.sum() == 5 and found.shape == (len(motions.WORDS),)
    assert {word for word, there in zip(motions.WORDS, found) if there} == set(caption.split()) - {"a"}
    stated = {"colour": "red", "shape": "star", "motion": "turns", "direction": "clockwise", "speed": "slowly"}
    assert motions.said(caption) == stated
    assert motions.said("a moon passes left behind a bar") == {"shape": "moon", "motion": "hides", "direction": "left"}
    with pytest.raises(ValueError, match=r"the word 'jumps' is not known\. Valid: red, "):
        motions.words("a red star jumps")
    with pytest.raises(ValueError, match="two values of its colour: red, blue"):
        motions.said("a red blue star")


def test_the_source_of_one_shape_has_words_for_its_condition():
    source = sources.moving_drawings("train", frames=8, side=32, number=3, radii=(7.6, 8.2), alone=True)
    record = source[2]
    np.testing.assert_array_equal(record["condition"]["vector"], motions.words(record["caption"]))
    assert "label" not in record and source.spec.num_classes == 0
    np.testing.assert_array_equal(source.conditions([0, 2])[1]["vector"], record["condition"]["vector"])
    for row, split in ((0, "train"), (7, "withheld")):  # two shapes, and one
        assert motions.caption(split, row) == motions.example(split, row).caption
    longer = sources.moving_drawings(frames=10, side=32, number=3, radii=(7.6, 8.2), alone=True, span=8)
    np.testing.assert_array_equal(longer[2]["image"][:8], record["image"])
    assert (longer[2]["condition"]["vector"] == record["condition"]["vector"]).all()
    with pytest.raises(ValueError, match=r"span = 9\. Valid: 0, or 8 to 8, the number of frames"):
        sources.moving_drawings(frames=8, span=9)
    for radii in ((4, 9), (4, 4)):
        assert len(sources.moving_drawings(frames=8, side=32, number=1, radii=radii, alone=True)) == 1
    for radii in ((2, 3), (4,), (4, 5, 6)):
        with pytest.raises(ValueError, match=rf"radii = {re.escape(str(radii))}\. Valid: two numbers from 4 to 9"):
            sources.moving_drawings(radii=radii)


def test_smaller_frames_hold_the_mean_of_what_they_cover():
    """Of 64 pixels 4 make 3: the first is 3/4 of its sum of pixel 0 and 1/4 of pixel 1, in both directions."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    share = np.zeros((48, 64))
    for new in range(48):
        for old in range(64):
            share[new, old] = max(0.0, min(4 * (new + 1), 3 * (old + 1)) - max(4 * new, 3 * old)) / 4
    expected = np.round(np.einsum("ih,jw,fhwc->fijc", share, share, frames.astype(float)))
    assert np.abs(motions.shrunk(frames, 48) - expected).max() <= 1  # a tie may be rounded to either side
    assert (motions.shrunk(frames, 48) == expected).mean() > 0.999
    for side in (0, 65):
        with pytest.raises(ValueError, match=f"side = {side}. Valid: 1 to 64"):
            motions.shrunk(frames, side)


def test_the_words_of_both_shapes_keep_their_order():
    first, second = "a red star turns clockwise slowly", "a blue circle passes left behind a bar"
    both = motions.words_of_both(f"{first} and {second}")
    np.testing.assert_array_equal(both, [*motions.words(first), *motions.words(second)])
    np.testing.assert_array_equal(motions.words_of_both(first), [*motions.words(first), *np.zeros(len(motions.WORDS))])
    assert not motions.words_of_both("").any()
    np.testing.assert_array_equal(motions.words_of_both(f"{first.title()} And {second.title()}."), both)
    with pytest.raises(ValueError, match="has 3 shapes"):
        motions.words_of_both(f"{first} and {second} and {first}")
