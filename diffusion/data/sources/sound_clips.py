"""Sources of sound: notes of synthetic instruments, computed when read, and clips of a folder of WAV files."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.data import identities
from diffusion.data.sound import forms, instruments as notes
from diffusion.data.sources import sequences, splits, table_records
from diffusion.data.sources.spec import Derived, Leaf, Source
from diffusion.io import wav

SEED = 2029
OTHERS = (".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".au", ".wma")


def instruments(
    split: str = "train",
    *,
    number: int = 4000,
    sample_rate: int = 8000,
    length: int = 4096,
    form: forms.Form | None = None,
    vibrato: bool = False,
    mels: int = 0,
    window: int = 256,
    hop: int = 64,
    shaped: bool = False,
) -> "Sounds":
    """Opens notes of eight synthetic instruments, see `sound.instruments`; a record is a function of its row and split.

    Args:
        split: "train" or "test", which share no note.
        number: how many notes there are, at least 1; the instruments take turns.
        sample_rate: samples a second, at least 2000 Hz.
        length: samples of a clip.
        form: the form of an example, `sound.samples`, `sound.lapped_spectrum` or `sound.harmonics_and_rest`, which
            has the class and the pitch in a record's condition, see `sound.Sound.pitch_condition`; None for samples.
        vibrato: whether that condition also states the vibrato, which the carriers of the harmonics follow, with the
            fundamental of the partials in place of the pitch.
        mels: number of bands of the levels, a record's condition "spectrogram"; 0 for records with a class instead.
        window, hop: length of a window of the levels, and the distance of two windows, in samples.
        shaped: whether clips are flattened by the levels, see `sound.shaping`.

    Raises:
        ValueError: for another split, sizes out of range or that do not fit, or a vibrato without a form that reads the
            pitch.
    """
    sequences.check_made("instruments", split, number)
    if sample_rate < 2000:
        raise ValueError(f"sample_rate = {sample_rate}. Valid: at least 2000 Hz")
    if length < 3:
        raise ValueError(f"length = {length}. Valid: at least 3 samples, the length of the filter of a flute's breath")
    sound = forms.Sound(sample_rate, length, form or forms.samples(), mels, window, hop, shaped)
    sound.check()
    if vibrato and not sound.form.pitched:
        raise ValueError("vibrato = True: only a form with a pitch has a vibrato. Valid: sound.harmonics_and_rest")

    def make(row: int) -> dict[str, Any]:
        note = notes.clip((SEED, sequences.SPLITS.index(split), row), sample_rate, length)
        record: dict[str, Any] = {"x": note.waveform, "label": note.label}
        if sound.form.pitched:
            fundamental = notes.fundamental(note.label, note.pitch)
            stated = (fundamental, note.vibrato) if vibrato else (note.pitch,)
            record["condition"] = {"label": np.int32(note.label), **sound.pitch_condition(*stated)}
        return record

    records = sequences.Records(sequences.Computed(number, make), len(notes.NAMES), split)
    records.spec = records.spec._replace(name="instruments", classes=notes.NAMES)
    return Sounds(records, sound, kept=True)


def wav_folder(
    path: str,
    split: str = "train",
    *,
    sample_rate: int,
    length: int,
    form: forms.Form | None = None,
    mels: int = 0,
    window: int = 256,
    hop: int = 64,
    shaped: bool = False,
) -> "Sounds":
    """Opens the mono WAV files of a folder, cut into clips; the name of a class folder is the label of its files.

    Args:
        path: the folder, with FOLDER/CLASS/sound.wav or FOLDER/sound.wav, and with FOLDER/train or FOLDER/CLASS/train
            where there are splits; or one file, or a pattern such as FOLDER/a*.wav.
        split: the split, or a part such as "train[:90%]".
        sample_rate: samples a second of all files, in Hz.
        length: samples of a clip; a longer file is cut into several, and the samples that remain are left out.
        form: the form of an example, `sound.samples` or `sound.lapped_spectrum`; None for samples.
        mels, window, hop, shaped: the levels in the condition of a record, as in `instruments`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a form that reads the pitch; if the folder holds no WAV files, or one that does not fit; the
            message names the file and the remedy.
    """
    sound = forms.Sound(sample_rate, length, form or forms.samples(), mels, window, hop, shaped)
    sound.check()
    if sound.form.pitched:
        raise ValueError(
            "form: this form needs the pitch, which WAV files do not state. Valid: samples, lapped_spectrum"
        )
    return Sounds(table_records.Records(_WavFiles(path, split, sample_rate, length), split), sound)


class Sounds(Derived):
    """Clips in the form of examples; a `Source`.

    Attributes:
        sound: the form of the examples, and the way back to a waveform.
    """

    def __init__(self, of: Source, sound: forms.Sound, kept: bool = False):
        """Brings the records of a source, {"x": float32 `[L]`}, into a form; records with levels have no class.

        Args:
            of: the source of the waveforms.
            sound: the form of the examples.
            kept: whether each example stays in memory once it is made.
        """
        super().__init__(of)
        self._record = functools.cache(self._made) if kept else self._made
        self.sound = sound
        self.spec = of.spec._replace(shape=sound.shape)
        if sound.mels:
            levels = {"spectrogram": Leaf(sound.condition_shape, "float32")}
            self.spec = self.spec._replace(num_classes=0, classes=(), condition=levels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record.

        Raises:
            DamagedRecord: if the source raises it.
        """
        return dict(self._record(int(row)))

    def identities(self) -> np.ndarray | None:
        """The identities of the clips in their files, see `data.identities`."""
        return identities.stated(self._of)

    def _made(self, row: int) -> dict[str, Any]:
        record = dict(self._of[row])
        waveform = np.asarray(record["x"])
        record["x"] = np.asarray(self.sound.example(waveform, record.get("condition")), np.float32)
        if self.sound.mels:
            levels = self.sound.condition(self.sound.levels(waveform))
            record["condition"] = {"spectrogram": np.asarray(levels, np.float32)}
            record.pop("label", None)
        return record


