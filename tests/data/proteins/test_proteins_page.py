"""docs/proteins.md: its code runs, and says what it shows."""

import pathlib
import re

import numpy as np
import pytest

from diffusion.data.proteins import pdb

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "proteins.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    assert names["losses"].shape == (1,) and np.isfinite(names["losses"]).all()
    names["space"].check(names["sample"])
    written = pdb.load(tmp_path / "sample.pdb")
    np.testing.assert_allclose(written[:, :3], names["backbone"].atoms_of(names["sample"])[0], atol=1e-3)
