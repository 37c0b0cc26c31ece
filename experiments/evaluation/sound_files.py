"""Files of the samples of a run on sound: WAV files, and a picture of waveforms and spectrograms."""

import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from diffusion.data.sound import Sound, stft
from diffusion.experiments.evaluation.plots import BLUE, blank, save
from diffusion.io import files, wav

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 8  # the most clips in the picture
EACH = 3  # the most WAV files of a class


def write(
    sound: Sound, waveforms: np.ndarray, labels: np.ndarray, names: tuple[str, ...], folder: pathlib.Path
) -> pathlib.Path:
    """Writes the first samples of each class as WAV files into the folder "sounds", in place of earlier ones.

    Args:
        sound: the form of the samples.
        waveforms: the waveforms, float32 `[N, L]`.
        labels: the classes of the samples, int `[N]`.
        names: the names of the classes; () for samples without classes.
        folder: the folder of the run's samples.

    Returns:
        The folder "sounds".
    """
    rows_by_name = {"clip": np.arange(len(labels))[:COLUMNS]}
    if names:
        rows_by_name = {names[label]: np.flatnonzero(labels == label)[:EACH] for label in np.unique(labels)}
    with files.whole_folder(folder / "sounds") as out:
        for name, rows in rows_by_name.items():
            for number, row in enumerate(rows):
                wav.write(out / files.file_name(f"{name}_{number}.wav"), waveforms[row], sound.sample_rate)
    return folder / "sounds"


def draw(
    sound: Sound, waveforms: np.ndarray, labels: np.ndarray, names: tuple[str, ...], path: str | os.PathLike
) -> None:
    """Draws a sample of each class, or the first samples: the waveform, and below it the spectrogram (-80 to 0 dB)."""
    rows = np.unique(labels, return_index=True)[1] if names else np.arange(len(waveforms))
    rows = rows[:COLUMNS]
    figure = blank(1.7 * len(rows), 3.4, layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False)
    seconds = sound.length / sound.sample_rate
    for column, row in enumerate(rows):
        waveform = waveforms[row]
        top, bottom = axes[:, column]
        top.plot(np.linspace(0, seconds, len(waveform)), waveform, color=BLUE, linewidth=0.4)
        top.set(xlim=(0, seconds), ylim=(-1, 1), title=names[labels[row]] if names else f"clip {row}")
        spectrogram(bottom, waveform, sound.sample_rate, 256, 32, sound.sample_rate / 2)
        for panel in (top, bottom):
            panel.tick_params(labelsize=7)
            panel.title.set_fontsize(9)
            if column:
                panel.set_yticklabels([])
    axes[1, 0].set_ylabel("kHz")
    save(figure, path)


def spectrogram(axes: "Axes", waveform: np.ndarray, sample_rate: int, window: int, hop: int, highest: float) -> None:
    """Draws the spectrogram of a waveform from -80 to 0 dB.

    Args:
        axes: the axes of the picture.
        waveform: the waveform, float `[L]`.
        sample_rate: the sample rate in Hz.
        window: the number of samples of a window.
        hop: the number of samples between the starts of two windows.
        highest: the highest frequency to show, in Hz; at most half the sample rate.
    """
    levels = np.abs(stft(np.pad(waveform, (0, -len(waveform) % hop)), window, hop))
    decibels = 20 * np.log10(np.maximum(levels, 1e-4)).T[: 1 + int(highest * window / sample_rate)]
    extent = (0, len(waveform) / sample_rate, 0, highest / 1000)
    axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=0, cmap="magma")
    axes.set(xlabel="s")