class _WavFiles:
    """The clips of WAV files as a table.

    Every header is read at once, so that a file that does not fit is reported before a run. A file that is cut short is
    reported when its samples are read.
    """

    def __init__(self, path: str, split: str, sample_rate: int, length: int):
        self._files, self._classes, self.where, self.name = splits.class_files(
            path, (".wav",), splits.parse(split).base
        )
        splits.warn_of_formats(self.where, "sounds", OTHERS, (".wav",))
        self._length = length
        self._within = splits.within(self.where)
        self._clips: list[tuple[int, int]] = []
        for number, file in enumerate(self._files):
            count = _clips_of(file, self._within, sample_rate, length)
            self._clips += [(number, length * clip) for clip in range(count)]
        self.columns: tuple[str, ...] = ("x", "label") if self._classes else ("x",)

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        def clip(row: int) -> np.ndarray:
            number, start = self._clips[row]
            return wav.read(self._files[number], start, self._length, self._within)[0][:, 0]

        return [{name: clip(row) if name == "x" else self._label(row) for name in columns} for row in rows]

    def place(self, row: int) -> str:
        number, start = self._clips[row]
        return f"{self._files[number]}, from sample {start}"

    def column(self, name: str) -> Sequence[Any]:
        return [self._label(row) for row in range(len(self))]

    def stamp(self) -> Any:
        return table_records.stamp_of(self._files)

    def _label(self, row: int) -> str:
        return self._classes[self._clips[row][0]]


def _clips_of(file: Any, within: Any, sample_rate: int, length: int) -> int:
    """The number of clips of a file.

    Raises:
        ValueError: if it is of another sample rate, not mono, empty, or shorter than a clip.
    """
    header = wav.header(file, within)
    if header.channels != 1:
        raise ValueError(f"{file} has {header.channels} channels. Valid: mono; convert it, e.g. by: sox IN -c 1 OUT")
    if header.sample_rate != sample_rate:
        raise ValueError(
            f"{file} has {header.sample_rate} samples a second, but sample_rate = {sample_rate}. Valid: files of one "
            f"rate; resample it, e.g. by: sox IN -r {sample_rate} OUT; or set sample_rate = {header.sample_rate}"
        )
    if header.length < length:
        state = "is empty" if not header.length else f"has {header.length} samples, fewer than length = {length}"
        raise ValueError(f"{file} {state}. Valid: at least {length}; remove the file, or set a smaller length")
    return header.length // length
