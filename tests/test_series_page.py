"""docs/series.md: its Python runs, and its commands name recipes and sources that are read as it says."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from diffusion.data import series_masks
from diffusion.package import commands
from diffusion.recipe import checks, data, recipes

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "series.md").read_text()


def test_the_ten_lines_score_exact_forecasts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for part in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(part, namespace)
    assert namespace["score"] == pytest.approx(namespace["exact"], rel=0.15)
    assert 0.5 < namespace["covered"] <= 1  # of 16 correlated points; tests/metrics/test_crps.py has the share
    with np.load("mine.npz") as file:
        series_masks.check(file)
        assert file["given"].shape == (1, 48, 1)


def parsed(words):
    """The config of a command, by the parser of the command line."""
    assert words[0] == "diffusion" and words[1] in commands.purposes()
    named = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    config = recipes.load(*named or ["series/imputation"])
    changes = [words[1], *(word for word in words if word.startswith("--config."))]
    values = flags.FlagValues()
    free = {"lock_config": False, "accept_new_attributes": True}  # as the commands have it
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=changes, **free)
    assert values(changes) == changes[:1]
    return values.config


def test_the_sources_of_the_commands_open_a_table_with_gaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(300, 2))
    rows = [f"{i},{a},{'' if i % 97 == 5 else b}" for i, (a, b) in enumerate(values)]
    pathlib.Path("load.csv").write_text("\n".join(["hour,load,price", *rows]))
    found = {}
    for line in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for words in map(shlex.split, line.replace("\\\n", " ").strip().splitlines()):
            config = parsed(words)
            if config.data.source.name == "series_windows":
                source = data.source(config, "train")
                recipe = checks.validate(config)
                checks.with_data(recipe, source.spec) if words[1] == "train" else checks.on_its_data(recipe)
                found[config.data.source.hide.name] = [source[row]["condition"]["real"] for row in range(len(source))]
    assert len(found["gaps"]) == 193  # of 240 steps
    assert sum(real[0, 1] for real in found["missing"]) == 3  # at 5, 102 and 199; windows begin at 0 to 252
