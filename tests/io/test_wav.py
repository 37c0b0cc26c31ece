"""WAV files beside scipy's: what is written, what is read at each width, and what is refused."""

import struct

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
    wav.write(path, np.stack([x, -x / 2], axis=1), RATE)
    np.testing.assert_array_equal(scipy.io.wavfile.read(path)[1][:, 0], numbers)
    np.testing.assert_allclose(wav.read(path)[0][:, 1], -x / 2, atol=1.01 / 32768)
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


def extensible(path, code, numbers, bits):
    """A file as 24-bit tools write it: WAVE_FORMAT_EXTENSIBLE, and a chunk of odd size before the samples."""
    tail = bytes.fromhex("000000001000800000aa00389b71")
    block = numbers.shape[1] * bits // 8
    form = struct.pack("<HHIIHHHHIH", 0xFFFE, numbers.shape[1], RATE, RATE * block, block, bits, 22, bits, 0, code)
    data = b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in numbers.ravel())
    chunks = [(b"fmt ", form + tail), (b"JUNK", b"odd"), (b"data", data)]
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(of)) + of + b"\0" * (len(of) % 2) for name, of in chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("bits", [16, 24])
def test_extensible_files_are_those_that_scipy_reads(bits, tmp_path):
    numbers = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (20, 2))
    extensible(tmp_path / "a.wav", 1, numbers, bits)
    assert wav.header(tmp_path / "a.wav") == (RATE, 2, 20, bits // 8)
    rate, theirs = scipy.io.wavfile.read(tmp_path / "a.wav")  # 24 bits as the upper ones of 32
    assert rate == RATE
    found, _ = wav.read(tmp_path / "a.wav", 3, 15)
    np.testing.assert_allclose(found, theirs[3:18] / 2.0 ** (16 if bits == 16 else 32) * 2, atol=1e-7)


def test_other_formats_are_refused_by_their_codes(tmp_path):
    scipy.io.wavfile.write(tmp_path / "float.wav", RATE, np.zeros(20, np.float32))
    extensible(tmp_path / "float_too.wav", 3, np.zeros((20, 1)), 32)
    extensible(tmp_path / "law.wav", 7, np.zeros((20, 1)), 8)
    for name, message in (("float", "3, floating point"), ("float_too", "3, floating point"), ("law", "7, mu-law")):
        with pytest.raises(ValueError, match=f"its format is {message}. Valid: 1"):
            wav.header(tmp_path / f"{name}.wav")
    (tmp_path / "data.wav").write_bytes(b"RIFF\0\0\0\0WAVEdata\0\0\0\0")
    (tmp_path / "bits.wav").write_bytes((tmp_path / "law.wav").read_bytes().replace(b"\x07\0", b"\x01\0"))
    content = bytearray((tmp_path / "bits.wav").read_bytes())
    content[32:36] = struct.pack("<HH", 8, 64)
    (tmp_path / "bits.wav").write_bytes(content)
    for name, message in (("data", "before their format"), ("bits", "1 channels of 64 bits in.*of 8 bytes")):
        with pytest.raises(ValueError, match=message):
            wav.header(tmp_path / f"{name}.wav")


def test_what_is_refused(tmp_path):
    (tmp_path / "text.wav").write_bytes(b"not sound at all, not at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    wav.write(tmp_path / "cut.wav", np.zeros(100), RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:100])
    for name, message in (("text", "no WAV file"), ("empty", "it is truncated"), ("cut", "truncated")):
        with pytest.raises(ValueError, match=message):
            wav.read(tmp_path / f"{name}.wav")
    wav.write(tmp_path / "ten.wav", np.zeros(10), RATE)
    with pytest.raises(ValueError, match="has 10 samples, but samples 8 to 12"):
        wav.read(tmp_path / "ten.wav", 8, 4)
    for shape in (
        (2, 100),
        (1, 100),
        (1, 3),
        (2, 3),
        (3, 3, 3),
    ):  # the first was a file of 100 channels and two samples
        with pytest.raises(ValueError, match=r"Valid: \[L\] or \[L, channels\]"):
            wav.write(tmp_path / "b.wav", np.zeros(shape), RATE)
    wav.write(tmp_path / "short.wav", np.zeros((1, 2)), RATE)
    assert wav.header(tmp_path / "short.wav") == (RATE, 2, 1, 2)
    with pytest.raises(ValueError, match="finite"):
        wav.write(tmp_path / "nan.wav", np.array([0, np.nan]), RATE)


@pytest.mark.parametrize("bits, width", [(8, 1), (9, 2), (12, 2), (16, 2), (17, 3), (20, 3), (24, 3), (25, 4), (32, 4)])
def test_a_sample_has_as_many_bytes_as_its_bits_need(bits, width, tmp_path):
    form = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 2 * width, 2 * width, bits)
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 6 * width) + bytes(6 * width)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert wav.header(tmp_path / "a.wav") == (RATE, 2, 3, width)


@pytest.mark.parametrize("code, name", [
    (2, "ADPCM"), (3, "floating point"), (6, "A-law"), (7, "mu-law"), (17, "ADPCM"), (85, "MP3"), (255, "another one"),
])  # fmt: skip
def test_a_format_is_named_as_microsofts_mmreg_h_names_it(code, name, tmp_path):
    extensible(tmp_path / "a.wav", code, np.zeros((20, 1)), 16)
    with pytest.raises(ValueError, match=rf"its format is {code}, {name}\. Valid: 1"):
        wav.header(tmp_path / "a.wav")
