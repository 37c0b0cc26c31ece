"""Frames measured without a network: real ones hold, and spoilt, exchanged and empty ones do not."""

import numpy as np
import pytest

from diffusion.data.shapes import motions, scenes
from diffusion.data.shapes.scenes import SHAPES
from examples.video import clip_judge, clip_templates, moving_objects, spoilt_clips


@pytest.fixture(scope="module")
def real():
    clips, truth = clip_judge.real("test", [0, 1, 5, 9, 12, 14, 16, 20, 28, 30, 33, 35, 37, 39])  # of all eight shapes
    return clips, truth, clip_templates.measured(clips, moving_objects.tracks(clips))


@pytest.mark.extended
def test_the_shape_and_the_colour_of_real_frames_are_the_best_ones(real):
    """100 frames, of which none has another best shape; the least overlap is that of a star, whose tips are thin."""
    clips, truth, best = real
    whole = clip_judge.fully_visible(truth)
    shape = np.array([SHAPES.index(clip.movers[0].shape) for clip in truth])
    colour = np.array([scenes.COLOURS.index(clip.movers[0].colour) for clip in truth])
    asked = np.repeat(shape[:, None], clips.shape[1], 1)
    assert set(shape) == set(range(8)) and whole.sum() == 100
    assert (best.shape[whole] == asked[whole]).all() and (best.colour == colour[:, None])[whole].all()
    overlap = np.take_along_axis(best.overlap, asked[..., None], -1)[..., 0][whole]
    assert overlap.min() > 0.82 and (overlap > clip_templates.WHOLE).mean() > 0.97


@pytest.mark.extended
def test_where_nothing_is_seen_there_is_no_shape():
    paper = np.full((1, 8, 32, 32, 3), 245, np.uint8)
    best = clip_templates.measured(paper, moving_objects.tracks(paper))
    assert (best.shape == -1).all() and (best.colour == -1).all() and (best.overlap == 0).all()


@pytest.mark.extended
def test_half_a_shape_is_not_whole(real):
    clips, truth, _ = real
    cut = clips.copy()
    for i, clip in enumerate(truth):
        for frame, (x, _) in enumerate(clip.movers[0].places / 2):
            cut[i, frame, :, round(x) :] = clips[i, frame, 0, 0]
    whole = clip_judge.fully_visible(truth)
    best = clip_templates.measured(cut, moving_objects.tracks(cut))
    assert (best.overlap.max(-1)[whole] > clip_templates.WHOLE).mean() < 0.2  # half a diamond is a triangle
    shape = np.array([SHAPES.index(clip.movers[0].shape) for clip in truth])
    of_asked = np.take_along_axis(best.overlap, np.repeat(shape[:, None, None], 8, 1), -1)[..., 0]
    assert of_asked[whole].max() < clip_templates.WHOLE


@pytest.mark.extended
def test_frames_of_other_sides_are_measured_alike():
    """The same clip at 64, 32 and 16 pixels a side."""
    clip = motions.example("test", 3, 8, setting=clip_judge.SETTING)
    overlaps = []
    for side in (64, 32, 16):
        frames = motions.shrunk(clip.frames, side)[None]
        best = clip_templates.measured(frames, moving_objects.tracks(frames))
        overlaps.append(best.overlap[0, clip.visible[:, 0] > 0.99, SHAPES.index(clip.movers[0].shape)].mean())
    assert min(overlaps[:2]) > 0.93 and 0.8 < overlaps[2] < overlaps[1]


@pytest.mark.slow
def test_spoilt_clips_are_the_same_each_time_and_show_none_of_the_shapes():
    setting = clip_judge.SETTING._replace(span=clip_judge.FRAMES)
    clips, movers = clip_judge.spoilt(24)
    again, mover = spoilt_clips.example(5, clip_judge.SEED, clip_judge.FRAMES, setting)
    assert (motions.shrunk(again, 32) == clips[5]).all() and mover.colour == movers[5].colour
    assert {mover.motion for mover in movers} <= {"moves", "bounces", "turns"}
    found = moving_objects.tracks(clips)
    best = clip_templates.measured(clips, found)
    colour = np.array([scenes.COLOURS.index(mover.colour) for mover in movers])
    assert (best.colour == colour[:, None]).mean() > 0.9
    assert (best.overlap.max(-1) > clip_templates.WHOLE).mean() < 0.5  # blurs and some means keep an outline


@pytest.mark.slow
def test_the_reader_of_frames_refuses_what_is_spoilt(tmp_path):
    """A judge that learned for half a minute, on clips of other seeds."""
    judge = clip_judge.judge(tmp_path, 240, (400, 2))
    clips, truth = clip_judge.real("test", range(100))
    shape = clip_judge.frames_read(judge, clips, moving_objects.tracks(clips))["shape"]
    none = clip_judge.NONE_OF_THESE["shape"]
    assert (shape == none)[clip_judge.fully_visible(truth)].mean() < 0.05
    setting = clip_judge.SETTING._replace(span=clip_judge.FRAMES)
    others = [spoilt_clips.example(i, 99, clip_judge.FRAMES, setting)[0] for i in range(60)]
    spoilt = np.stack([motions.shrunk(frames, clip_judge.SIDE) for frames in others])
    shape = clip_judge.frames_read(judge, spoilt, moving_objects.tracks(spoilt))["shape"]
    assert (shape == none).mean() > 0.15  # after 400 of 1,000 steps, on a twelfth of the clips
