"""WAV files of uncompressed sound: read as numbers in [-1, 1], written whole."""

import os
import pathlib
import struct
import wave
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from diffusion.io import files, opener

PCM, EXTENSIBLE = 1, 0xFFFE  # codes of formats; an extensible one has its code in the first two bytes of its subformat
CODES = {2: "ADPCM", 3: "floating point", 6: "A-law", 7: "mu-law", 17: "ADPCM", 85: "MP3"}
CHUNKS = 10_000  # parts of a file, most of which say who made it
SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # the other bytes of the subformats with a code


class Header(NamedTuple):
    """The properties that a WAV file states.

    Attributes:
        sample_rate: samples a second, in Hz.
        channels: number of channels, 1 for mono.
        length: number of samples of a channel.
        width: number of bytes of a sample, 1 to 4.
    """

    sample_rate: int
    channels: int
    length: int
    width: int


def header(path: str | os.PathLike, within: str | os.PathLike | None = None) -> Header:
    """The properties that a WAV file states; its samples are not read.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.

    Raises:
        ValueError: if it is no WAV file of whole numbers (PCM), which names the code of its format; or if it ends
            before the samples that it declares.
        OSError: if it cannot be read.
    """
    with opener.open_file(path, within=within) as file:
        return _header(file, path)[0]


def read(
    path: str | os.PathLike, start: int = 0, length: int | None = None, within: str | os.PathLike | None = None
) -> tuple[np.ndarray, int]:
    """Samples of a WAV file of 8, 16, 24 or 32 bits.

    Args:
        path, within: the file, and the folder that it must lie in, as in `opener.open_file`.
        start: number of the first sample.
        length: number of samples; None for all that follow.

    Returns:
        (float32 `[length, channels]` in [-1, 1), the sample rate in Hz).

    Raises:
        ValueError: as in `header`, or if the file ends before these samples.
        OSError: if it cannot be read.
    """
    with opener.open_file(path, within=within) as file:
        stated, start_of_data = _header(file, path)
        length = stated.length - start if length is None else length
        if not 0 <= start <= start + length <= stated.length:
            raise ValueError(
                f"{path} has {stated.length} samples, but samples {start} to {start + length} were requested"
            )
        frame = stated.channels * stated.width
        file.seek(start_of_data + start * frame)
        content = file.read(length * frame)
    if len(content) != length * frame:
        raise ValueError(f"{path} is truncated: its header states {stated.length} samples")
    if stated.width == 1:  # the only width without a sign
        numbers = (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    else:
        wide = np.zeros((length * stated.channels, 4), np.uint8)
        wide[:, 4 - stated.width :] = np.frombuffer(content, np.uint8).reshape(-1, stated.width)
        numbers = wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
    return numbers.reshape(length, stated.channels), stated.sample_rate


def write(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes a WAV file of 16 bits, whole or not at all.

    Args:
        path: the WAV file.
        waveform: the samples, float `[L]`, or `[L, channels]`; values outside of [-1, 1] are clipped.
        sample_rate: samples a second, in Hz.

    Raises:
        ValueError: for another shape, more channels than samples, or numbers that are not finite.
    """
    waveform = np.asarray(waveform, np.float64)
    turned = waveform.ndim == 2 and waveform.shape[1] > max(len(waveform), 2)  # [channels, L], as other libraries do
    if waveform.ndim not in (1, 2) or turned or not np.isfinite(waveform).all():
        raise ValueError(
            f"the waveform has the shape {waveform.shape}. Valid: [L] or [L, channels], with finite values"
        )
    content = np.clip(np.round(waveform * 32768), -32768, 32767).astype("<i2").tobytes()
    with files.atomic(pathlib.Path(path)) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(waveform.shape[1] if waveform.ndim == 2 else 1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(content)


def _header(file: BinaryIO, path: str | os.PathLike) -> tuple[Header, int]:
    """The header of a WAV file, and the byte at which its samples begin."""
    refused = lambda why: ValueError(f"{path} is no WAV file of uncompressed whole numbers ({why})")
    stated = None
    held = os.fstat(file.fileno()).st_size
    head = file.read(12)
    if head and (head[:4] != b"RIFF" or head[8:] != b"WAVE"):
        raise refused("it does not begin with RIFF and WAVE")
    for _ in range(CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            raise refused("it is truncated")
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        content = file.read(min(size, 40)) if name == b"fmt " else b""
        if name == b"fmt ":
            stated = _format(content, refused)
        file.seek(size + size % 2 - len(content), os.SEEK_CUR)
    else:
        raise refused(f"it has no samples in its first {CHUNKS:,} chunks")
    if stated is None:
        raise refused("its samples come before their format")
    frame = stated.channels * stated.width
    if size > held - file.tell():
        there = (held - file.tell()) // frame
        raise ValueError(f"{path} is truncated: its header states {size // frame} samples, but it holds {there}")
    return stated._replace(length=size // frame), file.tell()


def _format(content: bytes, refused: Callable[[str], ValueError]) -> Header:
    """The header, without its length, of a chunk "fmt "."""
    if len(content) < 16:
        raise refused("it is truncated")
    code, channels, sample_rate, _, frame, bits = struct.unpack("<HHIIHH", content[:16])
    if code == EXTENSIBLE and content[26:40] == SUBFORMAT:
        code = struct.unpack("<H", content[24:26])[0]
    if code != PCM:
        raise refused(
            f"its format is {code}, {CODES.get(code, 'another one')}. Valid: {PCM}; convert it, e.g. by: sox IN -e "
            "signed OUT"
        )
    width = (bits + 7) // 8
    if not channels or not 1 <= width <= 4 or frame != channels * width:
        raise refused(
            f"it has {channels} channels of {bits} bits in frames of {frame} bytes. Valid: 8, 16, 24 or 32 bits"
        )
    return Header(sample_rate, channels, 0, width)
