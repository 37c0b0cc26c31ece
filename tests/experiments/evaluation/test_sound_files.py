"""Samples of sound as files and as a picture: which clips, and which numbers are drawn."""

import numpy as np
import pytest

from diffusion import sound
from diffusion.experiments.evaluation import plots, sound_files
from diffusion.io import wav
from tests.experiments.evaluation import charts

RATE = 8000
CLIPS = sound.Sound(RATE, 512, sound.samples(4), 16, 128, 64)


def waveforms(number, length=512):
    """Clips that can be told apart: the i-th has the level (i + 1) / 32."""
    return np.float32(np.arange(1, number + 1)[:, None] / 32 * np.ones(length))


def written(folder):
    clips = {path.name: wav.read(path) for path in (folder / "sounds").iterdir()}
    return {name: (round(float(32 * clip[5, 0])) - 1, rate) for name, (clip, rate) in clips.items()}


def test_three_clips_of_each_class_are_written(tmp_path):
    labels = np.array([1, 0, 1, 1, 1, 0])
    assert sound_files.write(CLIPS, waveforms(6), labels, ("bell", "drum"), tmp_path) == tmp_path / "sounds"
    rows = {"bell_0.wav": 1, "bell_1.wav": 5, "drum_0.wav": 0, "drum_1.wav": 2, "drum_2.wav": 3}
    assert written(tmp_path) == {name: (row, RATE) for name, row in rows.items()}
    sound_files.write(CLIPS, waveforms(1), np.array([1]), ("bell", "drum"), tmp_path)
    assert written(tmp_path) == {"drum_0.wav": (0, RATE)}  # no clip of the samples before


def test_a_class_whose_name_has_a_slash_has_its_own_file(tmp_path):
    sound_files.write(CLIPS, waveforms(3), np.array([0, 1, 2]), ("r/b", "r_b", "../up"), tmp_path)
    names = {"r%2Fb_0.wav": 0, "r_b_0.wav": 1, "..%2Fup_0.wav": 2}
    assert written(tmp_path) == {name: (row, RATE) for name, row in names.items()}


def test_eight_clips_are_written_where_there_are_no_classes(tmp_path):
    sound_files.write(CLIPS, waveforms(10), np.zeros(10, int), (), tmp_path)
    assert written(tmp_path) == {f"clip_{row}.wav": (row, RATE) for row in range(8)}
    sound_files.write(CLIPS, waveforms(10), np.arange(10) % 2, (), tmp_path)  # labels without a name are one kind
    assert len(written(tmp_path)) == 8


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch, sound_files)


def test_a_column_shows_a_clip_and_its_spectrogram(drawn):
    """A tone of 1000 Hz for half a second, then silence: a line at 1 kHz, and -80 dB."""
    clips = sound.Sound(RATE, 2000, sound.samples(4))
    time = np.arange(2000) / RATE
    tone = np.float32(0.5 * np.sin(2 * np.pi * 1000 * time) * (time < 0.125))
    sound_files.draw(clips, np.stack([0 * tone, tone, tone / 10]), np.array([1, 0, 0]), ("bell", "drum"), "unused.png")
    axes = np.reshape(drawn[0].axes, (2, -1)) if drawn[0].axes[1].lines else np.reshape(drawn[0].axes, (-1, 2)).T
    (top, silent), (bottom, below) = axes
    assert (top.get_title(), silent.get_title()) == ("bell", "drum")
    (line,) = top.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), tone)
    np.testing.assert_allclose(line.get_xdata(), np.linspace(0, 0.25, 2000))
    assert line.get_color() == plots.BLUE and top.get_ylim() == (-1, 1) and top.get_xlim() == (0, 0.25)
    image = bottom.get_images()[0]
    assert image.get_clim() == (-80, 0) and image.origin == "lower" and tuple(image.get_extent()) == (0, 0.25, 0, 4)
    levels = np.asarray(image.get_array())
    assert levels.shape == (129, 63)  # a hop of 32 in 2016 samples, bins of 31.25 Hz
    assert levels[:, :25].argmax(0).tolist() == [32] * 25
    assert levels[32, 10] == pytest.approx(20 * np.log10(0.5), abs=0.5) and (levels[:, 45:] == -80).all()
    assert (np.asarray(below.get_images()[0].get_array()) == -80).all()
    assert bottom.get_ylabel() == "kHz" and bottom.get_xlabel() == below.get_xlabel() == "s"
    assert not silent.get_yticklabels()[0].get_text() and not below.get_yticklabels()[0].get_text()


def test_the_first_eight_are_drawn(drawn):
    sound_files.draw(CLIPS, waveforms(10), np.zeros(10, int), (), "unused.png")
    titles = [axes.get_title() for axes in drawn[0].axes if axes.get_title()]
    assert titles == [f"clip {row}" for row in range(8)] and len(drawn[0].axes) == 16
    sound_files.draw(CLIPS, waveforms(10), np.arange(10), tuple("abcdefghij"), "unused.png")
    assert [axes.get_title() for axes in drawn[1].axes if axes.get_title()] == list("abcdefgh")
