"""Clips of films and of folders of pictures: the right frames, captions, and what cannot be used."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffusion.data import sources
from diffusion.data.sources import clip_files
from diffusion.io import clips, limits


def film(frames, height=16, width=16):
    """Frames of one grey each, 10 times their number."""
    return np.broadcast_to(np.uint8(10 * np.arange(frames))[:, None, None, None], (frames, height, width, 3)).copy()


def greys(record):
    return record["image"].mean((1, 2, 3))


def write_folder(folder, frames, height=16, width=16):
    folder.mkdir(parents=True)
    for number, frame in enumerate(film(frames, height, width)):
        Image.fromarray(frame).save(folder / f"frame_{number + 1}.png")


def test_films_and_folders_are_thinned_cut_and_captioned(tmp_path):
    clips.write_gif(tmp_path / "a.gif", film(9), 10)
    write_folder(tmp_path / "b", 12, 16, 24)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"clip {name}\n")
    source = sources.clip_folder(str(tmp_path), frames=4, side=8, rate=10)
    assert len(source) == 2 + 3 and source.spec.shape == (4, 8, 8, 3) and source.spec.dtype == "uint8"
    np.testing.assert_allclose(greys(source[1]), [40, 50, 60, 70], atol=1)
    np.testing.assert_allclose(greys(source[2]), [0, 10, 20, 30])  # b: frame_10 comes after frame_9
    np.testing.assert_allclose(greys(source[4]), [80, 90, 100, 110])
    assert source.captions() == ["clip a"] * 2 + ["clip b"] * 3
    slower = sources.clip_folder(str(tmp_path), frames=4, side=8, rate=4, stored_rate=8)
    assert (source.rate, slower.rate) == (10, 4)
    np.testing.assert_allclose(greys(slower[0]), [0, 20, 50, 70], atol=1)  # at 0, 1/4, 1/2 and 3/4 seconds of 10
    np.testing.assert_allclose(greys(slower[1]), [0, 20, 40, 60])  # of 8


def test_the_middle_square_is_taken(tmp_path):
    frames = film(2, 8, 16)
    frames[:, :, :4] = 255
    clips.write_gif(tmp_path / "a.gif", frames, 10)
    record = sources.clip_folder(str(tmp_path), frames=2, side=4, rate=10)[0]
    np.testing.assert_allclose(greys(record), [0, 10], atol=1)


@pytest.mark.extended
def test_mp4_films_are_read_as_they_were_written(tmp_path):
    pytest.importorskip("av")
    clips.write_mp4(tmp_path / "a.mp4", film(9), 8)
    assert clips.properties(tmp_path / "a.mp4") == clips.evenly(9, 16, 16, 8.0)
    source = sources.clip_folder(str(tmp_path), frames=4, side=16, rate=4)
    np.testing.assert_allclose(greys(source[0]), [0, 20, 40, 60], atol=2)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.mp4 is .*truncated"):
        sources.clip_folder(str(tmp_path), frames=4, side=16, rate=4)[0]


@pytest.mark.parametrize(("rate", "hundredths"), [(10, 10), (99, 1), (240, 1), (10_000, 1), (0.4, 250)])
def test_a_frame_of_a_gif_takes_its_hundredths_of_a_second_and_at_least_one(rate, hundredths, tmp_path):
    """A frame without a time is shown for a tenth of a second by browsers, so that 240 frames a second became 10."""
    clips.write_gif(tmp_path / "a.gif", film(3), rate)
    content = (tmp_path / "a.gif").read_bytes()
    controls = content.split(b"\x21\xf9\x04")[1:]  # how the extension begins that states the time of a frame
    assert [int.from_bytes(control[1:3], "little") for control in controls] == [hundredths] * 3


def test_equal_frames_stay(tmp_path):
    """A GIF has as many frames as were written, each with its pixels and its time; also of noise, and of one frame."""
    frames = film(8)
    frames[3:6] = frames[3]
    frames[7, 4:6, 8:12] = (255, 0, 3)
    clips.write_gif(tmp_path / "a.gif", frames, 10)
    about = clips.properties(tmp_path / "a.gif")
    np.testing.assert_allclose(about.times, np.arange(8) / 10)
    assert about.length == pytest.approx(0.8) and about.rate == 10
    np.testing.assert_array_equal(clips.read(tmp_path / "a.gif", np.arange(8)), frames)
    noise = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    clips.write_gif(tmp_path / "b.gif", noise, 5)
    np.testing.assert_array_equal(clips.read(tmp_path / "b.gif", np.arange(3)), noise)
    clips.write_gif(tmp_path / "c.gif", noise[:1], 5)
    np.testing.assert_array_equal(clips.read(tmp_path / "c.gif", np.arange(1)), noise[:1])


def test_frames_of_unequal_times_are_chosen_by_time(tmp_path):
    """A GIF in which frames 3 to 5 are one that is shown three times as long, and a film that slows down."""
    shown = [Image.fromarray(frame) for frame in film(6)]
    times = [100, 100, 100, 300, 100, 100]
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:], duration=times)
    source = sources.clip_folder(str(tmp_path), frames=8, side=16, rate=10)
    np.testing.assert_allclose(greys(source[0]), [0, 10, 20, 30, 30, 30, 40, 50], atol=1)


@pytest.mark.extended
def test_films_that_slow_down_are_chosen_by_time(tmp_path):
    """Four frames at 10 a second and four at 5: a clip at 5 has 0, 2, and then each of the others."""
    av = pytest.importorskip("av")
    from fractions import Fraction

    with av.open(str(tmp_path / "a.mp4"), "w") as made:
        stream = made.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for frame, tenths in zip(film(8), (0, 1, 2, 3, 4, 6, 8, 10)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = tenths, Fraction(1, 10)
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    np.testing.assert_allclose(clips.properties(tmp_path / "a.mp4").times, np.array([0, 1, 2, 3, 4, 6, 8, 10]) / 10)
    source = sources.clip_folder(str(tmp_path), frames=6, side=16, rate=5)
    np.testing.assert_allclose(greys(source[0]), [0, 20, 40, 50, 60, 70], atol=3)


def test_captions_of_folders_with_dots_are_beside_them(tmp_path):
    for number, name in enumerate(("clip.1", "clip.2")):
        write_folder(tmp_path / name, 2)
        (tmp_path / f"{name}.txt").write_text(str(number))
    assert sources.clip_folder(str(tmp_path), frames=2, side=8).captions() == ["0", "1"]


def test_a_clip_takes_four_bytes_for_each_of_three_channels(monkeypatch):
    asked = []
    monkeypatch.setattr(clip_files.limits, "fits", lambda what, size: asked.append((what, size)))
    clip_files._check(5, 7, 8.0, 0.0)
    assert asked == [("a clip of 5 frames of 7 x 7 pixels", 5 * 7 * 7 * 3 * 4)]


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        sources.clip_folder(str(tmp_path / "none"), frames=4, side=8)
    with pytest.raises(ValueError, match=r"holds neither films \("):
        sources.clip_folder(str(tmp_path), frames=4, side=8)
    clips.write_gif(tmp_path / "a.gif", film(9), 10)
    for options, message in [
        ({"frames": 4, "side": 8, "rate": 20}, r"a\.gif has 10 frames a second, fewer than rate = 20"),
        ({"frames": 4, "side": 32, "rate": 10}, r"a\.gif has 16 x 16 pixels, fewer than side = 32"),
        (
            {"frames": 10, "side": 8, "rate": 10},
            "has 9 frames at 10 a second; .* these are 9 frames, fewer than frames = 10",
        ),
        ({"frames": 0, "side": 8}, "must be at least 1"),
        ({"frames": 4, "side": 0}, "side = 0 must be at least 1"),
        ({"frames": 4, "side": 8, "rate": 0.0}, r"rate = 0\.0 positive"),
        ({"frames": 4, "side": 8, "stored_rate": -1.0}, r"stored_rate = -1\.0 0 or positive"),
        ({"frames": 4, "side": 8, "split": "test"}, "no split 'test'"),
    ]:
        with pytest.raises(ValueError, match=message):
            sources.clip_folder(str(tmp_path), **options)
    with pytest.raises(limits.Refused, match=r"a clip of 1000000000 frames of 512 x 512 pixels declares .*PiB"):
        sources.clip_folder(str(tmp_path), frames=10**9, side=512)
    write_folder(tmp_path / "b", 6)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"b\.txt is missing\. Valid: a caption for every clip, or for none"):
        sources.clip_folder(str(tmp_path), frames=4, side=8)
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "b" / "frame_3.png").unlink()
    with pytest.raises(ValueError, match=r"b lacks frame 3: its pictures are numbered 1 to 6"):
        sources.clip_folder(str(tmp_path), frames=4, side=8)
    (tmp_path / "b" / "frame_3.png").write_bytes(b"no picture")
    (tmp_path / "b" / "right_2.png").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"b has frame 2 twice, as (frame|right)_2\.png and (frame|right)_2\.png"):
        sources.clip_folder(str(tmp_path), frames=4, side=8)
    (tmp_path / "b" / "right_2.png").unlink()
    source = sources.clip_folder(str(tmp_path), frames=4, side=8)
    with pytest.raises(sources.DamagedRecord, match=r"b, from frame 0"):
        source[2]


def test_a_gif_that_is_cut_short_is_named(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    clips.write_gif(tmp_path / "a.gif", noisy, 10)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 3 // 8])
    with pytest.raises((ValueError, sources.DamagedRecord), match=r"a\.gif"):
        sources.clip_folder(str(tmp_path), frames=4, side=8, rate=10)[0]


def shards(folder, members):
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def test_the_films_of_tar_shards_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    clips.write_gif(tmp_path / "a.gif", film(9), 10)
    content = (tmp_path / "a.gif").read_bytes()
    shards(tmp_path, {"1.gif": content, "1.txt": b"one", "2.gif": content[:40], "2.txt": b"two"})
    source = sources.clip_shards(str(tmp_path), frames=3, side=8, rate=5)
    assert len(source) == 2 and source.spec.shape == (3, 8, 8, 3) and source.captions() == ["one", "two"]
    np.testing.assert_allclose(greys(source[0]), [0, 20, 40], atol=1)
    with pytest.raises(sources.DamagedRecord, match=r"2.*its gif is .*truncated"):
        source[1]
    (tmp_path / "train-0.tar").unlink()
    shards(tmp_path, {"1.txt": b"one"})
    with pytest.raises(ValueError, match=r"has members txt\. Valid: one film in each record \("):
        sources.clip_shards(str(tmp_path), frames=3, side=8)
