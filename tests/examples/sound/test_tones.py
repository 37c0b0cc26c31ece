"""The demo of notes: what is broken is broken, the melody has its pitches, and the files on the page are the data's."""

import pathlib

import numpy as np
import pytest

from diffusion import sound
from diffusion.data.sound import instruments
from diffusion.io import wav
from examples.sound import judge, melody, tones

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "gallery" / "sound"


@pytest.fixture(scope="module")
def notes():
    return judge.real_notes(1, 8)


def test_notes_of_the_page_are_those_of_the_data(notes):
    for name, note in zip(instruments.NAMES, notes.waveforms, strict=True):
        written, rate = wav.read(PAGE / f"{name}.wav")
        assert rate == judge.RATE
        np.testing.assert_allclose(written[:, 0], note, atol=2.0**-15)


@pytest.mark.extended
def test_notes_are_written_and_drawn(notes, tmp_path):
    tones.write_notes(notes.waveforms, tmp_path, "notes")
    assert (tmp_path / "notes.png").is_file()
    assert {path.stem for path in (tmp_path / "notes").iterdir()} == set(instruments.NAMES)


def test_broken_notes_are_other_notes(notes):
    """All are changed, and among the broken ones of an organ some have lost their tone."""
    broken = [judge.broken_notes(notes, seed) for seed in range(8)]
    assert broken[0].shape == notes.waveforms.shape
    assert (np.abs(np.array(broken) - notes.waveforms).max(-1) > 0.05).all()
    organ = instruments.NAMES.index("organ")
    shares = [sound.harmonic_share(x[organ], judge.RATE, notes.pitches[organ]) for x in broken]
    assert min(shares) < 0.8 < 0.99 < sound.harmonic_share(notes.waveforms[organ], judge.RATE, notes.pitches[organ])


def test_the_judge_sees_levels_and_what_lies_between_lines():
    """Between the lines of a tone it is quiet; in a band of noise nearly as loud as the band itself."""
    time = np.arange(judge.LENGTH) / judge.RATE
    tone = np.sin(2 * np.pi * 2000 * time)
    noise = np.random.default_rng(0).normal(size=judge.LENGTH)
    seen = judge.pictures(np.stack([tone, noise])).astype(int)
    assert seen.shape == (2, 16, judge.BANDS, 2)
    band = int(seen[0, 8, :, 0].argmax())
    gap = seen[:, 8, band, 0] - seen[:, 8, band, 1]
    assert gap[0] > 60 and abs(gap[1]) < 20


def test_the_judge_sees_each_note_at_its_own_loudness(notes):
    some = notes.waveforms[:2]
    alone = np.concatenate([judge.pictures(one[None]) for one in some])
    np.testing.assert_array_equal(judge.pictures(some * [[1.0], [0.05]]), alone)


def test_only_notes_that_have_a_pitch_are_in_tune(notes, monkeypatch):
    """Of the first two tones one is 30 cents off, and NEAR is 20; a drum has no pitch."""
    tones_of = [instruments.NAMES.index(name) for name in instruments.HARMONIC]
    off = iter([30.0, *[-19.0] * (len(tones_of) - 1)])
    monkeypatch.setattr(judge.classifier, "predict", lambda net, images: notes.labels)
    monkeypatch.setattr(judge.sound, "yin", lambda waveform, rate: 1.0)
    monkeypatch.setattr(judge.sound, "cents", lambda heard, pitch: next(off))
    monkeypatch.setattr(judge.sound, "harmonic_share", lambda waveform, rate, pitch: 0.5)
    figures = judge.measured(None, notes)
    number = len(tones_of)
    assert number < len(notes.labels) and figures["in_tune"]["count"] == figures["harmonic"]["samples"] == number
    assert figures["in_tune"]["share"] == pytest.approx((number - 1) / number)
    first = min(tones_of, key=lambda label: notes.labels.tolist().index(label))
    assert figures["by_instrument"][instruments.NAMES[first]]["in_tune"] == 0


