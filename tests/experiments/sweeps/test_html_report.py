"""The report of a sweep as a file: what it holds, when it is written anew. What it looks like: test_report_page.py."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from diffusion.experiments.sweeps import embedded_pictures, html_report, naming, sweep_folder, table
from diffusion.experiments.sweeps.html_report import following
from diffusion.experiments.sweeps.results import collect
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, Plan, Record
from tests import commands
from tests.experiments.sweeps import made_sweep
from tests.reliability.driver import until


def embedded(results, part="data"):
    text = (results.directory / "report.html").read_text()
    return json.loads(re.search(f'id="{part}">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture
def small(tmp_path):
    """Two settings of three seeds, and a run with a hostile name."""
    made = made_sweep.samplers(tmp_path, images=False)
    hostile = made.runs[3]._replace(name="</script><script>alert(1)</script>", status="failed", reason="<b>&\u2028")
    return made._replace(runs=[*made.runs[:3], hostile, *made.runs[4:6]])


def test_page_holds_everything_and_asks_for_nothing(small):
    html_report.write(small)
    text = (small.directory / "report.html").read_text()
    assert text.count("<script") == text.count("</script>") == 3 and "{{" not in text
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert "default-src 'none'" in text and not re.search(r"<link[^>]+href=\"(?!data:)|src=\"", text)
    data = embedded(small)
    assert data["runs"][3]["name"] == small.runs[3].name and data["runs"][3]["reason"] == "<b>&\u2028"
    assert [run["command"] for run in data["runs"]] == [run.command for run in small.runs]
    assert data["command"] == small.command and f"--workdir={small.directory}" in data["page_command"]


def test_figures_are_those_of_the_runs(small):
    html_report.write(small)
    data = embedded(small)
    assert data["fields"] == ["sampler", "steps"] and data["seeds"] == ["seed"]
    assert [group["values"] for group in data["groups"]] == [["euler", "1"], ["euler", "2"]]
    for group, runs in zip(data["groups"], (small.runs[:3], small.runs[4:6])):  # the failed run is left out
        values = [run.figures["fd_pixels"].value for run in runs]
        mean, low, high, n, std = group["figures"]["fd_pixels"]
        np.testing.assert_allclose([mean, std], [np.mean(values), np.std(values, ddof=1)], rtol=1e-12)
        assert n == len(values) and low < mean < high
    steps, values = data["runs"][0]["curves"]["loss"]
    np.testing.assert_allclose(list(zip(steps, values)), small.runs[0].measured.curves["loss"], rtol=1e-4)
    of = small.runs[0].figures
    assert data["runs"][0]["figures"]["seconds/total"][0] == sum(of[f"seconds/{x}"].value for x in ("train", "sample"))


def test_settings_whose_values_read_alike_stay_apart(tmp_path):
    """A text keeps letters of English only: the page and the table would take both prompts for one setting."""
    prompts = ("a cat!", "a cat?", "a dog")
    made = [
        made_sweep.run(tmp_path, {"prompt": prompt, "seed": seed}, 1.0, None, False, 5, seed)
        for prompt in prompts
        for seed in (0, 1)
    ]
    names = naming.names([run.overrides for run in made])
    made = [run._replace(name=name) for run, name in zip(made, names)]
    results = made_sweep.results("prompts", ["prompt"], ["seed"], made, tmp_path)
    data = html_report.content(results)
    values = [group["values"] for group in data["groups"]]
    assert len({tuple(row) for row in values}) == 3 and values[2] == ["a-dog"]
    assert all(row[0].startswith("a-cat-") for row in values[:2])
    assert [run["values"] for run in data["runs"]] == [row for row in values for _ in range(2)]
    assert [row for row, *_ in table.table(results).rows] == values


def test_a_field_and_a_seed_of_one_last_word_have_labels_of_their_own(tmp_path):
    made = [
        made_sweep.run(tmp_path, {"sample.seed": noise, "seed": seed}, 1.0, None, False, 5, seed)
        for noise in (7, 8)
        for seed in (0, 1)
    ]
    results = made_sweep.results("noises", ["sample.seed"], ["seed"], made, tmp_path)
    data = html_report.content(results)
    assert data["fields"] == ["sample.seed"] and data["seeds"] == ["seed"]
    assert [group["name"] for group in data["groups"]] == ["sample.seed=7", "sample.seed=8"]
    assert table.table(results).columns == ["sample.seed"]


@pytest.mark.parametrize("version", ["earlier", "now"])
def test_which_way_is_better(tmp_path, version):
    """By what the metrics state; reports of earlier versions do not state it."""
    states = lambda way: {"better": way} if version == "now" else {}
    frechet = {"distance": 1.0, "interval": None, "ratio": 2.0, "ratio_interval": None, **states("lower")}
    accuracy = {"share": 0.5, "interval": [0.4, 0.6], "count": 9, **states("higher")}
    quantiles = {name: {"quantiles": {"0.5": 1.0}, "count": 9} for name in ("samples", "held_out")}
    inception = {"fid": {"value": 1.0, **states("lower")}, "is": {"value": 1.0, **states("higher")}}
    report = {
        "figures": {"asked_class": accuracy, "frechet": {"pixels": frechet}, "neighbours": quantiles},
        "model": {"fidelity": {"value": 1.0, "samples": 9}},
        "inception": {"figures": inception},
    }
    for plan in sweep_of(tmp_path):
        (tmp_path / plan.name / "report.json").write_text(json.dumps(report))
        (tmp_path / plan.name / "samples.json").write_text('{"nfe": 50}')
        (tmp_path / plan.name / "metrics.jsonl").write_text('{"step": 5, "loss": 0.5}')
        sweep_folder.log_event(tmp_path / plan.name, DONE, attempt=1, command=0, seconds=2.5)
    shown = {entry["name"]: entry["better"] for entry in html_report.content(collect(tmp_path))["figures"]}
    lower = dict.fromkeys(("fd_pixels", "fd_pixels_over_floor", "fid", "seconds/train"), "lower")
    neither = dict.fromkeys(("fidelity", "nearest_over_held_out", "nfe", "loss", "step"))
    assert shown == {"asked_class": "higher", "is": "higher", **lower, **neither}


def test_a_metric_says_which_way_is_better_whatever_its_name(tmp_path):
    for plan in sweep_of(tmp_path):
        own = {"warmth": "higher", "density": "lower"}
        model = {name: {"value": 1.0, "samples": 9, "better": way} for name, way in own.items()}
        (tmp_path / plan.name / "report.json").write_text(json.dumps({"model": model | {"cas": {"value": 0.5}}}))
    shown = {entry["name"]: entry["better"] for entry in html_report.content(collect(tmp_path))["figures"]}
    assert shown == {"warmth": "higher", "density": "lower", "cas": None}


def test_a_metric_of_ones_own_is_a_column_by_default(tmp_path):
    """Where it says which values are better, as our own distances do; others are chosen by --figures."""
    model = {"warmth": {"value": 1.0, "samples": 9, "better": "higher"}, "brightness": {"value": 0.5, "samples": 9}}
    for plan in sweep_of(tmp_path):
        (tmp_path / plan.name / "report.json").write_text(json.dumps({"model": model}))
        (tmp_path / plan.name / "samples.json").write_text('{"nfe": 50}')
        sweep_folder.log_event(tmp_path / plan.name, DONE, attempt=1, command=0, seconds=2.5)
    results = collect(tmp_path)
    usual = {entry["name"]: entry["usual"] for entry in html_report.content(results)["figures"]}
    assert usual == {"nfe": True, "warmth": True, "brightness": False, "seconds/train": False}
    assert table.table(results).figures == ["nfe", "warmth"]


def test_written_anew_only_if_something_changed(small):
    first = html_report.write(small)
    page = small.directory / "report.html"
    assert (small.directory / "news.js").read_text() == f'sweepNews("{first}");\n'
    assert embedded(small)["version"] == first
    page.write_text("kept")
    assert html_report.write(small, first) == first and page.read_text() == "kept"
    changed = small._replace(runs=[small.runs[0]._replace(status="running"), *small.runs[1:]])
    second = html_report.write(changed, first)
    assert second != first and embedded(small)["live"] and second in (small.directory / "news.js").read_text()


def test_pictures_are_embedded_once_and_a_torn_one_is_left_out(small, tmp_path):
    good = tmp_path / "good.png"
    torn = tmp_path / "torn.png"
    gone = tmp_path / "gone.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(good)
    torn.write_bytes(good.read_bytes()[:40])
    images = [{"samples": good, "trajectory": torn}, {"samples": gone}, {"samples": good}]
    with_images = lambda run, some: run._replace(measured=run.measured._replace(images=some))
    runs = [with_images(run, some) for run, some in zip(small.runs, images)]
    html_report.write(small._replace(runs=runs))
    assert [run["images"] for run in embedded(small)["runs"]] == [{"samples": 0}, {}, {"samples": 0}]
    (address,) = embedded(small, "pictures")
    assert address.startswith("data:image/png;base64,")


def test_large_pictures_shrink_into_their_share(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, 250, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    monkeypatch.setattr(embedded_pictures, "LARGEST", 20_000)
    (address,) = embedded_pictures.embedded([tmp_path / "noise.png"]).values()
    assert address.startswith("data:image/webp;base64,") and 5_000 < len(address) < 20_000 * 4 / 3 + 40


def sweep_of(folder, commands=1):
    """A sweep's folder with two runs, of which nothing is known yet."""
    plans = [Plan(f"width={width}", {"model.width": width}, [["diffusion", "train"]] * commands) for width in (8, 16)]
    sweep_folder.write(folder, Record("widths", "widths.py", ["model.width"], [], {}, plans))
    for plan in plans:
        (folder / plan.name).mkdir(parents=True)
    return plans


