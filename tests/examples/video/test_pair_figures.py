"""Clips of one or two shapes: real ones have the figures that they should have, and spoilt ones have not."""

import numpy as np
import pytest

from diffusion.data.shapes import motions
from examples.video import clip_templates, pair_figures, pairs_report


@pytest.fixture(scope="module")
def real():
    clips, truth = pairs_report.real_clips("test", 8)
    rows = [2, 3, 5, 7]  # two with one shape, two with two; shapes that move, turn and hide
    return clips[rows], [truth[row] for row in rows]


@pytest.fixture(autouse=True)
def few_templates(monkeypatch):
    monkeypatch.setattr(clip_templates, "RADII", (7.4, 8.4))  # those of real clips alone, in a third of the time


def squares(number, places):
    """Red squares of 6 pixels in frames of 48, with their upper left corners at places [F, 2] of whole pixels."""
    clips = np.full((number, len(places), 48, 48, 3), 255, np.uint8)
    for frame, (x, y) in enumerate(places):
        clips[:, frame, y : y + 6, x : x + 6] = (214, 40, 40)
    return clips


def test_each_of_two_shapes_has_its_half(real):
    clips, truth = real
    shown = pair_figures.objects(clips, truth)
    assert len(shown.movers) == sum(len(clip.movers) for clip in truth) > len(truth)
    for i, clip in enumerate(truth):
        rows = np.flatnonzero(shown.clip == i)
        assert [shown.movers[row] for row in rows] == list(clip.movers)
        np.testing.assert_array_equal(shown.visible[rows].T, clip.visible)
        if len(rows) == 1:
            np.testing.assert_array_equal(shown.clips[rows[0]], clips[i])
        else:
            upper, lower = shown.clips[rows]
            np.testing.assert_array_equal(np.concatenate([upper[:, :24], lower[:, 24:]], axis=1), clips[i])
            assert (upper[:, 24:] == 255).all() and (lower[:, :24] == 255).all()


@pytest.mark.extended
def test_real_clips_are_as_asked(real):
    clips, truth = real
    figures = pair_figures.measured(clips, truth)
    shares = {name: value["share"] for name, value in figures.items() if isinstance(value, dict)}
    assert shares.pop("whole") > 0.98  # a frame or two of a hundred have less
    assert shares == dict.fromkeys(shares, 1.0) and {"shape", "shape of two", "constant", "direction"} <= shares.keys()
    assert figures["speed"] < 0.01 and figures["flicker"] < 0.01
    frames = sum(int((clip.visible >= 0.9).sum()) for clip in truth)
    assert figures["shape"]["count"] == frames
    some = pair_figures.measured(clips[:2], truth[:2], known=8)
    assert some["shape"]["count"] == sum(int((clip.visible[8:] >= 0.9).sum()) for clip in truth[:2])
    last = pair_figures.measured(clips[:2], truth[:2], last=4)
    assert last["shape"]["count"] == sum(int((clip.visible[-4:] >= 0.9).sum()) for clip in truth[:2])
    assert "direction" not in last


@pytest.mark.extended
def test_clips_of_other_captions_are_not(real):
    clips, truth = real
    gone = clips.copy()
    gone[:, 8:] = 255
    figures = pair_figures.measured(gone, truth)
    there = sum(int((clip.visible[:8] >= 0.9).sum()) for clip in truth)
    for name in ("shape", "colour", "one"):
        assert figures[name]["share"] == pytest.approx(there / figures[name]["count"])
    assert figures["constant"]["share"] == 0  # each shape is whole again, or still, in some later frame
    single = [i for i, clip in enumerate(truth) if len(clip.movers) == 1]
    shapes = [truth[i].movers[0].shape for i in single]
    other = next((i, j) for i in single for j in single if shapes[single.index(i)] != shapes[single.index(j)])
    swapped = pair_figures.measured(clips[[other[1]]], [truth[other[0]]])
    assert swapped["shape"]["share"] < 0.1 and swapped["whole"]["share"] < 0.1


@pytest.mark.extended
def test_turned_back_clips_have_another_direction(real):
    clips, truth = real
    straight = [i for i, clip in enumerate(truth) if {m.motion for m in clip.movers} <= {"moves", "hides"}]
    figures = pair_figures.measured(clips[straight][:, ::-1], [truth[i] for i in straight])
    assert straight and figures["direction"]["share"] == 0


def test_the_error_of_a_speed_is_that_of_the_steps():
    mover = motions.Mover("red", "square", "bounces", "", "", 8.0, np.zeros((16, 2)), np.zeros(16), None)
    truth = [motions.Clip("a red square bounces", (mover,), np.zeros(0), np.ones((16, 1)))] * 3
    slow, quick = (squares(3, [(2 + step * frame, 20) for frame in range(16)]) for step in (1, 2))
    assert pair_figures.speed_error(slow, slow, truth) == pytest.approx(0, abs=1e-9)
    assert pair_figures.speed_error(quick, slow, truth) == pytest.approx(1)
    assert pair_figures.speed_error(slow, quick, truth) == pytest.approx(0.5)
    assert pair_figures.speed_error(np.full_like(slow, 255), slow, truth) == 1
    still = [truth[0]._replace(movers=(mover._replace(motion="moves"),))] * 3
    assert np.isnan(pair_figures.speed_error(slow, slow, still))