def test_the_figures_of_real_notes(notes, monkeypatch):
    """A judge that is always right, and notes in tune; asked for a quarter tone higher, they are 50 cents off."""
    monkeypatch.setattr(judge.classifier, "predict", lambda net, images: notes.labels)
    figures = judge.measured(None, notes)
    assert figures["heard"]["share"] == 1 and figures["heard"]["count"] == 8
    assert figures["by_instrument"]["organ"]["in_tune"] == 1 and figures["by_instrument"]["organ"]["harmonic"] > 0.99
    assert "in_tune" not in figures["by_instrument"]["kick"]
    off = judge.measured(None, notes._replace(pitches=notes.pitches * 2 ** (1 / 24)))
    assert off["in_tune"]["share"] == 0
    assert 45 < off["by_instrument"]["organ"]["cents"] < 55


def test_the_pitches_of_the_melody():
    assert melody.hertz(9) == 440 and melody.hertz(0) == pytest.approx(261.6256, abs=1e-4)
    for name, part in melody.VOICES.items():
        assert name in instruments.HARMONIC
        for semitones, beats in part:
            assert 110 <= melody.hertz(semitones) <= 880  # of the training notes
            assert melody.BEAT * beats + melody.FADE <= judge.LENGTH / judge.RATE


def test_the_melody_has_vibrato_where_its_instrument_has():
    labels = np.array([instruments.NAMES.index(name) for name in ("pluck", "flute", "brass")])
    np.testing.assert_allclose(melody.vibratos(labels), [(0, 5.5), (0.01, 5.5), (0.005, 5.5)])


def test_a_line_of_ones_is_one_with_fades_that_overlap():
    """Each note lasts for its beats; behind them it fades, below the start of the next."""
    made = melody.line([np.ones(judge.LENGTH), np.ones(judge.LENGTH)], [1, 0.5])
    beat, fade = round(melody.BEAT * judge.RATE), int(melody.FADE * judge.RATE)
    assert len(made) == beat * 3 // 2 + fade
    np.testing.assert_allclose(made[:beat], 1)
    np.testing.assert_allclose(made[beat], 2)
    np.testing.assert_allclose(made[beat + fade : beat * 3 // 2], 1)
    assert abs(made[-1]) < 1e-9


def test_a_played_melody_has_the_pitches_that_were_asked_for():
    def play(labels, pitches):
        time = np.arange(judge.LENGTH) / judge.RATE
        voice = np.where(labels == instruments.NAMES.index("pluck"), 0.0, 1.0)  # the lead alone
        return voice[:, None] * np.sin(2 * np.pi * pitches[:, None] * time)

    tune = melody.played(play)
    assert np.abs(tune).max() == pytest.approx(0.9)
    third = tune[int(2.15 * melody.BEAT * judge.RATE) : int(2.95 * melody.BEAT * judge.RATE)]  # F 4
    assert abs(sound.cents(sound.yin(third, judge.RATE), melody.hertz(5))) < 5


def test_the_flute_fades_while_the_brass_begins():
    """A flute of ones, and no brass and no pluck: the lead ends by its fade, without a jump, as its notes do."""
    flute = instruments.NAMES.index("flute")
    tune = melody.played(lambda labels, pitches: np.ones((1, judge.LENGTH)) * (labels == flute)[:, None])
    tune = tune / tune[100]
    end, fade = round(16 * melody.BEAT * judge.RATE), int(melody.FADE * judge.RATE)
    np.testing.assert_allclose(tune[[end - 1, end + fade // 2, end + fade]], [1, 0.5, 0], atol=0.01)
    assert np.abs(np.diff(tune[end - 10 :])).max() < 2 / fade


def test_the_melodys_picture_goes_up_to_two_kilohertz(tmp_path, monkeypatch):
    """A tone of 1 kHz is the line in the middle of the picture, of the whole length."""
    seen = []
    monkeypatch.setattr(melody.plots, "save", lambda figure, path: seen.append(figure.axes[0].images[0]))
    time = np.arange(2 * judge.RATE) / judge.RATE
    melody.draw(np.sin(2 * np.pi * 1000 * time), judge.RATE, tmp_path / "melody.png")
    (image,) = seen
    levels = image.get_array()
    assert image.get_extent() == [0, 2, 0, 2] and (levels[:, 4:-4].argmax(0) == len(levels) // 2).all()