@pytest.mark.extended
def test_command_writes_the_report_of_a_folder(tmp_path):
    first, second = sweep_of(tmp_path)
    sweep_folder.log_event(tmp_path / first.name, DONE, attempt=1, command=0, seconds=2.5)
    (tmp_path / first.name / "metrics.jsonl").write_text('{"step": 5, "loss": 0.5}\n{"step": 10, "loss": 0.25}\n{"st')
    sweep_folder.log_event(tmp_path / second.name, FAILED, attempt=1, command=0, seconds=1.0, reason="error: no space")
    done = commands.run("-m", "experiments.sweep_report", f"--workdir={tmp_path}", "--watch=0.5")  # ends: nothing runs
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(": ")[1] == "1 done, 1 failed\n"
    runs = embedded(collect(tmp_path))["runs"]
    assert runs[0]["curves"]["loss"] == [[5, 10], [0.5, 0.25]] and runs[0]["figures"]["loss"][0] == 0.25
    assert runs[1]["reason"] == "error: no space"


@pytest.mark.extended
def test_report_follows_a_sweep_and_never_stops_it(tmp_path, capsys):
    plan, _ = sweep_of(tmp_path)

    report = tmp_path / "report.html"
    shows = lambda text: lambda: report.exists() and text in report.read_text()
    said = []

    def failed():
        said.append(capsys.readouterr().err)
        return "could not be written" in "".join(said)

    with following(tmp_path, every=0.05):
        until(shows('"status":"queued"'))
        sweep_folder.log_event(tmp_path / plan.name, FAILED, attempt=1, command=0, reason="first words")
        until(shows("first words"))
        (tmp_path / "sweep.json").rename(tmp_path / "away")
        until(failed)
        (tmp_path / "away").rename(tmp_path / "sweep.json")
        sweep_folder.log_event(tmp_path / plan.name, DONE, attempt=2, command=0, seconds=1.0)
    assert embedded(collect(tmp_path))["runs"][0]["status"] == "done"  # written once more at the end
    assert "".join([*said, capsys.readouterr().err]).count("could not be written") == 1
