"""WAV files of uncompressed sound: read as numbers in [-1, 1], written whole."""

__all__ = ["Header", "header", "read", "write"]

import os
import pathlib
import wave
from typing import NamedTuple

import numpy as np

from diffusion.io import files


class Header(NamedTuple):
    """What a WAV file says of itself.

    Attributes:
        sample_rate: in Hz.
        channels: 1 for mono.
        length: samples of each channel.
        width: bytes of a sample, 1 to 4.
    """

    sample_rate: int
    channels: int
    length: int
    width: int


def header(path: str | os.PathLike) -> Header:
    """What a WAV file says of itself; its samples are not read.

    Raises:
        ValueError: if it is no WAV file of whole numbers.
        OSError: if it cannot be read.
    """
    try:
        with wave.open(os.fspath(path), "rb") as file:
            return Header(file.getframerate(), file.getnchannels(), file.getnframes(), file.getsampwidth())
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is no WAV file of uncompressed whole numbers ({str(error) or 'it is cut short'})"
        ) from None


def read(path: str | os.PathLike, start: int = 0, length: int | None = None) -> tuple[np.ndarray, int]:
    """Samples of a WAV file of 8, 16, 24 or 32 bits.

    Args:
        path: of the file.
        start: first sample.
        length: number of samples; None for all that follow.

    Returns:
        (float32 `[length, channels]` in [-1, 1), the sample rate in Hz).

    Raises:
        ValueError: as `header`, or if the file ends before these samples.
        OSError: if it cannot be read.
    """
    about = header(path)
    length = about.length - start if length is None else length
    with wave.open(os.fspath(path), "rb") as file:
        if not 0 <= start <= start + length <= about.length:
            raise ValueError(f"{path} has {about.length} samples, and {start} to {start + length} were requested")
        file.setpos(start)
        content = file.readframes(length)
    if len(content) != length * about.channels * about.width:
        raise ValueError(f"{path} is cut short: its header says {about.length} samples")
    if about.width == 1:  # the only width without a sign
        numbers = (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    else:
        wide = np.zeros((length * about.channels, 4), np.uint8)
        wide[:, 4 - about.width :] = np.frombuffer(content, np.uint8).reshape(-1, about.width)
        numbers = wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
    return numbers.reshape(length, about.channels), about.sample_rate


def write(path: str | os.PathLike, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes a mono WAV file of 16 bits, whole or not at all.

    Args:
        path: of the file.
        waveform: `[L]`; what lies outside of [-1, 1] is cut off.
        sample_rate: in Hz.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    waveform = np.asarray(waveform, np.float64)
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise ValueError(f"a waveform of shape {waveform.shape}. Valid: [L], finite")
    content = np.clip(np.round(waveform * 32768), -32768, 32767).astype("<i2").tobytes()
    with files.whole(pathlib.Path(path)) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        sound.writeframes(content)