def test_a_direction_is_that_of_a_path_that_hardly_goes_aside(monkeypatch):
    """To the right by 4 and down by 1, 2 or 4 pixels a frame; 12 to 18 of 64 from first to last are slow."""
    best = clip_templates.Templates(np.ones((3, 4, 8)), np.zeros((3, 4), int), np.zeros((3, 4), int))
    monkeypatch.setattr(clip_templates, "measured", lambda clips, tracks: best)
    clips = np.concatenate([squares(1, [(2 + 4 * f, 10 + down * f) for f in range(4)]) for down in (1, 2, 4)])
    mover = motions.Mover("red", "circle", "moves", "right", "slowly", 8.0, np.zeros((4, 2)), np.zeros(4), None)
    clip = motions.Clip("a red circle moves to the right slowly", (mover,), np.zeros(0), np.ones((4, 1)))
    figures = pair_figures.measured(clips, [clip] * 3)
    assert figures["direction"]["share"] == pytest.approx(1 / 3)  # more than twice as far along as aside
    low, high = (pixels * 48 / 64 / 3 for pixels in (12, 18))
    off = [max(0.0, np.hypot(4, down) - high) / ((low + high) / 2) for down in (1, 2, 4)]
    assert figures["speed"] == pytest.approx(np.mean(off), rel=1e-3) and np.mean(off) > 0


def test_two_shapes_of_a_clip_are_no_independent_ones(monkeypatch):
    """Three shapes in two clips of four frames, and one that is never seen in full."""
    best = clip_templates.Templates(np.ones((4, 4, 8)), np.zeros((4, 4), int), np.zeros((4, 4), int))
    monkeypatch.setattr(clip_templates, "measured", lambda clips, tracks: best)
    upper, lower = (squares(1, [(2 + f, y) for f in range(4)]) for y in (8, 34))
    mover = motions.Mover("red", "circle", "bounces", "", "", 8.0, np.zeros((4, 2)), np.zeros(4), None)
    clip = lambda number: motions.Clip("", (mover,) * number, np.zeros(0), np.ones((4, number)))
    hidden = clip(1)._replace(visible=np.zeros((4, 1)))  # never in full, so that nothing of it changes
    clips = np.concatenate([np.minimum(upper, lower), lower, upper])
    figures = pair_figures.measured(clips, [clip(2), clip(1), hidden])
    assert figures["one"]["share"] == 1 and (figures["one"]["prompts"], figures["one"]["count"]) == (2, 12)
    assert (figures["constant"]["share"], figures["constant"]["count"]) == (1, 3)
    assert figures["shape of two"]["prompts"] == 1


def test_the_distance_of_tracks_is_the_square_of_a_shift():
    """Sets that differ by d pixels along x in every frame: F (d / 12)^2, since 12 pixels are a quarter of the side."""
    sets = []
    for shift in (0, 3):
        rng = np.random.default_rng(0)
        rows = [squares(1, rng.integers(2, 36, (16, 2)) + [shift, 0])[0] for _ in range(20)]
        sets.append(pair_figures.Objects(np.stack(rows), [], np.arange(20), np.ones((20, 16))))
    here, there = sets
    figures = pair_figures.frechet_distances(there, here, here)
    assert figures["shapes"] == 20 and figures["floor"] == pytest.approx(0, abs=1e-3)
    assert figures["distance"] == pytest.approx(16 * (3 / 12) ** 2, abs=1e-2)


def test_areas_count_in_squares_of_a_sixth_of_the_side():
    """Squares of 6 and of 8 pixels about one middle: 36 / 64 and 64 / 64 in each of 4 frames."""
    rng = np.random.default_rng(0)
    places = rng.integers(4, 34, (6, 4, 2))
    small = np.concatenate([squares(1, row) for row in places])
    large = np.concatenate([squares(1, row - 1) for row in places])
    for right, down in ((2, 0), (0, 2), (2, 2)):
        large = np.minimum(large, np.concatenate([squares(1, row - 1 + [right, down]) for row in places]))
    sets = [pair_figures.Objects(clips, [], np.arange(6), np.ones((6, 4))) for clips in (small, large)]
    figures = pair_figures.frechet_distances(sets[1], sets[0], sets[0])
    assert figures["distance"] == pytest.approx(4 * (28 / 64) ** 2, abs=1e-3)


def test_longer_clips_are_of_motions_without_an_end():
    clips, truth = pairs_report.real_clips("extension", 3)
    assert clips.shape == (3, 64, 48, 48, 3)
    assert {mover.motion for clip in truth for mover in clip.movers} <= {"bounces", "turns"}
    others = pairs_report.real_clips("test", 1, after=5)[1]
    assert others[0].caption == pairs_report.real_clips("test", 6)[1][5].caption
