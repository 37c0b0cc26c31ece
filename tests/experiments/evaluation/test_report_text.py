"""Numbers as text: tables, shares, means with their errors, and what produced them."""

import json
import subprocess

import jax
import numpy as np
import pytest

from diffusion.experiments.evaluation import report
from diffusion.experiments.evaluation.figures import Figure


def test_a_table_of_markdown():
    assert report.table(("a", "b"), [(1, None), ("x", 2.5)]) == "| a | b |\n| --- | --- |\n| 1 | None |\n| x | 2.5 |"
    assert report.table(("a", "b"), [("two\nlines", "")]) == "| a | b |\n| --- | --- |\n| two lines |  |"
    assert report.table(("of", "E|X|"), []) == "| of | E\\|X\\| |\n| --- | --- |"


def test_a_report_is_two_files(tmp_path):
    content = report.write(tmp_path, {"a": (np.float32(1.0),)}, lambda content: f"# {content}")
    assert content == {"a": [1.0]}
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": [1.0]}
    assert (tmp_path / "report.json").read_text() == '{\n  "a": [\n    1.0\n  ]\n}\n'
    assert (tmp_path / "report.md").read_text() == "# {'a': [1.0]}"


@pytest.mark.parametrize(
    "figure, text",
    [
        (None, "—"),
        (Figure(1.23456), "1.235"),
        (Figure(1.23456, 1.1, 1.3), "1.235 (1.1 to 1.3)"),
        (Figure(1.23456, 1.1, 1.3, 3, 0.0421), "1.235 ± 0.042 (1.1 to 1.3)"),
        (Figure(12345.6, std=0.0), "1.235e+04 ± 0"),
    ],
)
def test_a_figure_of_a_cell(figure, text):
    assert report.cell(figure) == text


def test_shares_errors_and_spans():
    assert report.percent({"share": 0.9712, "interval": (0.952, 0.983)}) == "97.1% (95.2% to 98.3%)"
    assert report.with_error({"value": 0.97123, "standard_error": 0.0123}) == "0.9712 ± 0.012"
    assert report.with_error({"value": 0.97123, "standard_error": None}) == "0.9712"
    assert report.span((1.2345, 1.4)) == " (1.23 to 1.4)" and report.span((1.2345, 1.4), ".1f") == " (1.2 to 1.4)"
    assert report.span(None) == ""


def test_rows_of_metrics():
    metrics = {
        "a": {"value": 1.2345678, "standard_error": 0.0321, "samples": 1000, "reference": 50000, "space": "Inception"},
        "b": {"value": 2.0, "standard_deviation": 0.123, "samples": 10, "size": 1000},
        "c": {"value": 3.0, "standard_error": None, "interval": [2.5, 3.5], "samples": 10},
        "d": {"value": None, "why": "value not measured: why"},
        "e": {"value": None},
        "f": {"value": 4.0, "samples": 7, "reference": 0, "space": ""},
    }
    assert report.metric_rows(metrics) == [
        ("a", "1.2346 ± 0.032", "1,000 samples against 50,000, Inception"),
        ("b", "2 (sd 0.12)", "10 samples, subsets of 1,000"),
        ("c", "3 (2.5 to 3.5)", "10 samples"),
        ("d", "—", "value not measured: why"),
        ("e", "—", "value not finite"),
        ("f", "4", "7 samples"),
    ]


def test_pictures_that_are_there_are_embedded(tmp_path):
    (tmp_path / "b.png").write_bytes(b"")
    assert report.pictures(tmp_path, {"a.png": "A", "b.png": "B"}) == ["![B](b.png)\n*B.*"]


def test_a_printed_table_is_not_cut_in_a_file(capsys):
    long = "x" * 150
    report.show("Title", ("name", "value"), [(long, 1), ("[red]", 2)])
    printed = capsys.readouterr().out
    assert long in printed and "[red]" in printed and printed.splitlines()[0].strip() == "Title"


def test_the_commit_of_this_code_or_none(monkeypatch):
    commands, outputs = [], []

    def run(words, **settings):
        commands.append(words[3:])
        assert settings["timeout"] > 0 and settings["capture_output"] and settings["text"]
        return subprocess.CompletedProcess(words, 0, outputs.pop(0), "")

    monkeypatch.setattr(report.subprocess, "run", run)
    for changed, expected in (("", "abc"), (" M a\n", "abc-dirty")):
        outputs += ["abc\n", changed]
        assert report.git_commit() == expected
    assert commands == [["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"]] * 2
    for error in (OSError("no git"), subprocess.CalledProcessError(128, "git"), subprocess.TimeoutExpired("git", 10)):

        def fails(*words, error=error, **settings):
            raise error

        monkeypatch.setattr(report.subprocess, "run", fails)
        assert report.git_commit() is None


def test_what_measures_is_said():
    said = report.software()
    assert said["versions"]["jax"] == jax.__version__ and said["device"] == jax.devices()[0].device_kind
    assert set(said["versions"]) == {"python", *report.PACKAGES} and report.version("no such package") is None


def test_rows_of_distances_and_copies():
    frechet = {"distance": 12.34, "floor": {"mean": 5.678, "std": 0.123}, "ratio": 2.1733, "noise": 400.0}
    assert report.frechet_row("pixels", frechet, ".1f") == (
        "Frechet distance (pixels)", "12.3", "floor 5.7 ± 0.12, 2.17 times; noise 400.0",
    )  # fmt: skip
    shares = {"1": 0.0123, "5": 0.0678}
    copies = {"share_below_held_out_percentile": shares, "samples": {"exact_duplicates": 3, "count": 2000}}
    assert report.copies_row("held-out images", copies) == (
        "nearer to training pictures than 1 % / 5 % of held-out images", "1.2% / 6.8%", "exact copies 3 of 2,000",
    )  # fmt: skip
    intervals = {"1": [0.0, 0.0345], "5": [0.04, 0.1]}
    beside = copies | {"interval_below_held_out_percentile": intervals}
    assert report.nearer(beside) == "1.2% (0.0% to 3.5%) / 6.8% (4.0% to 10.0%)"
    table = report.beside_table([("a", "1", "b"), ("c", "2", "d|e")]).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (table[0], *table[2:])] == [
        ["", "model", "beside"], ["a", "**1**", "b"], ["c", "**2**", r"d\|e"],
    ]  # fmt: skip
