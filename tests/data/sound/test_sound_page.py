"""docs/sound.md: its code runs, and says what it shows."""

import pathlib
import re

import numpy as np
import pytest

from diffusion.io import wav

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "sound.md"


@pytest.mark.extended
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    np.testing.assert_allclose(names["again"], names["waveforms"], atol=1e-5)
    assert names["x"].shape == (8, 328, 64) and names["levels"].shape == (128, 40)
    organ = names["notes"][1].pitch
    assert abs(names["sound"].cents(names["pitch"], organ)) < 20
    guess = wav.read(tmp_path / "pluck.wav")[0][:, 0]
    heard = names["sound"].log_mel(guess, 16000, mels=40, window=512, hop=128)
    assert np.abs(heard - names["levels"]).mean() < 0.1  # of 100 dB
