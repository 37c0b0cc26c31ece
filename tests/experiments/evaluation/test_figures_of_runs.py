"""Figures as tables take them: with their intervals, of how many, from whatever a run's folder holds."""

import json

import numpy as np
import pytest

from diffusion.experiments.evaluation import figures
from diffusion.experiments.evaluation.figures import Figure


def test_a_mean_has_student_s_interval():
    """Of 1, 2, 4: s = 1.5275, t(0.975, 2) = 4.302653, half = t s / sqrt(3) (Student 1908, table)."""
    found = figures.mean([1.0, 2.0, 4.0])
    half = 4.302652729911275 * np.sqrt(7 / 3) / np.sqrt(3)
    assert found.value == pytest.approx(7 / 3) and found.n == 3 and found.std == pytest.approx(np.sqrt(7 / 3))
    assert (found.low, found.high) == (pytest.approx(7 / 3 - half), pytest.approx(7 / 3 + half))
    assert figures.mean([5.0]) == Figure(5.0, n=1)
    assert figures.mean([0.9, 0.9, 0.9]) == Figure(pytest.approx(0.9), n=3, std=0.0)  # no interval of width 0


def test_curves_are_thinned_evenly_and_keep_both_ends():
    lines = [{"step": step, "loss": step / 2, "note": "x", "done": True} for step in range(1, 1200)]
    lines.append({"step": 1200, "loss": float("nan"), "evaluate": {"fid": 3.0}})
    curves = figures.curves(lines[::-1])
    assert set(curves) == {"loss", "evaluate/fid"} and curves["evaluate/fid"] == [(1200, 3.0)]
    steps = [step for step, _ in curves["loss"]]
    assert len(steps) == 500 and steps[0] == 1 and steps[-1] == 1199 and steps == sorted(set(steps))
    assert np.ptp(np.diff(steps)) <= 1 and all(value == step / 2 for step, value in curves["loss"])
    few = figures.curves([{"step": 1, "loss": 2.0}, {"step": 1, "loss": 3.0}])
    assert few == {"loss": [(1, 3.0)]}  # the last of a step counts


MEASURED = {
    "asked_class": {"share": 0.9, "interval": (0.8, 0.95), "count": 40},
    "frechet": {"pixels": {"distance": 4.0, "interval": (3.0, 5.0), "ratio": 2.0, "ratio_interval": (1.5, 2.5)},
                "other": {"distance": 1.0, "interval": None, "ratio": 0.5, "ratio_interval": None}},
    "distances": {"mmd": {"value": 0.1, "interval": None, "ratio": 3.0, "ratio_interval": (2.0, 4.0)}},
    "neighbours": {"samples": {"quantiles": {"0.5": 6.0}, "count": 7}, "held_out": {"quantiles": {"0.5": 4.0}}},
}  # fmt: skip


def test_figures_of_samples():
    assert figures.read_samples(MEASURED, 30) == {
        "asked_class": Figure(0.9, 0.8, 0.95, 40),
        "fd_pixels": Figure(4.0, 3.0, 5.0, 30),
        "fd_pixels_over_floor": Figure(2.0, 1.5, 2.5, 30),
        "fd_other": Figure(1.0, None, None, 30),
        "fd_other_over_floor": Figure(0.5, None, None, 30),
        "mmd": Figure(0.1, None, None, 30),
        "mmd_over_floor": Figure(3.0, 2.0, 4.0, 30),
        "nearest_over_held_out": Figure(1.5, n=7),
    }
    assert figures.read_samples({"asked_class": None, "neighbours": None}) == {}


def test_a_distance_is_what_has_a_ratio_to_a_floor():
    assert figures.distances(["fd_pixels", "fd_pixels_over_floor", "fid", "mmd_over_floor"]) == ["fd_pixels"]


def test_held_out_images_that_are_all_copies_have_no_ratio_of_distances():
    """Where samples are compared with the training images themselves, the median distance of these is 0."""
    near = {"samples": {"quantiles": {"0.5": 6.0}, "count": 7}, "held_out": {"quantiles": {"0.5": 0.0}}}
    assert figures.read_samples({"neighbours": near}) == {}


def test_figures_of_a_report():
    report = {
        "protocol": {"distance": {"N": 30}},
        "figures": {"asked_class": MEASURED["asked_class"]},
        "model": {"nll": {"value": 2.0, "standard_error": 0.5, "samples": 9},
                  "cas": {"value": 0.5, "interval": [0.4, 0.6], "standard_error": 9.0, "samples": 8}},
        "inception": {"figures": {"fid": {"value": 7.0, "samples": 50}, "kid": {"value": None, "why": "no"}}},
        "encoders": {"a": {"protocol": "dgm-eval", "figures": {"fd": {"value": 8.0, "standard_error": None}}}},
    }  # fmt: skip
    found = figures.parse_report(report)
    assert found.pop("asked_class") == Figure(0.9, 0.8, 0.95, 40)
    nll = found.pop("nll")
    assert (nll.low, nll.high, nll.n) == (pytest.approx(2 - 1.96 * 0.5), pytest.approx(2 + 1.96 * 0.5), 9)
    assert found == {"cas": Figure(0.5, 0.4, 0.6, 8), "fid": Figure(7.0, n=50), "dgm-eval/fd": Figure(8.0)}
    assert figures.parse_report({}) == {}


