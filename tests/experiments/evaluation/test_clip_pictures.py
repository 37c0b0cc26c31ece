"""Clips as an animation and as rows of frames."""

import numpy as np
from PIL import Image, ImageSequence

from diffusion.experiments.evaluation import clip_pictures


def test_each_clip_moves_in_its_place_and_classes_take_turns(tmp_path):
    """A frame of the animation has the pixels of that frame of each clip, 64 / side times as large."""
    rng = np.random.default_rng(0)
    clips = np.repeat(rng.integers(0, 2, (3, 4, 16, 16, 1), np.uint8) * 255, 3, axis=-1)
    written = clip_pictures.draw(clips, np.array([1, 1, 0]), tmp_path)
    assert [path.name for path in written] == ["samples.gif", "samples.png"]
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(written[0]))]
    assert len(frames) == 4 and frames[0].shape == (68, 3 * 68, 3)
    for number, frame in enumerate(frames):
        for place, clip in enumerate([2, 0, 1]):  # the first of each class, then the second of class 1
            inside = frame[2:66, 68 * place + 2 : 68 * place + 66][::4, ::4]
            np.testing.assert_array_equal(inside, clips[clip, number])
    assert np.asarray(Image.open(written[1])).shape[0] > 3 * 64
    assert Image.open(written[0]).info["duration"] == 100  # milliseconds
    assert Image.open(clip_pictures.draw(clips, np.zeros(3, int), tmp_path, rate=25.0)[0]).info["duration"] == 40
