"""The report of a run from numbers written by hand: which of them each row, note and command shows."""

import pytest

from diffusion.experiments.evaluation import report, run_report
from diffusion.recipe import extensions
from diffusion.recipe.values import config_hash

ACCURACY = {
    "share": 0.9, "interval": (0.85, 0.94), "count": 1200, "classifier_sha256": "0123456789abcdef",
    "real": {"share": 0.97}, "by_class": {str(label): 1.0 for label in range(10)},
}  # fmt: skip
DISTANCE = {
    "distance": 6.0, "interval": (5.0, 7.0), "ratio": 3.0, "ratio_interval": (2.5, 3.5), "noise": 100.0,
    "floor": {"mean": 2.0, "std": 0.25, "unbalanced_mean": None}, "dimensions": 64,
    "effort": {"draws": 20, "subsets": 3}, "all_samples": {"ratio": 3.25, "std": 0.5},
    "extractor": {"sha256": None},
}  # fmt: skip
NEAR = {
    "samples": {"quantiles": {"0.5": 6.0, "0.05": 1.0}, "count": 1200, "exact_duplicates": 5},
    "held_out": {"quantiles": {"0.5": 4.0, "0.05": 2.0}, "count": 359, "exact_duplicates": 7},
    "share_below_held_out_percentile": {"1": 0.02, "5": 0.08},
}  # fmt: skip
PROTOCOL = {
    "dataset": {"name": "digits", "version": "1.0.0", "train_split": "train", "train_size": 1258, "split": "test",
                "split_size": 359},
    "distance": {"N": 300, "seed": 4, "selection": "the first of each class"},
    "sampling": {"sample": {"sampler": {"name": "heun", "order": 2}, "grid": "karras", "shift": 3.0, "steps": 20,
                            "guidance": {"scale": 1.5, "interval": [0.1, 0.9]}, "seed": 8},
                 "nfe": 39, "checkpoint": {"step": 7, "weights": "ema"}, "config": "abc"},
    "samples": {"number": 1200, "sha256": "fedcba9876543210", "rounding": "floor"},
    "planned_steps": 500, "config_hash": "def", "git_commit": "c0ffee", "versions": {"jax": "1.2"}, "device": "cpu",
    "commands": {"sample": "SAMPLE", "evaluate": None},
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No extension that another test has loaded, which the commands would name."""
    monkeypatch.setattr(extensions, "loaded", {})
    monkeypatch.setattr(extensions, "extended", [])


def content(**figures):
    """A report of these figures of samples."""
    every = {"asked_class": None, "frechet": {}, "neighbours": None, "trained_on": {"count": 0, "of": 359}}
    return {"figures": every | figures, "protocol": PROTOCOL}


def rows(**figures):
    """{name of a row: its other cells} of a report of these figures."""
    return {what: cells for what, *cells in run_report.rows(content(**figures))}


def test_the_share_of_recognised_samples_stands_beside_that_of_real_images():
    assert rows(asked_class=ACCURACY) == {
        "requested class recognised": [
            "90.0% (85.0% to 94.0%)",
            "97.0% of real test images",
            "1,200 samples; classifier trained only on the 1,258 real train images (sha256 0123456789ab); Wilson's 95 "
            "% interval",
            "test: 359, trained on: 0",
        ]
    }


@pytest.mark.parametrize("digest, text", [(None, ""), ("0123456789abcdef", " (sha256 0123456789ab)")])
def test_a_distance_stands_beside_its_floor_and_noise(digest, text):
    """Noise is 100 / 2 = 50 times the floor; the deviation of the ratio is 0.5 / 2."""
    measured = {"pixels": DISTANCE | {"extractor": {"sha256": digest}}}
    assert rows(frechet=measured, trained_on={"count": 3, "of": 359}) == {
        "Frechet distance (pixels)": [
            "6 (5 to 7)", "floor 2 ± 0.25; noise 100",
            f"N = 300 against all 359 test images; 64 features{text}; 20 resamples, 3 subsets",
            "test: 359, trained on: 3",
        ],
        "… times the floor": [
            "3.00 (2.50 to 3.50)", "1; noise 50", "mean over 3 random subsets of all samples: 3.25 ± 0.25",
            "test: 359, trained on: 3",
        ],
        "test records": [
            "trained on: 3 of 359", "none of those held out",
            "the number of records in the comparisons above on which the model was trained", "test: 359, trained on: 3",
        ],
    }  # fmt: skip


def test_the_distance_of_all_samples_has_no_spread_over_subsets(monkeypatch):
    """The subsets of N of N samples are equal, and "± 0.00" would look like a precise figure."""
    monkeypatch.setitem(PROTOCOL, "samples", PROTOCOL["samples"] | {"number": 300})
    assert rows(frechet={"pixels": DISTANCE})["… times the floor"][2] == "of all samples"


def test_the_floor_of_all_training_images_has_no_spread():
    floor = {"mean": 2.0, "std": None, "unbalanced_mean": None}
    every = {"mean": 6.5, "std": None, "ratio": 3.25}
    shown = rows(frechet={"pixels": DISTANCE | {"floor": floor, "all_samples": every}})
    assert shown["Frechet distance (pixels)"][1] == "floor 2; noise 100"
    assert shown["Frechet distance (pixels)"][2].endswith("20 resamples, all training images")
    assert shown["… times the floor"][2] == "of all samples"


def test_distances_of_other_data_have_rows_of_the_same_form():
    part = {
        "value": 6.0,
        **{name: DISTANCE[name] for name in ("interval", "ratio", "ratio_interval", "floor", "noise")},
    }
    measured = {"distances": {"energy_distance": part | {"how": "all pairs"}}, "count": 300, "reference": 1100}
    assert rows(**measured, dimensions=5) == {
        "energy distance": [
            "6 (5 to 7)", "floor 2 ± 0.25; noise 100", "all pairs; N = 300 against 1,100 test examples; 5 numbers each",
            "test: 359, trained on: 0",
        ],
        "… times the floor": ["3.00 (2.50 to 3.50)", "1; noise 50", "", "test: 359, trained on: 0"],
    }  # fmt: skip


@pytest.mark.parametrize("count, others", [(0, "held-out images"), (9, "test images")])
def test_nearest_training_images_of_samples_stand_beside_those_of_the_others(count, others):
    """The others are held out unless some of them were trained on."""
    shown = rows(neighbours=NEAR, trained_on={"count": count, "of": 359})
    assert ("test records" in shown) == bool(count)
    shown.pop("test records", None)
    on = f"test: 359, trained on: {count}"
    assert shown == {
        "nearest training image, median": [
            "6", "4 from real test images", f"Euclidean, pixels in [0, 1]; 1,200 samples, 359 {others}", on,
        ],
        f"… nearer than 1 % / 5 % of {others}": [
            "2.0% / 8.0%", "1 % / 5 % without copying",
            f"share of samples below these quantiles of the distances of {others}", on,
        ],
        "… exact copies": [
            "5 of 1,200", f"7 of 359 {others}", "the same bytes as one of the 1,258 training images", on,
        ],
    }  # fmt: skip


def test_figures_of_the_model_and_under_protocols_say_how_and_on_which_records():
    figure = {"value": 41.5, "standard_error": 0.5, "samples": 400}
    part = {"figures": {"fd": figure}, "reference": "b", "record": "c"}
    others = {
        "model": {"perplexity": figure, "new": figure},
        "inception": part | {"protocol": "adm", "records": {"split": "b", "count": 10, "trained_on": None}},
        "encoders": {"x": part | {"protocol": "dgm-eval", "network": "DINOv2", "warnings": ["few"]},
                     "cmmd": part | {"protocol": "cmmd"}},
    }  # fmt: skip
    shown = list(run_report.rows(content() | others))
    assert [row[:3] for row in shown] == [
        (name, "41.5 ± 0.5", "400 samples") for name in ("perplexity", "new", "fd", "fd", "fd")
    ]
    assert [row[3:] for row in shown] == [
        (run_report.MODEL_METRICS["perplexity"], "test: 359, trained on: 0"),
        ("", "test: 359, trained on: 0"),
        ("Inception, protocol adm, against b; c", "b: 10, trained on: not known"),
        ("DINOv2, protocol dgm-eval, against b; c", "not known"),
        ("cmmd, protocol cmmd, against b; c", "not known"),
    ]
    assert list(run_report._notes(others)) == [("DINOv2", "few")]


@pytest.mark.parametrize(
    ("weights", "step", "text"),
    [
        ("ema", 7, ""),
        ("ema", 9, "of ema of step 9, the samples of ema of step 7"),
        ("params", 7, "of ema of step 7, the samples of params of step 7"),
    ],
)
def test_a_figure_of_other_weights_than_the_samples_says_so(weights, step, text, tmp_path, capsys):
    """In its row, in the notes of report.md, and on the terminal."""
    sampling = PROTOCOL["sampling"] | {"checkpoint": {"step": 7, "weights": weights}}
    bits = {"value": 2.5, "samples": 40, "how": "exact", "protocol": {"step": step}}
    report_of = content() | {"protocol": PROTOCOL | {"sampling": sampling}, "model": {"bits_per_dim": bits}}
    ((*_, how, _),) = run_report.rows(report_of)
    run_report.show(report_of, tmp_path)
    if not text:
        assert how == "exact" and "note:" not in capsys.readouterr().out
        return
    assert how == f"exact; {text}"
    assert f"- **bits_per_dim**: {text}" in run_report.markdown(report_of, tmp_path)
    assert f"note: bits_per_dim: {text}" in capsys.readouterr().out


def table_of(text):
    """{first cell: second} of the lines of Markdown tables."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1] for cells in lines if len(cells) > 1}


def test_the_protocol_of_a_report(tmp_path):
    text = run_report.markdown(content(), tmp_path)
    assert {"data": "digits 1.0.0: train (1,258), test (359)",
            "weights": "ema of step 7 of 500",
            "sampler": "heun(order=2), grid karras, shift 3.0, 20 steps, 39 network evaluations",
            "guidance": "scale 1.5, interval [0.1, 0.9]",
            "samples": "1,200, seed 8, sha256 fedcba987654, bytes floor",
            "evaluation": "seed 4",
            "config": "def (config.json); of the samples abc",
            "code": "commit c0ffee; jax 1.2",
            "device": "cpu"}.items() <= table_of(text).items()  # fmt: skip
    assert "```\nSAMPLE\n```" in text and "\n| note |" not in text
    bare = {"sampling": {"sample": None, "nfe": None, "checkpoint": None, "note": "no samples.json"}}
    old = {name: value for name, value in PROTOCOL.items() if name != "planned_steps"}
    shown = table_of(run_report.markdown(content() | {"protocol": old | bare}, tmp_path))
    assert shown["weights"] == "not recorded" and shown["note"] == "no samples.json"
    assert shown["sampler"].endswith("as many as the driver needs network evaluations")
    old["sampling"] = PROTOCOL["sampling"]
    assert table_of(run_report.markdown(content() | {"protocol": old}, tmp_path))["weights"] == "ema of step 7"


def test_how_to_read_is_of_the_figures_that_are_there(tmp_path):
    page = lambda **figures: run_report.markdown(content(**figures), tmp_path)
    of_pictures = page(frechet={"pixels": DISTANCE})
    assert "N = 300: the first of each class." in of_pictures and "without this balance" not in of_pictures.lower()
    assert "Classifier features" not in of_pictures
    floor = {"mean": 2.0, "std": 0.25, "unbalanced_mean": 2.7182}
    judged = page(frechet={"pixels": DISTANCE, "classifier": DISTANCE | {"floor": floor}})
    assert "the floor is higher: 2.72 (classifier)." in judged and "Classifier features" in judged
    part = {name: DISTANCE[name] for name in ("interval", "ratio", "ratio_interval", "floor", "noise")}
    part |= {"value": 6.0, "how": "pairs"}
    for name, kind in (("energy_distance", run_report.VECTORS), ("unigram_divergence", run_report.SYMBOLS)):
        text = page(distances={name: part}, count=1, reference=1, dimensions=1)
        assert "\n".join(kind) in text and "uniform random bytes" not in text
    assert "sequences, shifted by" in run_report.SYMBOLS[-1]


def test_what_made_the_samples_is_in_their_record_or_in_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "software", lambda: {"device": "cpu"})
    config = {"sample": {"steps": 5}, "train": {"steps": 70}}
    made = run_report.provenance(config, tmp_path, "EVALUATE")
    assert made["sampling"]["sample"] == {"steps": 5} and made["sampling"]["nfe"] is made["sampling"]["checkpoint"]
    assert made["planned_steps"] == 70 and made["config_hash"] == config_hash(config) and made["device"] == "cpu"
    assert made["commands"] == {"sample": None, "evaluate": "EVALUATE"}
    (tmp_path / "samples.json").write_text('{"nfe": 9, "command": "SAMPLE"}')
    made = run_report.provenance(config, tmp_path, "EVALUATE")
    assert made["sampling"] == {"nfe": 9, "command": "SAMPLE"} and made["commands"]["sample"] == "SAMPLE"


def test_the_summary_names_what_is_there_and_what_to_try(tmp_path, capsys):
    (tmp_path / "curves.png").write_bytes(b"")
    run_report.show(content(asked_class=ACCURACY), tmp_path, "runs/a")
    said = capsys.readouterr().out
    assert f"{tmp_path / 'curves.png'}" in said and "samples.png" not in said
    assert "sample --workdir=runs/a --labels=3,8 --config.sample.guidance.scale=3 --out=runs/a/guided" in said
    assert "sample --workdir=runs/a --config.sample.steps=5 --out=runs/a/fast   (fewer steps)" in said
    cells = [cell.strip() for line in said.splitlines() if "recognised" in line for cell in line.split("│")[1:-1]]
    assert cells == ["requested class recognised", "90.0% (85.0% to 94.0%)", "97.0% of real test images",
                     "test: 359, trained on: 0"]  # fmt: skip
    few = content()
    sampling = PROTOCOL["sampling"] | {"sample": {"steps": 3}}
    run_report.show(few | {"protocol": PROTOCOL | {"sampling": sampling}}, tmp_path)
    said = capsys.readouterr().out
    assert f"--workdir={tmp_path} --config.sample.steps=1 " in said and "--labels" not in said
