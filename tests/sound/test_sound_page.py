"""docs/sound.md: its code runs, and says what it shows."""

import pathlib
import re

import numpy as np

from diffusion.io import wav

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "sound.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    np.testing.assert_allclose(names["again"], names["notes"], atol=1e-5)
    assert names["spectrum"].shape == (8, 32, 64) and names["levels"].shape == (32, 40)
    guess = wav.read(tmp_path / "pluck.wav")[0][:, 0]
    heard = names["sound"].log_mel(guess, 8000, mels=40, window=256, hop=64)
    assert np.abs(heard - names["levels"]).mean() < 0.1  # of 100 dB
