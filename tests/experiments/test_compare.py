"""Comparisons of runs: what differs, by which test, and what is refused."""

import json
import types

import numpy as np
import pytest
from scipy import stats

from configs import digits as recipe
from diffusion.data.digits import digits
from diffusion.experiments import compare
from diffusion.experiments.evaluation import real_images, report, significance
from diffusion.experiments.evaluation.figures import Figure
from diffusion.experiments.evaluation.significance import Samples
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError
from diffusion.recipe.values import plain, to_json
from tests import commands

DATASET = {"name": "digits", "version": "1", "train_split": "train", "train_size": 9, "split": "test", "split_size": 4}


def made(folder, distance, seed=0, number=359, **changes):
    """A run folder with metrics and a report of made figures."""
    config = recipe.get_config()
    config.update_from_flattened_dict({"seed": seed, **changes})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    lines = [{"step": step, "loss": 1 / step, "loss_by_t": [0.5, None, 0.1]} for step in range(1, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    part = {"distance": distance, "interval": [distance - 1, distance + 1], "ratio": 2.0, "ratio_interval": [1.5, 2.5]}
    near = {name: {"quantiles": {"0.5": 1.0}, "count": 10} for name in ("samples", "held_out")}
    figures = {"frechet": {"pixels": {**part, "extractor": {"sha256": "a"}}}, "asked_class": None, "neighbours": near}
    protocol = {"dataset": DATASET, "distance": {"N": number, "seed": 0}}
    (folder / "report.json").write_text(json.dumps({"figures": figures, "protocol": protocol}))
    return folder


def test_settings_are_compared_in_pairs_of_equal_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_sample_tests", lambda *_: pytest.fail("several runs are compared by their seeds"))
    values = {("v", 0): 1.0, ("v", 1): 2.0, ("v", 2): 6.0, ("x0", 0): 1.5, ("x0", 1): 2.75, ("x0", 2): 6.25}
    names = {"v": {"parameterization.name": "v"}, "x0": {"parameterization.name": "x0"}}
    folders = [made(tmp_path / f"{name}_{seed}", value, seed, **names[name]) for (name, seed), value in values.items()]
    result = compare.compare(folders)
    assert result.fields == {"parameterization.name": ["v", "x0"]}
    assert [group.name for group in result.groups] == ["v_0, v_1, v_2", "x0_0, x0_1, x0_2"]
    test = result.tests["x0_0, x0_1, x0_2"]["fd_pixels"]
    by_hand = stats.ttest_rel([1.5, 2.75, 6.25], [1.0, 2.0, 6.0])
    assert (test.value, test.p) == pytest.approx((0.5, by_hand.pvalue)) and "3 pairs of equal seeds" in test.how
    assert (test.low, test.high) == pytest.approx(tuple(by_hand.confidence_interval(0.95)))
    assert "loss" not in result.tests["x0_0, x0_1, x0_2"]  # those of two predictions do not compare
    # Without equal seeds the scatter between them counts: Welch's test.
    other = [made(tmp_path / f"far_{seed}", value, seed, **names["x0"]) for seed, value in ((7, 1.5), (8, 2.75))]
    test = compare.compare([*folders[:3], *other]).tests["far_7, far_8"]["fd_pixels"]
    assert test.p == pytest.approx(stats.ttest_ind([1.5, 2.75], [1.0, 2.0, 6.0], equal_var=False).pvalue)
    assert "Welch" in test.how


def test_samples_of_one_training_are_no_further_runs(tmp_path):
    """Two trainings of each setting with three sets of samples each are two pairs, of the means over the samples."""
    names = {"v": {"parameterization.name": "v"}, "x0": {"parameterization.name": "x0"}}
    values = {"v": [[1.0, 1.5, 2.0], [4.0, 4.5, 5.0]], "x0": [[1.5, 2.0, 2.5], [5.0, 5.5, 6.0]]}
    folders = [
        made(tmp_path / f"{name}_{seed}_{noise}", value, seed, **names[name], **{"sample.seed": noise})
        for name, trainings in values.items() for seed, row in enumerate(trainings) for noise, value in enumerate(row)
    ]  # fmt: skip
    result = compare.compare(folders)
    assert [group.figures["fd_pixels"].n for group in result.groups] == [2, 2]
    assert [group.figures["fd_pixels"].std for group in result.groups] == pytest.approx([3 / 2**0.5, 3.5 / 2**0.5])
    ((_, tests),) = result.tests.items()
    by_hand = stats.ttest_rel([2.0, 5.5], [1.5, 4.5])
    assert tests["fd_pixels"].p == pytest.approx(by_hand.pvalue) and "2 pairs of" in tests["fd_pixels"].how
    # One training of a setting has no scatter over trainings, however many sets of samples it has.
    alone = compare.compare([*folders[:3], *folders[6:]])
    ((_, tests),) = alone.tests.items()
    assert "pairs" not in tests["fd_pixels"].how and "Welch" not in tests["fd_pixels"].how


def test_a_run_that_was_trained_on_since_its_samples_is_named(tmp_path):
    """Its loss is that of the later step, beside figures of samples of the earlier one."""
    first, second = (made(tmp_path / name, 2.0, **{"model.width": width}) for name, width in (("a", 64), ("b", 32)))
    for folder, latest in ((first, 9), (second, 18)):
        content = json.loads((folder / "report.json").read_text())
        content["protocol"]["sampling"] = {"checkpoint": {"step": 9, "weights": "ema"}}
        (folder / "report.json").write_text(json.dumps(content))
        (folder / "checkpoints" / str(latest)).mkdir(parents=True)
    notes = compare.compare([first, second]).notes
    assert notes == [f"{second}: the figures of its samples are of step 9, but its latest checkpoint is of step 18."]


def test_figures_of_earlier_samples_are_not_those_of_the_present_ones(tmp_path):
    """Samples of one step stood beside the distance of the samples of fifty that they had replaced."""
    first, second = (made(tmp_path / name, 2.0, **{"model.width": width}) for name, width in (("a", 64), ("b", 32)))
    now = {"checkpoint": {"step": 9}, "sample": {"steps": 50, "batch_size": 10, "seed": 0}, "nfe": 50}
    content = json.loads((second / "report.json").read_text())
    content["protocol"]["sampling"] = now
    (second / "report.json").write_text(json.dumps(content))
    for sampling, measured in ((now, True), ({**now, "sample": {**now["sample"], "batch_size": 5}}, True),
                               ({**now, "sample": {**now["sample"], "steps": 1}}, False),
                               ({**now, "checkpoint": {"step": 18}}, False)):  # fmt: skip
        (second / "samples.json").write_text(json.dumps(sampling))
        result = compare.compare([first, second])
        figures = {group.name: group.figures for group in result.groups}
        assert ("fd_pixels" in figures["b"]) == measured and "fd_pixels" in figures["a"]
        assert any("b has no report.json of its present samples" in note for note in result.notes) != measured


def test_a_folder_that_is_of_no_run_is_named(tmp_path):
    run, network, samples = made(tmp_path / "run", 1.0), tmp_path / "network", tmp_path / "samples"
    for folder, file, text in ((network, "config.json", '{"width": 8}'), (samples, "samples.npz", "")):
        folder.mkdir()
        (folder / file).write_text(text)
    with pytest.raises(ConfigError, match=r"network holds no run: .* no section 'model'"):
        compare.compare([network, run])
    with pytest.raises(WorkdirError, match=r"samples holds samples, but lies in no run folder: .* --out=RUN/NAME"):
        compare.compare([samples, run])


def test_single_runs_without_samples_are_compared_by_their_intervals(tmp_path):
    result = compare.compare([made(tmp_path / "a", 4.0), made(tmp_path / "b", 6.0, **{"train.batch_size": 32})])
    test = result.tests["b"]["fd_pixels"]
    assert (test.value, test.low, test.high) == pytest.approx((2.0, 2 - np.sqrt(2), 2 + np.sqrt(2)))
    assert test.p == pytest.approx(2 * stats.norm.sf(1.96 * np.sqrt(2)))
    assert "nearest_over_held_out" not in result.tests["b"]  # it has no interval


def test_single_runs_with_samples_are_compared_by_exchanging_them(tmp_path, monkeypatch):
    folders = [made(tmp_path / "a", 4.0), made(tmp_path / "b", 6.0, **{"train.batch_size": 32})]
    by_samples = significance.Difference(2.0, 1.0, 3.0, 0.5, "exchanged")
    seen = []
    monkeypatch.setattr(
        significance,
        "compare_samples",
        lambda first, second, config, splits, *_: seen.extend((first, second, splits)) or {"fd_pixels": by_samples},
    )
    monkeypatch.setattr(compare, "_samples", lambda folder: folder.name)
    spec = types.SimpleNamespace(num_classes=0)
    splits = {name: types.SimpleNamespace(name=name, spec=spec) for name in ("train", "test")}
    monkeypatch.setattr(real_images, "split_of", lambda config, split: splits[split])
    assert compare.compare(folders).tests["b"]["fd_pixels"] != by_samples  # without samples
    for folder in folders:
        (folder / "samples.npz").touch()
    result = compare.compare(folders)
    assert result.tests["b"]["fd_pixels"] == by_samples and seen == ["a", "b", (splits["train"], splits["test"])]
    (*_, (_, _, rows)) = compare.tables(result)
    assert ["fd_pixels", "b", "+2", "+1 to +3", "0.5", "exchanged"] in rows


def test_held_out_losses_compare_where_they_are_of_one_objective_and_of_the_same_records(tmp_path):
    part = lambda value: {"loss": value, "standard_error": 0.01, "by_t": []}
    draws = {"count_by_t": [], "draws": 64, "records": {"split": "validation", "count": 180, "trained_on": 0}}

    def measured(name, value, **changes):
        folder = made(tmp_path / name, 4.0, **changes)
        with open(folder / "metrics.jsonl", "a") as file:
            row = {"average": part(value), "trained": part(2 * value), **draws}
            file.write(json.dumps({"step": 40, "held_out_loss": row}) + "\n")
        return folder

    first = measured("a", 0.3)
    tests = compare.compare([first, measured("wide", 0.25, **{"model.width": 64})]).tests["wide"]
    assert tests["held_out_loss"].value == pytest.approx(-0.05)
    half = 1.96 * 0.01 * 2**0.5  # of a difference of two independent means
    assert (tests["held_out_loss"].low, tests["held_out_loss"].high) == pytest.approx((-0.05 - half, -0.05 + half))
    assert tests["held_out_loss_trained"].value == pytest.approx(-0.1)
    (_, header, rows), *_ = (table for table in compare.tables(compare.compare([first, tmp_path / "wide"])) if
                             table[0] == "Figures")  # fmt: skip
    records = {row[0]: row[-1] for row in rows}
    assert header[-1] == "records" and records["held_out_loss"] == "validation: 180, trained on: 0"
    assert records["fd_pixels"] == "test: 4, trained on: not known"  # a report of an earlier version
    assert records["loss"] == ""
    for field, value in (("parameterization.name", "v"), ("evaluate.loss.number", 7), ("data.split", "test")):
        other = compare.compare([first, measured(field, 0.25, **{field: value})])
        assert not [name for name in other.tests[field] if name.startswith("held_out_loss")]


def test_figures_of_encoders_are_compared_by_the_names_of_their_protocols(tmp_path):
    """Two encoders have an "fd" each; their difference is tested by their standard errors, as FID's is."""

    def evaluated(name, value, **changes):
        folder = made(tmp_path / name, 4.0, **{"train.batch_size": 2 ** (5 + len(name))})
        content = json.loads((folder / "report.json").read_text())
        part = lambda protocol, value: {
            "figures": {"fd": {"value": value, "standard_error": 3.0, "samples": 400, "space": "s"}},
            "protocol": protocol,
            "reference": "train",
        }
        content["encoders"] = {"dgm-eval": part("dgm-eval", value), "cmmd": part("cmmd", 2.0)}
        content["encoders"]["dgm-eval"] |= changes
        (folder / "report.json").write_text(json.dumps(content))
        return folder

    first = evaluated("a", 40.0)
    result = compare.compare([first, evaluated("bb", 50.0)])
    test = result.tests["bb"]["dgm-eval/fd"]
    assert test.value == 10.0 and test.p == pytest.approx(2 * stats.norm.sf(10 / np.hypot(3, 3)))
    assert test.high - test.low == pytest.approx(2 * 1.96 * np.hypot(3, 3))
    assert result.tests["bb"]["cmmd/fd"].p == 1.0
    assert list(compare.compare([first, tmp_path / "bb"], ["dgm-eval/fd"]).tests["bb"]) == ["dgm-eval/fd"]
    alone = compare.compare([first, made(tmp_path / "d", 5.0, **{"train.batch_size": 8})])  # the other has no encoders
    assert alone.tests["d"].keys() == {"fd_pixels"}
    with pytest.raises(ConfigError, match=r"encoders\.dgm-eval\.reference: 'train' -> 'test'"):
        compare.compare([first, evaluated("ccc", 50.0, reference="test")])


SAID = ("train.batch_size", "4 (3 to 5)", "6 (5 to 7)", "+2", "as if independent")


@pytest.mark.extended
def test_a_comparison_is_written_with_its_curves(tmp_path):
    folders = [made(tmp_path / "a", 4.0), made(tmp_path / "b", 6.0, **{"train.batch_size": 32})]
    paths = compare.write(compare.compare(folders, ["fd_pixels"]), tmp_path / "out")
    assert [path.name for path in paths] == ["comparison.md", "comparison.png"]
    text = paths[0].read_text()
    assert [part for part in (*SAID, "(comparison.png)") if part not in text] == []
    assert "steps_per_second" not in text and "nearest" not in text  # one figure was chosen
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_tables_show_names_as_they_are(capsys):
    report.show("runs/[red]", ["run[/]", ""], [["a[b]", 1]])
    shown = capsys.readouterr().out
    assert [text for text in ("runs/[red]", "run[/]", "a[b]") if text not in shown] == []


@pytest.mark.slow
def test_the_command_takes_folders(tmp_path):
    folders = [str(made(tmp_path / "a", 4.0)), str(made(tmp_path / "b", 6.0, **{"train.batch_size": 32}))]
    done = commands.run("-m", "experiments.compare", *folders, f"--out={tmp_path}/out", "--figures=fd_pixels")
    assert done.returncode == 0, done.stderr
    assert [part for part in (*SAID, "comparison.png") if part not in done.stdout] == []
    done = commands.run("-m", "experiments.compare", folders[0])
    assert done.returncode == 2 and "at least two different run folders" in done.stderr


def test_figures_of_different_protocols_are_refused(tmp_path):
    folders = [made(tmp_path / "a", 4.0), made(tmp_path / "b", 6.0, number=1000)]
    with pytest.raises(ConfigError, match=r"different protocols.*distance.N: 359 -> 1000.*Evaluate both with the same"):
        compare.compare(folders)


def test_other_samples_of_a_run_have_the_settings_that_made_them(tmp_path):
    run = made(tmp_path / "run", 4.0)
    guided = run / "guided"
    guided.mkdir()
    (guided / "report.json").write_text((run / "report.json").read_text())
    (guided / "samples.npz").touch()
    config = recipe.get_config()
    for folder, scale in ((run, 1.0), (guided, 3.0)):
        config.sample.guidance.scale = scale
        (folder / "samples.json").write_text(json.dumps({"sample": plain(config.sample), "nfe": 9}))
    result = compare.compare([run, guided])
    assert result.fields == {"sample.guidance.scale": [1.0, 3.0]}
    assert [group.name for group in result.groups] == ["run", "guided"]
    for sample in ([1], {**plain(config.sample), "seed": {"a": 1}}, {**plain(config.sample), "seed": True}):
        (guided / "samples.json").write_text(json.dumps({"sample": sample}))
        with pytest.raises(WorkdirError, match=r"guided/samples\.json has sample = "):
            compare.compare([run, guided])


def test_values_of_one_text_are_told_apart(tmp_path):
    """The table said "a-b" of both, as if the field did not differ."""
    names = {"first": "a b", "second": "a-b", "third": "c"}
    folders = [made(tmp_path / folder, 4.0, **{"data.name": name}) for folder, name in names.items()]
    (title, header, rows), *_ = compare.tables(compare.compare(folders))
    assert title == "Config fields that differ" and header == ["field", "first", "second", "third"]
    ((field, first, second, third),) = rows
    assert field == "data.name" and third == "c" and first != second
    assert first.startswith("a-b-") and second.startswith("a-b-")


def test_settings_whose_folders_have_one_name_are_told_apart(tmp_path):
    """One's tests and curves stood for both."""
    run = made(tmp_path / "a", 4.0)
    within = made(run / "a", 6.0, **{"train.batch_size": 32})
    result = compare.compare([run, within])
    assert [group.name for group in result.groups] == [str(run), str(within)] and [*result.tests] == [str(within)]
    seeds = [made(tmp_path / name, 4.0, seed) for seed, name in enumerate("xy")]
    result = compare.compare([*seeds, made(tmp_path / "x, y", 6.0, **{"train.batch_size": 32})])
    assert [group.name for group in result.groups] == [f"{seeds[0]}, {seeds[1]}", str(tmp_path / "x, y")]


def sampled(folder, **checkpoint):
    """A run folder whose samples a checkpoint of step 9 has made."""
    content = json.loads((folder / "report.json").read_text())
    record = {"checkpoint": {"step": 9, "weights": "ema", **checkpoint}, "sample": plain(recipe.get_config().sample)}
    content["protocol"]["sampling"] = record
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "samples.json").write_text(json.dumps(record))
    return folder


def test_raw_weights_and_another_average_are_other_settings_than_the_moving_average(tmp_path):
    """A run whose samples the raw weights made stood beside one of the moving average without a word."""
    average = {"average": 0.1, "tracked": 0.05, "of_steps": [3, 9], "weights": [0.25, 0.75]}
    folders = [
        sampled(made(tmp_path / "a", 4.0)),
        sampled(made(tmp_path / "raw", 6.0), weights="params"),
        sampled(made(tmp_path / "wide", 5.0), **average),
        sampled(made(tmp_path / "small", 7.0), quantised="int8"),
    ]
    result = compare.compare(folders)
    assert result.fields == {
        "sample.average": ["(absent)", "(absent)", 0.1, "(absent)"],
        "sample.quantised": ["(absent)", "(absent)", "(absent)", "int8"],
        "sample.weights": ["ema", "params", "ema", "ema"],
    }
    assert [group.name for group in result.groups] == ["a", "raw", "wide", "small"]
    # Two seeds are no seeds of one setting if only one of them has raw weights.
    result = compare.compare([folders[0], sampled(made(tmp_path / "seed", 5.0, 1), weights="params")])
    assert result.fields == {"sample.weights": ["ema", "params"]} and len(result.groups) == 2
    # A run without samples of its own will be sampled by the moving average.
    assert compare.compare([folders[0], made(tmp_path / "none", 5.0, 1)]).fields == {}


def test_samples_of_other_steps_and_of_other_classes_are_named(tmp_path):
    first = sampled(made(tmp_path / "a", 4.0))
    second = sampled(made(tmp_path / "b", 6.0, 1), step=12)
    for folder, digest in ((first, "f"), (second, "g")):
        record = json.loads((folder / "samples.json").read_text())
        (folder / "samples.json").write_text(json.dumps({**record, "conditions": digest}))
    notes = compare.compare([first, second]).notes
    assert f"The figures of samples are of different steps: {first}: 9, {second}: 12." in notes
    assert f"The samples in {first} and {second} have different classes or conditions." in notes
    same = compare.compare([first, sampled(made(tmp_path / "c", 6.0, 2))]).notes
    assert not any("different" in note for note in same)


def test_what_a_metric_has_found_is_no_part_of_its_protocol(tmp_path):
    """The evaluations of an adaptive solver differ from run to run, and so no two likelihoods could be compared."""

    def evaluated(folder, value, **found):
        protocol = {"t_start": 1e-5, "rtol": 1e-5, "step": 9, "evaluations": 70.5, "deviation_of_a_draw": 0.5} | found
        content = json.loads((folder / "report.json").read_text())
        content["model"] = {
            "bits_per_dim": {"value": value, "standard_error": 0.3, "samples": 64, "protocol": protocol}
        }
        (folder / "report.json").write_text(json.dumps(content))
        return folder

    first = evaluated(made(tmp_path / "a", 4.0), 2.0)
    other = made(tmp_path / "b", 4.0, **{"train.batch_size": 32})
    second = evaluated(other, 3.0, step=18, evaluations=81.25, deviation_of_a_draw=0.25)
    test = compare.compare([first, second]).tests["b"]["bits_per_dim"]
    assert test.value == 1.0 and test.p == pytest.approx(2 * stats.norm.sf(1 / np.hypot(0.3, 0.3)))
    with pytest.raises(ConfigError, match=r"of\.bits_per_dim\.protocol\.rtol: 1e-05 -> 0\.001"):
        compare.compare([first, evaluated(second, 3.0, rtol=1e-3)])


def test_a_field_that_one_config_lacks_is_another_setting_than_none(tmp_path):
    """guidance = None and no field guidance; reports compare in the fields of their protocols that both have."""
    run = made(tmp_path / "a", 4.0)
    configs = {"a": plain(recipe.get_config()), "b": plain(recipe.get_config())}
    configs["a"]["sample"]["guidance"]["interval"] = None
    configs["b"]["sample"]["guidance"].pop("interval", None)
    other = made(tmp_path / "b", 6.0)
    for name, config in configs.items():
        (tmp_path / name / "samples.json").write_text(json.dumps({"sample": config["sample"]}))
    report_of_other = json.loads((other / "report.json").read_text())
    del report_of_other["protocol"]["distance"]["seed"]
    (other / "report.json").write_text(json.dumps(report_of_other))
    result = compare.compare([run, other])
    assert result.fields == {"sample.guidance.interval": [None, "(absent)"]}
    assert [group.name for group in result.groups] == ["a", "b"]


def test_bad_input(tmp_path):
    run = made(tmp_path / "a", 4.0)
    with pytest.raises(ConfigError, match="at least two different run folders"):
        compare.compare([run])
    with pytest.raises(ConfigError, match="at least two different run folders"):
        compare.compare([run, tmp_path / "." / "a"])
    with pytest.raises(WorkdirError, match="holds no run"):
        compare.compare([run, tmp_path])
    other = made(tmp_path / "b", 5.0)
    with pytest.raises(ConfigError, match="at least two different run folders"):
        compare.compare([run, other, run])
    with pytest.raises(ConfigError, match="Did you mean 'fd_pixels'"):
        compare.compare([run, other], ["fd_pixel"])
    (other / "report.json").unlink()
    result = compare.compare([run, other])
    assert [title for title, *_ in compare.tables(result)] == ["Config fields that differ", "Figures"]
    assert result.tests["b"] == {} and "b has no report.json" in result.notes[0]
    assert list(result.fields) == ["folder"]  # one config, trained twice, is compared too
    assert "differ in their seeds alone" in compare.compare([run, made(tmp_path / "c", 5.0, seed=1)]).notes[0]


def test_differences_without_scatter():
    assert significance.compare_seeds({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}).p == 1.0
    found = significance.compare_seeds({0: 1.0, 1: 1.0}, {0: 2.0, 1: 2.0})
    assert (
        found.value == 1.0
        and np.isnan(found[1:4]).all()
        and found.how.endswith("not tested, as the runs do not scatter")
    )
    assert compare._tested(found) == ["", ""]
    assert significance.compare_seeds({0: 1.0}, {0: 2.0}) is None
    assert significance.compare_intervals(Figure(1.0), Figure(2.0, 1.0, 3.0)) is None


@pytest.mark.extended
def test_samples_of_equal_noise_are_exchanged_in_pairs(monkeypatch):
    """The same digits, a little blurred in one set: pairs see it, and sets of which nothing is known do not."""
    config = recipe.get_config()
    config.evaluate.features = ("pixels",)
    monkeypatch.setattr(significance, "FULL", significance.FULL._replace(draws=99))
    monkeypatch.setattr(significance, "distance_to", few_draws(significance.distance_to))
    images, labels, splits = digits()
    rows = np.flatnonzero(splits == "train")[:200]
    noisier = np.clip(images[rows] + np.random.default_rng(0).integers(0, 25, images[rows].shape), 0, 255)
    sets = [Samples(images[rows], labels[rows], 0), Samples(noisier.astype(np.uint8), labels[rows], 0)]
    splits_of_run = tuple(real_images.split_of(config, split) for split in ("train", "test"))
    pairs = significance.compare_samples(*sets, config, splits_of_run)["fd_pixels"]
    assert pairs.p == 0.01 and pairs.low < pairs.value < pairs.high and "200 pairs" in pairs.how
    apart = significance.compare_samples(sets[0], sets[1]._replace(seed=1), config, splits_of_run)["fd_pixels"]
    assert apart.value == pytest.approx(pairs.value) and "pairs" not in apart.how
    assert apart.high - apart.low > 1.5 * (pairs.high - pairs.low)
    same = significance.compare_samples(sets[0], sets[0], config, splits_of_run)["fd_pixels"]
    assert same[:4] == (0.0, 0.0, 0.0, 1.0)


def few_draws(distance_to):
    def changed(*arguments):
        distance, effort = distance_to(*arguments)
        return distance, effort._replace(draws=99)

    return changed


@pytest.mark.parametrize(("file", "change", "words"), [
    ("report.json", lambda report: report["figures"]["frechet"]["pixels"].pop("ratio"), "the entry 'ratio' is missing"),
    ("report.json", lambda report: report["figures"]["frechet"]["pixels"].update(interval=["1", 2]), "has '1'"),
    ("report.json", lambda report: report["figures"].update(frechet=[1]), "no attribute 'items'"),
    ("report.json", lambda report: report["protocol"].pop("dataset"), "the entry 'dataset' is missing"),
    ("metrics.jsonl", lambda line: line.update(held_out_loss=[1]), "not a mapping"),
    ("metrics.jsonl", lambda line: line.update(evaluate=3), "no attribute 'items'"),
])  # fmt: skip
def test_files_of_another_form_are_refused_with_their_name(tmp_path, file, change, words):
    run, other = made(tmp_path / "a", 4.0), made(tmp_path / "b", 5.0)
    first, *more = (other / file).read_text().splitlines()
    content = json.loads(first)
    change(content)
    (other / file).write_text("\n".join([json.dumps(content), *more, ""]))
    with pytest.raises(WorkdirError, match=rf"b/{file} has another form than this program writes .*{words}"):
        compare.compare([run, other])


def test_a_seed_that_is_no_integer_is_refused_with_its_file(tmp_path):
    run, other = made(tmp_path / "a", 4.0), made(tmp_path / "b", 5.0)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"seed": {"a": 1}}))
    with pytest.raises(WorkdirError, match=r'b/config\.json has seed = \{"a": 1\}\. Valid: an integer'):
        compare.compare([run, other])
