"""Generates notes and a melody with a run of sound/tones, at the pitches of the test split, and judges them.

    diffusion train --config=sound/tones:large --workdir=runs/tones    # on a GPU; sound/tones on two cores
    python -m examples.sound.tones --workdir=runs/tones --out=runs/tones/report

    OUT/notes/NAME.wav      a real note of each instrument, from the test split
    OUT/samples/NAME.wav    a generated note of this instrument, at the same pitch
    OUT/notes.png, samples.png, melody.png
    OUT/melody.wav          a melody of generated notes
    OUT/report.json         the figures of generated notes and of real notes

Without --workdir the command writes only the real notes.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder of sound/tones; without it, only real notes are written")
    flags.DEFINE_string("out", None, "folder for the files, e.g. runs/tones/report")
    flags.DEFINE_integer("number", 176, "number of notes to measure, a multiple of 8", lower_bound=8)
    flags.mark_flag_as_required("out")
    command_line.require_multiple("number", 8)
    command_line.begin()

import json
import pathlib

import jax
import numpy as np

from diffusion import sound
from diffusion.data.sound import instruments
from diffusion.experiments.evaluation import report, sound_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate, trained_run
from diffusion.io import wav
from diffusion.metrics import bootstrap
from diffusion.recipe import ConfigError
from examples.sound import judge, melody

SOUND = sound.Sound(judge.RATE, judge.LENGTH, sound.harmonics_and_rest(gains=(10.0, 4.0)))
"""The sample rate, the length and the representation of the notes of sound/tones."""


class Player:
    """Plays notes of a trained run."""

    def __init__(self, folder: str | pathlib.Path):
        """Loads the moving average of a run.

        Raises:
            ConfigError: if the run's examples are not those of sound/tones.
            WorkdirError, CheckpointError: if there is no run, or no checkpoint.
        """
        self.run = trained_run.load(folder)
        width = getattr(self.run.recipe.network, "vector_width", 0)
        if (self.run.shape, width) != (SOUND.shape, 3):
            raise ConfigError(
                f"{folder} makes examples of the shape {self.run.shape} from {width} numbers of the pitch. Valid: a "
                f"run of sound/tones, whose examples have the shape {SOUND.shape} and 3 such numbers."
            )
        self._make = generate.generator(self.run.recipe)

    def __call__(self, labels: np.ndarray, pitches: np.ndarray, vibratos: np.ndarray, first: int = 0) -> np.ndarray:
        """Generates notes of these instruments at these pitches.

        Args:
            labels: the numbers of the instruments, int `[N]`.
            pitches: the pitches in Hz, `[N]`.
            vibratos: the depth of each vibrato as a share of the pitch, and its rate in Hz, `[N, 2]`.
            first: the seed of the first note; the other notes have the next seeds.

        Returns:
            float `[N, L]`.
        """
        fundamentals = [instruments.fundamental(label, pitch) for label, pitch in zip(labels, pitches, strict=True)]
        condition = SOUND.pitch_condition(fundamentals, vibratos)
        seeds = np.arange(first, first + len(labels), dtype=np.uint32)
        inputs = jax.tree.map(np.asarray, {"label": np.asarray(labels, np.int32), **condition})
        x = generate.checked_images(self._make, self.run.config, self.run.params, inputs, seeds)
        return SOUND.waveform(np.asarray(x, np.float32), condition=condition)


def write_notes(waveforms: np.ndarray, out: pathlib.Path, name: str) -> None:
    """Writes a note of each instrument, `[8, L]`, as OUT/NAME/INSTRUMENT.wav, and a figure of them, OUT/NAME.png."""
    (out / name).mkdir(parents=True, exist_ok=True)
    sound_files.draw(SOUND, waveforms, np.arange(len(waveforms)), instruments.NAMES, out / f"{name}.png")
    for instrument, waveform in zip(instruments.NAMES, waveforms, strict=True):
        wav.write(out / name / f"{instrument}.wav", waveform, SOUND.sample_rate)


def measure(play: Player, number: int) -> dict:
    """The figures of generated notes at the pitches of the test split, of its real notes, and of broken notes.

    Args:
        play: the player of a run.
        number: the number of notes, a multiple of 8.
    """
    net = judge.trained_judge()
    real = judge.real_notes(1, number)
    notes = real._replace(waveforms=play(real.labels, real.pitches, real.vibratos))
    refused = judge.classifier.predict(net, judge.pictures(judge.broken_notes(real, seed=1))) == judge.NONE
    return {
        "samples": judge.measured(net, notes),
        "real_notes": judge.measured(net, real),
        "broken_notes_refused": bootstrap.share(refused),
        "judge_sha256": net.digest,
    }


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = pathlib.Path(flags.FLAGS.out).expanduser()
    real = judge.real_notes(1, len(instruments.NAMES))
    write_notes(real.waveforms, out, "notes")
    if not flags.FLAGS.workdir:
        return
    play = Player(flags.FLAGS.workdir)
    write_notes(play(real.labels, real.pitches, real.vibratos), out, "samples")
    tune = melody.played(lambda labels, pitches: play(labels, pitches, melody.vibratos(labels), first=1000))
    wav.write(out / "melody.wav", tune, SOUND.sample_rate)
    melody.draw(tune, SOUND.sample_rate, out / "melody.png")
    figures = report.software() | measure(play, flags.FLAGS.number)
    (out / "report.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
