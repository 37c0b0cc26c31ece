"""Sets of clips: which frames of a film are taken, from which files, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from diffusion.io import clips
from diffusion.metrics import clip_sets
from diffusion.metrics.image_sets import ImageSetError


def numbered(films, frames):
    """Clips whose every pixel is 10 film + frame."""
    values = 10 * np.arange(films)[:, None] + np.arange(frames)
    return np.broadcast_to(values[..., None, None, None], (films, frames, 4, 6, 3)).astype(np.uint8)


def test_a_clip_is_a_row_of_frames_that_follow_at_the_asked_distance(tmp_path):
    np.savez(tmp_path / "a.npz", numbered(8, 9))
    seen = set()
    for seed in range(6):
        found = clip_sets.open_set(str(tmp_path / "a.npz"), 3, 2, seed=seed)
        taken = found.read(0, 8)[..., 0, 0, 0].astype(int) - 10 * np.arange(8)[:, None]
        assert found.shape == (3, 4, 6, 3) and (np.diff(taken) == 2).all() and taken.max() <= 8
        np.testing.assert_array_equal(found.read(5, 7)[..., 0, 0, 0], found.read(0, 8)[5:7, ..., 0, 0, 0])
        seen |= set(taken[:, 0])
    assert seen == {0, 1, 2, 3, 4}
    whole = clip_sets.open_set(str(tmp_path / "a.npz"), 9)
    np.testing.assert_array_equal(whole.read(0, 8), numbered(8, 9))
    assert whole.fingerprint != found.fingerprint


def test_films_and_folders_of_pictures_are_clips(tmp_path):
    film = numbered(2, 4)
    clips.write_gif(tmp_path / "a.gif", film[0], 8)
    (tmp_path / "b").mkdir()
    for i, frame in enumerate(film[1]):
        Image.fromarray(frame).save(tmp_path / "b" / f"{i}.png")
    found = clip_sets.open_set(str(tmp_path), 4)
    np.testing.assert_array_equal(found.read(0, 2), film)
    square = clip_sets.open_set(str(tmp_path), 4, side=2)
    assert square.shape == (4, 2, 2, 3) and square.fingerprint != found.fingerprint
    clips.write_gif(tmp_path / "c.gif", film[0, :, :3], 8)
    other = clip_sets.open_set(str(tmp_path), 4)
    with pytest.raises(
        ImageSetError, match=r"c\.gif has frames of 3 x 6 pixels, but the frames of the first film have 4 x 6"
    ):
        other.read(0, 3)


def test_a_film_gives_the_same_clip_whichever_films_are_read_with_it(tmp_path):
    """Four films of nine frames: the frame at which a clip begins is drawn by the film's own number."""
    for name, film in zip("abcd", numbered(4, 9)):
        (tmp_path / name).mkdir()
        for i, frame in enumerate(film):
            Image.fromarray(frame).save(tmp_path / name / f"{i}.png")
    for seed in range(4):
        clips_of_seed = clip_sets.open_set(str(tmp_path), 2, seed=seed)
        together = clips_of_seed.read(0, 4)
        np.testing.assert_array_equal(np.concatenate([clips_of_seed.read(k, k + 1) for k in range(4)]), together)
        np.testing.assert_array_equal(together, clip_sets.from_array(numbered(4, 9), 2, seed=seed).read(0, 4))


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 7, 4, 4, 3), np.uint8), "has 7 frames, but a clip of 4 frames, one of every 3, spans 10"),
        (np.zeros((2, 10, 4, 4), np.uint8), r"shape \[2, 10, 4, 4\]. Valid: \[N, F, H, W, 3\]"),
        (np.zeros((2, 10, 4, 4, 2), np.uint8), r"shape \[2, 10, 4, 4, 2\]. Valid: \[N, F, H, W, 3\], or .* 1\]"),
        (np.zeros((0, 10, 4, 4, 3), np.uint8), r"shape \[0, 10, 4, 4, 3\]"),
        (np.zeros((2, 10, 4, 4, 0), np.uint8), r"shape \[2, 10, 4, 4, 0\]"),
        (np.zeros((2, 10, 4, 4, 3), np.int32), "clips are int32"),
    ],
)
def test_clips_that_do_not_fit_are_refused(array, match):
    with pytest.raises(ImageSetError, match=match):
        clip_sets.from_array(array, 4, 3)


def test_clips_in_grey_are_a_set():
    assert clip_sets.from_array(np.zeros((2, 10, 4, 4, 1), np.uint8), 4, 3).count == 2


def test_what_is_no_set_of_clips_is_refused(tmp_path):
    with pytest.raises(ImageSetError, match=r"holds neither films \("):
        clip_sets.open_set(str(tmp_path), 4)
    with pytest.raises(ImageSetError, match="cifar10@train is not a set of clips"):
        clip_sets.open_set("cifar10@train", 4)
    (tmp_path / "cut.gif").write_bytes(b"GIF89a")
    with pytest.raises(ImageSetError, match=r"cut\.gif"):
        clip_sets.open_set(str(tmp_path), 4)
