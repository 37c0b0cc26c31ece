"""docs/series.md: its Python runs, and its commands name recipes and sources that are read as it says."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from diffusion.data import given_series
from diffusion.experiments.config import checks, data, recipes

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "series.md").read_text()


def test_the_ten_lines_score_exact_forecasts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for part in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(part, namespace)
    assert namespace["score"] == pytest.approx(namespace["exact"], rel=0.15)
    assert 0.5 < namespace["covered"] <= 1
    with np.load("mine.npz") as file:
        given_series.check(file)
        assert file["given"].shape == (1, 48, 1)


def test_the_sources_of_the_commands_open_a_table_with_gaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(300, 2))
    rows = [f"{i},{a},{'' if i % 97 == 5 else b}" for i, (a, b) in enumerate(values)]
    pathlib.Path("load.csv").write_text("\n".join(["hour,load,price", *rows]))
    found = {}
    for line in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for words in map(shlex.split, line.replace("\\\n", " ").strip().splitlines()):
            flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
            config = recipes.load(flags.get("config", "series/imputation"))
            if entry := flags.get("config.data.source"):
                config.data.source = json.loads(entry)
                source = data.source(config, "train")
                checks.with_data(checks.validate(config), source.spec)
                found[config.data.source.hide.name] = [source[row]["condition"]["real"] for row in range(len(source))]
    assert len(found["gaps"]) == 193  # of 240 steps
    assert sum(real[0, 1] for real in found["missing"]) == 3  # at 5, 102 and 199; windows begin at 0 to 252
