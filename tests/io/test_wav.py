"""WAV files beside scipy's: what is written, what is read at each width, and what is refused."""

import numpy as np
import pytest
import scipy.io.wavfile

from diffusion.io import wav

RATE = 8000


def test_what_is_written_is_what_scipy_reads(tmp_path):
    x = np.linspace(-1.2, 1.2, 100)
    path = tmp_path / "a.wav"
    wav.write(path, x, RATE)
    rate, numbers = scipy.io.wavfile.read(path)
    assert rate == RATE and numbers.dtype == np.int16
    np.testing.assert_array_equal(numbers, np.clip(np.round(32768 * x), -32768, 32767))
    read, rate = wav.read(path)
    assert rate == RATE and read.shape == (100, 1) and read.dtype == np.float32
    np.testing.assert_allclose(read[:, 0], np.clip(x, -1, 1), atol=1.01 / 32768)
    np.testing.assert_array_equal(wav.read(path, 10, 5)[0], read[10:15])
    assert [each.name for each in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("dtype, zero, full", [("uint8", 128, 128), ("int16", 0, 2**15), ("int32", 0, 2**31)])
def test_widths_and_channels(tmp_path, dtype, zero, full):
    numbers = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (20, 2)).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "a.wav", RATE, numbers)
    assert wav.header(tmp_path / "a.wav") == (RATE, 2, 20, np.dtype(dtype).itemsize)
    np.testing.assert_allclose(wav.read(tmp_path / "a.wav")[0], (numbers.astype(np.float64) - zero) / full, atol=1e-6)


def test_24_bits(tmp_path):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, RATE, 0, "NONE", ""))
        file.writeframes(b"\x00\x00\x40" + b"\x00\x00\x80" + b"\x01\x00\x00")
    np.testing.assert_allclose(wav.read(tmp_path / "a.wav")[0][:, 0], [0.5, -1, 2.0**-23])


def test_what_is_refused(tmp_path):
    (tmp_path / "text.wav").write_bytes(b"not sound at all, not at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    wav.write(tmp_path / "cut.wav", np.zeros(100), RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:100])
    for name, message in (("text", "no WAV file"), ("empty", "it is cut short"), ("cut", "cut short")):
        with pytest.raises(ValueError, match=message):
            wav.read(tmp_path / f"{name}.wav")
    wav.write(tmp_path / "ten.wav", np.zeros(10), RATE)
    with pytest.raises(ValueError, match="has 10 samples, and 8 to 12"):
        wav.read(tmp_path / "ten.wav", 8, 4)
    with pytest.raises(ValueError, match="finite"):
        wav.write(tmp_path / "nan.wav", np.array([0, np.nan]), RATE)