def test_direction_of_a_figure_is_what_its_metric_says():
    model = {"mine": {"value": 1.0, "samples": 2, "better": "lower"}, "other": {"value": 1.0, "samples": 2}}
    encoders = {"a": {"protocol": "p", "figures": {"fd": {"value": 8.0, "better": "higher"}}}}
    assert figures.directions({"model": model, "encoders": encoders}) == {"mine": "lower", "p/fd": "higher"}
    assert figures.directions({"model": {"mine": {"value": 1.0, "better": ["lower"]}}}) == {}  # by another program


def test_what_a_folder_holds_so_far(tmp_path):
    assert figures.read_run(tmp_path) == figures.Measured({}, {}, {}, {})
    lines = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0, "evaluate": {"fid": 5.0}}, {"step": 30, "loss": None}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"note": "no step"}])))
    seen = (5.0, 0.5, 6.0)  # the second was disturbed
    rates = [*({"step": step, "steps_per_second": rate} for step, rate in enumerate(seen, 1)), {"step": 4}]
    (tmp_path / "timing.jsonl").write_text("\n".join(map(json.dumps, rates)))
    (tmp_path / "samples.json").write_text(json.dumps({"nfe": 50}))
    (tmp_path / "previews").mkdir()
    for name in ("previews/9.png", "previews/10.png", "previews/100.png", "samples.png", "other.png"):
        (tmp_path / name).write_bytes(b"")
    found = figures.read_run(tmp_path)
    assert found.figures == {
        "loss": Figure(1.0), "step": Figure(20), "steps_per_second": Figure(5.0), "nfe": Figure(50)
    }  # fmt: skip
    assert found.curves["evaluate/fid"] == [(20, 5.0)] and found.curves["loss"] == [(10, 2.0), (20, 1.0)]
    assert found.images == {"preview": tmp_path / "previews/100.png", "samples": tmp_path / "samples.png"}
    (tmp_path / "report.json").write_text("{")
    assert figures.read_report(tmp_path) == {}
    assert figures.read_report(tmp_path / "samples.png") == {}


@pytest.mark.parametrize("now, other", [("a", False), ("b", True), (None, False)])
def test_samples_of_other_conditions_are_other_samples(tmp_path, now, other):
    """--labels=3 after a report of all classes; earlier versions did not write the conditions."""
    measured = {"checkpoint": {"step": 1}, "sample": {"steps": 4}, "conditions": "a"}
    present = {**measured, "conditions": now} if now else {name: measured[name] for name in ("checkpoint", "sample")}
    (tmp_path / "samples.json").write_text(json.dumps(present))
    assert figures.is_of_other_samples({"protocol": {"sampling": measured}}, tmp_path) is other


def test_each_figure_of_a_report_says_which_records_it_stands_on(tmp_path):
    """Samples and model on their split, each protocol on its reference, a loss on its own records."""
    figure = {"value": 1.0, "samples": 9}
    on = {"split": "digits@train", "count": 1258, "trained_on": 1258}
    unknown = {"split": "b.npz", "count": None, "trained_on": None}
    report = {
        "figures": {"frechet": {"pixels": {"distance": 1.0, "interval": None, "ratio": 2.0, "ratio_interval": None}},
                    "trained_on": {"count": 3, "of": 359}},
        "model": {"cas": figure},
        "inception": {"figures": {"fid": figure}, "records": on},
        "encoders": {"dgm-eval": {"protocol": "dgm-eval", "figures": {"fd": figure}, "records": unknown}},
        "protocol": {"dataset": {"split": "test", "split_size": 359}},
    }  # fmt: skip
    part = {"loss": 0.5, "standard_error": 0.1}
    loss = {"average": part, "trained": part, "draws": 64,
            "records": {"split": "validation", "count": 180, "trained_on": 0}}  # fmt: skip
    assert figures.records_by_figure(report, loss) == {
        "held_out_loss": "validation: 180, trained on: 0",
        "held_out_loss_trained": "validation: 180, trained on: 0",
        "fd_pixels": "test: 359, trained on: 3",
        "fd_pixels_over_floor": "test: 359, trained on: 3",
        "cas": "test: 359, trained on: 3",
        "fid": "digits@train: 1,258, trained on: 1,258",
        "dgm-eval/fd": "b.npz: not known, trained on: not known",
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert figures.read_run(tmp_path).records["fid"] == "digits@train: 1,258, trained on: 1,258"
    assert figures.records_by_figure({}, {}) == {}
