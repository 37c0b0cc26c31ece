"""GIF files: whole ones pass, and every cut is seen, wherever it is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion.io import clips, gif_blocks


@pytest.fixture(scope="module")
def animation(tmp_path_factory):
    path = tmp_path_factory.mktemp("gif") / "a.gif"
    clips.write_gif(path, np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8), 8)
    return path.read_bytes()


def test_small_shapes_keep_their_colours_on_a_large_paper(tmp_path):
    """A palette by count of pixels gives all of it to the grain of the paper: these shapes were off by 116."""
    rng = np.random.default_rng(0)
    frame = (np.uint8([248, 245, 238]) - rng.integers(0, 12, (400, 400, 3))).astype(np.uint8)
    for number, colour in enumerate([(214, 40, 40), (40, 90, 214), (126, 58, 160), (245, 197, 24), (33, 160, 80)]):
        grain = rng.integers(0, 6, (12, 12, 3))
        frame[10:22, 20 + 40 * number : 32 + 40 * number] = (np.array(colour) + grain).astype(np.uint8)
    clips.write_gif(tmp_path / "a.gif", np.stack([frame, frame[::-1]]), 8)
    with Image.open(tmp_path / "a.gif") as film:
        made = [np.asarray(part.convert("RGB")).astype(int) for part in ImageSequence.Iterator(film)]
    assert np.abs(made[0] - frame).max() <= 8 and np.abs(made[1] - frame[::-1]).max() <= 8
    few = np.uint8(rng.integers(0, 256, (256, 3)))[rng.integers(0, 256, (1, 40, 50))]
    clips.write_gif(tmp_path / "b.gif", few, 8)
    with Image.open(tmp_path / "b.gif") as film:
        np.testing.assert_array_equal(np.asarray(film.convert("RGB")), few[0])  # 256 colours are exact


@pytest.mark.extended
def test_every_cut_of_an_animation_is_an_error(animation):
    assert len(clips.properties(animation, "a.gif").times) == 24
    for size in range(1, len(animation), 7):
        with pytest.raises(ValueError, match=r"a\.gif is (not a GIF|truncated|not a film)|a\.gif needs PyAV"):
            clips.properties(animation[:size], "a.gif")


def test_half_an_animation_says_how_many_frames_are_whole(animation, tmp_path):
    (tmp_path / "a.gif").write_bytes(animation[: len(animation) // 2])
    with pytest.raises(ValueError, match=r"a\.gif is truncated: it has 11 complete frames"):
        clips.properties(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif is truncated: it"):
        clips.read(tmp_path / "a.gif", np.arange(4))


def test_files_of_another_writer_are_whole():
    """Pillow's own, with a table of colours for the file, one for each frame, comments, and bytes after the end."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(3)]
    for options in ({}, {"comment": b"x" * 600, "loop": 0, "duration": 30}, {"disposal": 2, "transparency": 0}):
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], **options)
        file.write(b"\0\0")
        blocks = gif_blocks.read(file.getvalue(), "x")
        assert (blocks.height, blocks.width, blocks.pixels[0], len(blocks.shown)) == (8, 8, 64, 3)
        assert blocks.shown[1] == options.get("duration", 100) / 1000
    file = io.BytesIO()
    Image.new("P", (300, 270)).save(file, "GIF")
    assert gif_blocks.read(file.getvalue(), "x").pixels == (300 * 270,)
    with pytest.raises(ValueError, match="block of kind 0"):
        gif_blocks.read(b"GIF89a" + bytes(20), "x")


def blocks(*frames, end=b";"):
    """An animation of 4 x 3 pixels without colours: each frame is (time in 1/100 s or None, width, height)."""
    content = b"GIF89a" + bytes([4, 0, 3, 0, 0, 0, 0])
    for time, width, height in frames:
        content += b"" if time is None else b"!\xf9\4\0" + bytes([time, 0]) + b"\0\0"
        content += b",\0\0\0\0" + bytes([width, 0, height, 0, 0]) + b"\2\1x\0"
    return content + end


def test_frames_have_their_times_and_add_their_pixels():
    """A frame without a time, or of the time 0, is shown for a tenth of a second."""
    read = gif_blocks.read(blocks((7, 4, 3), (None, 2, 1), (0, 1, 1)), "a.gif")
    assert (read.height, read.width, read.shown, read.pixels) == (3, 4, (0.07, 0.1, 0.1), (12, 14, 15))


def test_a_head_alone_is_truncated_and_less_is_no_animation():
    with pytest.raises(ValueError, match=r"a\.gif is truncated: it has 0 complete frames, and its end is missing"):
        gif_blocks.read(blocks(end=b""), "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif is not a GIF animation, or is truncated"):
        gif_blocks.read(blocks(end=b"")[:12], "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif holds no frames"):
        gif_blocks.read(blocks(), "a.gif")
    with pytest.raises(ValueError, match="after 1 frames it has a block of kind 7"):
        gif_blocks.read(blocks((1, 1, 1), end=b"\7"), "a.gif")


def test_an_animation_has_at_most_100_000_frames(monkeypatch):
    assert gif_blocks.FRAMES == 100_000
    monkeypatch.setattr(gif_blocks, "FRAMES", 2)
    assert len(gif_blocks.read(blocks(*[(1, 1, 1)] * 2), "a.gif").shown) == 2
    with pytest.raises(ValueError, match=r"a\.gif holds more than 2 frames"):
        gif_blocks.read(blocks(*[(1, 1, 1)] * 3), "a.gif")
