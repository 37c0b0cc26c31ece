"""FDr^k of records: the mean ratio of distances by hand, and records that do not belong together."""

import copy
import json

import numpy as np
import pytest

from diffusion.experiments.evaluation import records, representation_ratios
from diffusion.recipe import ConfigError
from tests import commands


def record(path, protocol, value, error=0.0, **changes):
    """A record of a distance, with the fields that a ratio reads."""
    name = "fid" if protocol == "adm" else "fd"
    content = {
        "format": records.FORMAT,
        "figures": {name: {"value": value, "standard_error": error, "samples": 400}},
        "protocol": {"name": protocol},
        "samples": {"sha256": path.name.split(".")[0]},
        "reference": {"fingerprint": "train", "sha256": None},
        "weights": {"sha256": protocol},
        "request": {},
    }
    content |= copy.deepcopy(changes)
    records.write(path, {**content, "sha256": records._digest(content)})
    return path


@pytest.fixture
def four(tmp_path):
    samples = [record(tmp_path / "a.fid", "adm", 12.0, 0.6), record(tmp_path / "a.fdd", "dgm-eval", 150.0, 4.0)]
    floors = [record(tmp_path / "b.fid", "adm", 4.0, 0.1), record(tmp_path / "b.fdd", "dgm-eval", 100.0, 3.0)]
    return samples, floors


def test_the_mean_of_the_ratios(four):
    samples, floors = four
    content = representation_ratios.measure(samples, floors[::-1])
    figure = content["figures"]["fdr"]
    assert figure["value"] == pytest.approx((3 + 1.5) / 2) and (figure["k"], figure["samples"]) == (2, 400)
    first = 3 * np.hypot(0.6 / 12, 0.1 / 4)  # relative errors add in squares
    second = 1.5 * np.hypot(4 / 150, 3 / 100)
    assert content["spaces"]["adm"]["standard_error"] == pytest.approx(first)
    assert figure["standard_error"] == pytest.approx((first + second) / 2)
    assert len(content["records"]) == 4 and all(len(digest) == 64 for digest in content["records"].values())


def test_records_that_do_not_belong_together(four, tmp_path):
    samples, floors = four
    with pytest.raises(ConfigError, match=r"--ratio has records under adm, dgm-eval, but --floors under adm\. Valid"):
        representation_ratios.measure(samples, floors[:1])
    with pytest.raises(ConfigError, match=r"two records under adm\. Valid: one record for each space"):
        representation_ratios.measure([*samples, record(tmp_path / "a.2", "adm", 1.0)], floors)
    with pytest.raises(ConfigError, match="the records under adm and dgm-eval differ in their samples"):
        representation_ratios.measure([samples[0], record(tmp_path / "c.fdd", "dgm-eval", 1.0)], floors)
    for changes, message in (
        ({"reference": {"fingerprint": "test"}}, r"dgm-eval:.*different reference \(train, test"),
        ({"weights": {"sha256": "x"}}, r"weights \(dgm-eval, x\)\. Measure"),
        (
            {"figures": {"fd": {"value": 1.0, "standard_error": 1.0, "samples": 300}}},
            "400 samples but 300 held-out images",
        ),
        ({"figures": {"fd": {"value": None}}}, r"no Frechet distance\..*it with --metrics=fid"),
        ({"figures": {"fd": {"value": 0.0, "standard_error": 0.0, "samples": 400}}}, "Valid: a positive number"),
    ):
        other = record(tmp_path / "b.other", "dgm-eval", 1.0, **changes)
        with pytest.raises(ConfigError, match=message):
            representation_ratios.measure(samples, [floors[0], other])
    floors[0].write_text(floors[0].read_text().replace("4.0", "9.0"))
    with pytest.raises(records.ResultError, match="was altered"):
        representation_ratios.measure(samples, floors)


@pytest.mark.slow
def test_the_command(four, tmp_path):
    words = [",".join(map(str, paths)) for paths in four]
    flags = [f"--ratio={words[0]}", f"--floors={words[1]}", f"--out={tmp_path / 'fdr.json'}"]
    done = commands.run("diffusion", "evaluate", *flags)
    assert done.returncode == 0 and "FDr^2 of 400 samples" in done.stdout and "2.25" in done.stdout, done.stderr
    assert json.loads((tmp_path / "fdr.json").read_text())["figures"]["fdr"]["value"] == pytest.approx(2.25)
    done = commands.run("diffusion", "evaluate", flags[0])
    assert done.returncode == 2 and "--floors under none" in done.stderr


def test_the_table_shows_each_ratio_with_its_error_where_it_has_one(capsys):
    space = {"distance": 12.0, "floor": 4.0, "ratio": 3.0, "standard_error": 0.25}
    figure = {"value": 2.25, "standard_error": None, "samples": 4000, "k": 2}
    spaces = {"adm": space, "own": {**space, "standard_error": None}}
    representation_ratios.show({"spaces": spaces, "figures": {"fdr": figure}})
    out = capsys.readouterr().out
    assert "FDr^2 of 4,000 samples" in out
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["adm", "12", "4", "3", "±", "0.25"] in lines and ["own", "12", "4", "3"] in lines
    assert ["mean", "2.25"] in lines
