"""The notes of the sound demo: the files on the page are those that its command writes."""

import pathlib

import numpy as np
import pytest

from diffusion.io import wav
from diffusion.sound import instruments
from examples.sound import notes

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "gallery" / "sound"
STEP = 2.0**-15  # of 16 bits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return notes.write(tmp_path_factory.mktemp("notes") / "new" / "folder")


@pytest.mark.parametrize("name", instruments.NAMES)
def test_a_note_is_that_of_the_page_and_comes_back_from_its_spectrum(folder, name):
    written, rate = wav.read(folder / f"{name}.wav")
    note = notes.clips()[instruments.NAMES.index(name)]
    assert rate == 8000 and written.shape == (4096, 1)
    np.testing.assert_allclose(written[:, 0], np.clip(note, -1, 1), atol=STEP)
    np.testing.assert_allclose(written, wav.read(PAGE / f"{name}.wav")[0], atol=STEP)


def test_the_files_are_those_that_the_command_names(folder):
    files = {f"{name}{end}.wav" for name in instruments.NAMES for end in ("", "_griffin_lim")}
    assert {path.name for path in folder.iterdir()} == files | {"notes.png"}


def test_what_is_made_of_levels_has_the_levels_of_its_note(folder):
    """Nearer than any other note is, of each of the eight."""
    guesses = np.stack([wav.read(folder / f"{name}_griffin_lim.wav")[0][:, 0] for name in instruments.NAMES])
    apart = np.abs(notes.NOTES.levels(guesses)[:, None] - notes.NOTES.levels(notes.clips())).mean((-2, -1))
    assert (apart.argmin(1) == np.arange(8)).all(), apart
