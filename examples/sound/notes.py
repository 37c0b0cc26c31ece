"""Writes a note of each instrument as WAV files, the same from its 40 mel bands alone, and a picture of the notes.

    python -m examples.sound.notes --out=runs/notes

    OUT/NAME.wav                a note that has gone through the lapped spectrum (MDCT) and back
    OUT/NAME_griffin_lim.wav    what Griffin and Lim's method makes of the note's levels, which have no phases
    OUT/notes.png               waveforms, and spectrograms up to 4 kHz

The notes are rows 0 to 7 of the test split of `sound/spectrum` and its like, half a second each. A run on such notes is
trained, sampled and judged by commands for any sound; README.md has them.
"""

from absl import flags

from diffusion.experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder of the files, e.g. runs/notes")
    flags.mark_flag_as_required("out")
    command_line.begin()

import pathlib

import numpy as np

from diffusion import sound
from diffusion.experiments.evaluation import sound_files
from diffusion.experiments.run_folder import workdir
from diffusion.io import wav
from diffusion.sound import instruments

SEED, TEST = 2029, 1  # of the recipes' data, and their split: the first numbers of a clip
NOTES = sound.Sound(sample_rate=8000, length=4096, form=sound.lapped_spectrum(), mels=40)
"""What the clips are: their rate, their form as examples, and the bands of their levels."""


def clips() -> np.ndarray:
    """A note of each instrument, float32 [8, 4096] in [-1, 1]."""
    rows = range(len(instruments.NAMES))
    return np.stack([instruments.clip((SEED, TEST, row), NOTES.sample_rate, NOTES.length)[0] for row in rows])


def write(out: str | pathlib.Path) -> pathlib.Path:
    """Writes the notes, what is heard of their levels, and their picture.

    Args:
        out: folder of the files, made if missing.

    Returns:
        The folder.
    """
    out = pathlib.Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    notes = clips()
    again = NOTES.waveform(NOTES.form.example(notes))
    sound_files.draw(NOTES, again, np.arange(len(notes)), instruments.NAMES, out / "notes.png")
    for name, note, waveform in zip(instruments.NAMES, notes, again, strict=True):
        wav.write(out / f"{name}.wav", waveform, NOTES.sample_rate)
        guess = sound.griffin_lim(NOTES.levels(note), NOTES.sample_rate, NOTES.window, NOTES.hop)
        wav.write(out / f"{name}_griffin_lim.wav", guess, NOTES.sample_rate)
    return out


def main(argv: list[str]) -> None:
    """Runs the command line."""
    print(write(flags.FLAGS.out))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
