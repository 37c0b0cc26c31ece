"""Sources of sound: repeatable notes, a folder of WAV files, both with a way back; and files that do not fit."""

import numpy as np
import pytest

from diffusion import sound
from diffusion.data import shared_records, sources
from diffusion.io import wav
from diffusion.recipe import ConfigError, data

RATE, LENGTH = 8000, 512
FORMS = {
    "samples": {"name": "samples", "fold": 8},
    "lapped_spectrum": {"name": "lapped_spectrum", "bins": 32, "window": "kaiser_bessel"},
    "frequencies": {"name": "lapped_spectrum", "bins": 64, "along": "frequency"},
    "alternating": {"name": "lapped_spectrum", "bins": 64, "along": "frequency", "alternating": True},
}


def opened(source, split="train"):
    return data.open_settings({"source": source, "name": "", "dir": "", "buckets": {"area": 0}}, split)


@pytest.mark.parametrize("form", FORMS)
def test_notes_in_a_form_and_back(form):
    entry = {"name": "instruments", "number": 9, "length": LENGTH}
    source = opened(entry | {"form": FORMS[form]})
    plain = opened(entry)
    block = source.sound.form.block
    shape = (LENGTH // block, block)
    expected = shape[::-1] if source.sound.form.by_frequency else shape
    assert source.spec.shape == expected and source.spec.num_classes == 8
    for row in (0, 8):
        assert source[row]["label"] == row % 8
        waveform = plain[row]["x"][:, 0] / 2  # by its gain
        np.testing.assert_allclose(source.sound.form.waveform(source[row]["x"]), waveform, atol=2e-6)
    assert (opened(entry, "test")[0]["x"] != plain[0]["x"]).any()


def test_notes_with_their_pitch():
    form = {"name": "harmonics_and_rest", "harmonics": 20, "hop": 64}
    source = opened({"name": "instruments", "number": 9, "length": LENGTH, "form": form})
    assert source.spec.shape == (20 + 32, 16) and source.spec.num_classes == 8 and source.spec.has_class
    assert {name: leaf.shape for name, leaf in source.spec.condition.items()} == {"label": (), "vector": (1,)}
    for row in (1, 6):
        record = source[row]
        note = sound.instruments.clip((2029, 0, row), RATE, LENGTH)
        np.testing.assert_allclose(440 * 2 ** record["condition"]["vector"], [note.pitch], rtol=1e-6)
        assert record["condition"]["label"] == record["label"] == note.label
        waveform = source.sound.waveform(record["x"], condition=record["condition"])
        np.testing.assert_allclose(waveform, note.waveform, atol=1e-6)


def test_notes_with_their_vibrato():
    """The condition is of the fundamental, for the bell a fifth of its pitch."""
    form = {"name": "harmonics_and_rest", "harmonics": 20, "hop": 64}
    source = opened({"name": "instruments", "number": 9, "length": LENGTH, "form": form, "vibrato": True})
    assert source.spec.condition["vector"].shape == (3,)
    for row, share in ((2, 5), (3, 1), (6, 1)):
        record = source[row]
        note = sound.instruments.clip((2029, 0, row), RATE, LENGTH)
        octaves, depth, rate = record["condition"]["vector"]
        np.testing.assert_allclose(440 * 2**octaves * share, note.pitch, rtol=1e-6)
        np.testing.assert_allclose([0.01 * depth, 5.5 + rate], note.vibrato, rtol=1e-6, atol=1e-9)
        waveform = source.sound.waveform(record["x"], condition=record["condition"])
        np.testing.assert_allclose(waveform, note.waveform, atol=1e-6)
    with pytest.raises(ValueError, match="only a form with a pitch has a vibrato"):
        sources.instruments(number=9, length=LENGTH, vibrato=True)


def test_an_example_is_made_once_and_a_reader_may_change_its_record():
    source = opened({"name": "instruments", "number": 2, "length": LENGTH, "form": FORMS["lapped_spectrum"]})
    record = source[1]
    x = record.pop("x")
    assert source[1]["x"] is x


def test_files_without_a_pitch_have_no_form_that_needs_it(tmp_path):
    folder_of(tmp_path, {"a.wav": (1100, RATE)})
    with pytest.raises(ValueError, match=r"the pitch, which WAV files do not state\. Valid: samples, lapped_spectrum"):
        sources.wav_folder(str(tmp_path), sample_rate=RATE, length=LENGTH, form=sound.harmonics_and_rest())


def test_levels_are_the_condition():
    source = sources.instruments(number=4, length=LENGTH, mels=16, window=128, hop=64)
    assert source.spec.num_classes == 0
    record = source[1]
    assert record.keys() == {"x", "condition"}  # the class of the instrument is no condition beside the levels
    levels = sound.log_mel(record["x"][:, 0] / 2, RATE, 16, 128, 64)
    np.testing.assert_allclose(record["condition"]["spectrogram"], levels, atol=1e-5)
    assert source.spec.condition["spectrogram"].shape == levels.shape == (8, 16)


def test_levels_along_frequency_are_those_between_the_bands():
    form = sound.lapped_spectrum(bins=64, along="frequency")
    source = sources.instruments(number=4, length=LENGTH, mels=16, window=128, hop=64, form=form)
    record = source[1]
    levels = sound.log_mel(form.waveform(record["x"]), RATE, 16, 128, 64)
    middles = sound.mel_corners(16, RATE)[1:-1]
    at = (np.arange(64) + 0.5) * RATE / 128
    expected = np.stack([np.interp(at, middles, frame) for frame in levels], axis=1)
    # The way back is in float32: in quiet bands it moves a level by up to 1.2e-5 on one processor, and less on another.
    np.testing.assert_allclose(record["condition"]["spectrogram"], expected, atol=3e-5)
    assert source.spec.condition["spectrogram"].shape == expected.shape == (64, 8)


def folder_of(path, files):
    for name, (length, rate) in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        numbers = np.random.default_rng(length).integers(-30000, 30000, length)
        wav.write(path / name, numbers / 32768, rate)
    return path


def test_a_folder_of_classes_is_cut_into_clips(tmp_path):
    folder_of(tmp_path, {"drum/a.wav": (1100, RATE), "bell/b.wav": (512, RATE)})
    source = opened({"name": "wav_folder", "path": str(tmp_path), "sample_rate": RATE, "length": LENGTH})
    assert len(source) == 3 and source.spec.classes == ("bell", "drum")
    assert [source[row]["label"] for row in range(3)] == [0, 1, 1]
    whole = wav.read(tmp_path / "drum/a.wav")[0][:, 0]
    np.testing.assert_array_equal(np.ravel(source.sound.form.waveform(source[2]["x"])), whole[512:1024])
    assert source.fingerprint()["records"] == 3
    with pytest.raises(ConfigError, match="no split 'test'"):
        opened({"name": "wav_folder", "path": str(tmp_path), "sample_rate": RATE, "length": LENGTH}, "test")


def test_parts_of_a_folder_know_which_clips_they_share(tmp_path):
    folder_of(tmp_path, {"a.wav": (20 * LENGTH, RATE)})
    entry = {"name": "wav_folder", "path": str(tmp_path), "sample_rate": RATE, "length": LENGTH}
    part = lambda split: shared_records.identify(opened(entry, split))
    assert shared_records.by_number(part("train[:10]"), part("train[10:]")) == 0
    assert shared_records.by_number(part("train[:10]"), part("train[8:]")) == 2


def test_classes_splits_and_patterns(tmp_path):
    """One rule for all folders of files: the first folder that is no split is the class; patterns have none."""
    folder_of(tmp_path, {"drum/train/1/a.wav": (512, RATE), "drum/test/a.wav": (600, RATE)})
    folder_of(tmp_path, {"train/bell/b.WAV": (512, RATE), "test/bell/b.wav": (700, RATE)})
    open_ = lambda path, split="train": sources.wav_folder(str(path), split, sample_rate=RATE, length=LENGTH)
    for split in ("train", "test"):
        assert (len(open_(tmp_path, split)), open_(tmp_path, split).spec.classes) == (2, ("bell", "drum"))
    folder_of(tmp_path / "loose", {"a1.wav": (512, RATE), "a2.wav": (600, RATE), "train.wav": (700, RATE)})
    assert len(open_(tmp_path / "loose")) == 3
    for path, count in (("a*.wav", 2), ("a1.wav", 1)):
        source = open_(tmp_path / "loose" / path)
        assert len(source) == count and not source.spec.num_classes
    with pytest.raises(FileNotFoundError, match=r"b\*\.wav: there is no such file"):
        open_(tmp_path / "loose/b*.wav")
    folder_of(tmp_path / "loose", {"drum/a.wav": (512, RATE)})
    with pytest.raises(ValueError, match=r"a1\.wav beside folders of classes"):
        open_(tmp_path / "loose")


@pytest.mark.parametrize(
    "length, rate, message",
    [
        (600, 44100, "44100 samples a second, but sample_rate = 8000.* sox IN -r 8000 OUT"),
        (0, RATE, "is empty"),
        (511, RATE, "511 samples, fewer than length = 512"),
    ],
)
def test_files_that_do_not_fit(tmp_path, length, rate, message):
    folder_of(tmp_path, {"good.wav": (600, RATE), "bad.wav": (length, rate)})
    with pytest.raises(ValueError, match=f"bad.wav .*{message}"):
        sources.wav_folder(str(tmp_path), sample_rate=RATE, length=LENGTH)


def test_stereo_and_no_sound(tmp_path):
    import scipy.io.wavfile

    scipy.io.wavfile.write(tmp_path / "two.wav", RATE, np.zeros((600, 2), np.int16))
    with pytest.raises(ValueError, match=r"two\.wav has 2 channels\. Valid: mono"):
        sources.wav_folder(str(tmp_path), sample_rate=RATE, length=LENGTH)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no files that end in \.wav"):
        sources.wav_folder(str(tmp_path / "none"), sample_rate=RATE, length=LENGTH)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"number": 0}, "number = 0"),
        ({"sample_rate": 100}, "sample_rate = 100"),
        ({"length": 0}, "length = 0"),
        (
            {"form": sound.lapped_spectrum(along="frequency"), "mels": 40, "shaped": True},
            "shaped = True, mels = 40: examples along frequency cannot.*levels are",
        ),
        ({"length": 100, "form": sound.samples(8)}, "length = 100 is not a multiple of 8, the samples of one step"),
        ({"length": 100, "mels": 8}, "length = 100 is not a multiple of hop = 64"),
        ({"mels": 8, "window": 32}, "window = 32 and hop = 64"),
        ({"mels": 8, "hop": 0}, "hop = 0"),
        ({"mels": 500}, "mels = 500 is too many"),
        ({"length": 2**30}, r"clip of 134218 s at 8000 Hz has 4\.0 GiB"),
        ({"split": "valid"}, "no split 'valid'"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        sources.instruments(**arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sound.samples(0), "fold = 0"),
        (lambda: sound.lapped_spectrum(bins=7), "bins = 7"),
        (lambda: sound.lapped_spectrum(power=2.0), "power = 2.0"),
        (lambda: sound.lapped_spectrum(along="mel"), "along = 'mel'. Valid: time, frequency"),
        (lambda: sound.lapped_spectrum(window="hann"), "window = 'hann'. Valid: sine, kaiser_bessel"),
    ],
)
def test_forms_that_are_none(call, message):
    with pytest.raises(ValueError, match=message):
        call()
