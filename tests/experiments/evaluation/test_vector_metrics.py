"""The evaluation of runs on points, vectors and pytrees: figures beside a floor and noise, and what is refused."""

import json

import numpy as np
import pytest
import scipy.spatial

from diffusion.data import series_masks, sources
from diffusion.data.sources import python_objects
from diffusion.experiments import evaluate, train as training
from diffusion.experiments.evaluation import figures, model_metrics, real_images, report, vector_metrics
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import run_samples, sample_files
from diffusion.metrics import vector_distances
from diffusion.recipe import ConfigError, checks, names
from diffusion.recipe.defaults import defaults
from tests.experiments.run.test_every_source import config_of

pytestmark = pytest.mark.usefixtures("compilation_cache")


def split(x, name="train"):
    source = python_objects.source_of([{"x": row} for row in np.float32(x)], split=name)
    return real_images._read(source, "stop", ())


def test_records_that_are_left_out_leave_no_rows(monkeypatch):
    """Of damaged ones, for which there is room."""
    source = python_objects.source_of([{"x": np.full(2, row, np.float32)} for row in range(4)], split="train")
    monkeypatch.setattr(real_images, "records", lambda source, skip: [source[1], source[3]] if skip else [])
    left = real_images._read(source, "skip", ())
    assert left.images.tolist() == [[1, 1], [3, 3]] and left.labels.shape == (2,)


def normals(seed, number=400, dim=3, mean=0.0):
    return np.float32(mean + np.random.default_rng(seed).normal(size=(number, dim)))


def measured(samples, dim=3, draws=0, **changes):
    config = defaults()
    config.update_from_flattened_dict(changes)
    return vector_metrics.measure(samples, config, split(normals(1, dim=dim)), split(normals(2, dim=dim)), draws, 5)


def test_real_examples_are_near_the_floor_and_others_far_above():
    real, shifted = measured(normals(3))["distances"], measured(normals(3, mean=1.0))["distances"]
    assert real.keys() == vector_metrics.HOW.keys()
    for name in real:
        assert 0.3 < real[name]["ratio"] < 3, name
        assert shifted[name]["ratio"] > 20, name
        assert real[name]["noise"] < 3 * real[name]["floor"]["mean"], name  # here the noise is the distribution


@pytest.mark.extended
def test_noise_has_the_mean_and_the_deviation_of_each_number():
    scale, shift = np.float32([1, 100, 0.1]), np.float32([0, 1000, -5])
    rows = [split(normals(seed) * scale + shift) for seed in (1, 2)]
    found = vector_metrics.measure(normals(3) * scale + shift, defaults(), *rows, 0, 5)["distances"]
    for name, figure in found.items():
        assert figure["noise"] < 5 * figure["floor"]["mean"], name


def rows_compared(monkeypatch, samples, train, real, subsets=3, labels=None):
    """The rows of the samples, of the floor's subsets and of noise whose distances are taken."""
    monkeypatch.setattr(
        vector_metrics, "compared", lambda distances, chosen, floors, noise, *rest: {"rows": (chosen, floors, noise)}
    )
    return vector_metrics.measure(samples, defaults(), train, real, 0, subsets, labels)["rows"]


def test_distances_of_partly_given_series_say_that_each_has_its_own_mask():
    real = sources.gaussian_series("test", length=4, number=30, hide=series_masks.forecast(horizon=2))
    rows = real_images._read(real, "stop", ())
    found = vector_metrics.measure(rows.images[:10], defaults(), rows, rows, 0, 2)["distances"]
    assert all(figure["how"].endswith("also where two are compared") for figure in found.values())
    assert not any("mask" in figure["how"] for figure in measured(normals(3))["distances"].values())


def test_samples_and_floors_of_a_model_with_classes_hold_every_class_alike(monkeypatch):
    """The training set has one class nine times as often; its subsets were as far from the data as the classes made."""
    classes = (np.arange(200) % 10 == 0).astype(int)
    apart = np.linspace(-0.1, 0.1, 200)[:, None]  # equal rows have no bandwidth
    real = split(classes[:, None] + apart)._replace(labels=classes)
    asked = np.array([0, 0, 0, 1, 1] * 8)
    samples = asked[:, None] + apart[:40].astype(np.float32)
    share = lambda rows: np.round(rows).mean()
    chosen, floors, _ = rows_compared(monkeypatch, np.float32(samples), real, real, labels=asked)
    assert share(chosen) == 0.4 and [share(rows) for rows in floors] == [0.5] * 3  # 16 of 40 are all that there are
    few = split(real.images[:20])._replace(labels=classes[:20])
    chosen, floors, _ = rows_compared(monkeypatch, np.float32(samples), few, real, labels=asked)
    assert share(chosen) == 0.5 and [share(rows) for rows in floors] == [0.1]  # all 20 are one set
    _, floors, _ = rows_compared(monkeypatch, np.float32(samples), real, real)
    assert max(share(rows) for rows in floors) < 0.4  # of a model without classes


def test_each_number_of_the_noise_has_the_mean_and_the_deviation_of_the_real_ones(monkeypatch):
    scale, shift = np.float32([1, 100, 0.1]), np.float32([0, 1000, -5])
    train, real, samples = (normals(seed) * scale + shift for seed in (1, 2, 3))
    *_, noise = rows_compared(monkeypatch, samples, split(train), split(real))
    assert noise.shape == (400, 3)
    np.testing.assert_allclose((noise.mean(0) - real.mean(0)) / real.std(0), 0, atol=0.2)  # 4 / sqrt(400)
    np.testing.assert_allclose(noise.std(0) / real.std(0), 1, atol=0.15)


def test_the_floor_has_so_many_subsets_at_most(monkeypatch):
    monkeypatch.setattr(vector_metrics, "SUBSETS", 4)
    rows = split(normals(1, 20))
    for subsets, number in ((3, 3), (9, 4)):
        assert len(rows_compared(monkeypatch, normals(3, 19), rows, rows, subsets)[1]) == number


def test_all_training_examples_are_one_subset_without_a_spread():
    """More of them would be the same set in another order, whose distances differ by rounding alone."""
    train = normals(1, 20)
    found = vector_metrics.measure(normals(3, 30), defaults(), split(train), split(normals(2)), 0, 5)["distances"]
    apart = lambda x, y: scipy.spatial.distance.cdist(x, y).mean()
    exact = 2 * apart(train, normals(2)) - apart(train, train) - apart(normals(2), normals(2))
    assert found["energy_distance"]["floor"] == {"mean": pytest.approx(exact), "std": None}
    assert report.floor_text(found["energy_distance"]["floor"], ".2g") == f"floor {exact:.2g}"


def test_bytes_are_compared_as_numbers_from_minus_one_to_one(monkeypatch):
    volumes = np.uint8([[0, 255], [255, 0], [0, 0]]).reshape(3, 2, 1, 1, 1)
    rows = real_images.Split(volumes, np.zeros(3, int), split(normals(1, 3, 2)).spec)
    chosen, floors, _ = rows_compared(monkeypatch, volumes, rows, rows)
    assert chosen.tolist() == [[-1, 1], [1, -1], [-1, -1]]
    assert sorted(floors[0].tolist()) == sorted(chosen.tolist())


def test_an_interval_has_so_many_resamples_at_most(monkeypatch):
    """Beside them the distance is taken of the samples, of two subsets of the floor, and of noise."""
    monkeypatch.setattr(vector_metrics, "DRAWS", 7)
    calls = []
    distance = lambda rows: lambda chosen: float(calls.append(chosen) or len(calls))
    for draws, number in ((5, 5), (50, 7)):
        calls.clear()
        rows = np.zeros((9, 1))
        vector_metrics.compared({"a": distance}, rows, [rows] * 2, rows, 9, draws, np.random.default_rng(0), {"a": ""})
        assert len(calls) == 1 + 2 + number + 1


def test_an_interval_lies_about_its_figure_though_resamples_repeat_rows():
    """A distance that counts repeated rows: 0 of all rows once, and some 37 of 100 in each resample."""
    rows = np.zeros((100, 1))
    distance = lambda rows: lambda chosen: float(len(chosen) - len(np.unique(chosen)))
    how, rng = {"repeats": ""}, np.random.default_rng(0)
    found = vector_metrics.compared({"repeats": distance}, rows, [rows, rows], rows, 100, 40, rng, how)
    low, high = found["distances"]["repeats"]["interval"]
    assert -20 < low < 0 < high < 20


def test_the_figures_are_those_of_the_metrics():
    samples, real = normals(3, mean=0.5), normals(2)
    found = measured(samples)
    expected = {
        "energy_distance": vector_distances.energy(samples, real),
        "mmd": vector_distances.gaussian_mmd(samples, real, found["sigma"]),
        "sliced_wasserstein": vector_distances.sliced_wasserstein(
            samples, real, vector_distances.directions(vector_metrics.DIRECTIONS, 3, vector_metrics.SEED)
        ),
    }
    for name, value in expected.items():
        assert found["distances"][name]["value"] == pytest.approx(value, rel=1e-5), name
    assert figures.directions({"figures": found})["mmd_over_floor"] == found["distances"]["mmd"]["better"] == "lower"
    flat = figures.read_samples(found, found["count"])
    assert flat["mmd"].value == found["distances"]["mmd"]["value"] and flat["mmd_over_floor"].n == 400


def test_the_floor_is_a_mean_and_the_deviation_of_single_subsets(monkeypatch):
    """Distances of 6 for the samples, of 1, 2 and 6 for subsets of training examples, then 8 for noise."""
    numbers = iter([6.0, 1.0, 2.0, 6.0, 8.0] * 4)
    for name in ("_kernel", "_sliced", "_frechet"):
        monkeypatch.setattr(vector_metrics, name, lambda *settings: lambda rows: lambda chosen: next(numbers))
    found = vector_metrics.measure(normals(3), defaults(), split(normals(1, 401)), split(normals(2)), 0, 3)["distances"]
    for name in vector_distances.NAMES:
        assert found[name]["floor"] == pytest.approx({"mean": 3, "std": np.sqrt((4 + 1 + 9) / 2)}), name
        assert (found[name]["value"], found[name]["ratio"], found[name]["noise"]) == (6, 2, 8), name


def test_subsets_of_the_floor_are_drawn_from_all_training_examples():
    """Else each of them would have the same distance."""
    for name, figure in measured(normals(3, number=50))["distances"].items():
        assert figure["floor"]["std"] > 0.01 * figure["floor"]["mean"], name


def test_a_resample_of_every_row_once_is_the_figure_itself():
    real, rows = normals(0).astype(float), normals(1, 50, mean=0.3).astype(float)
    distance = vector_metrics._kernel(vector_distances.minus_distance, real)
    assert distance(rows)(np.arange(50)) == pytest.approx(vector_distances.energy(rows, real), rel=1e-5)
    chosen = np.random.default_rng(0).integers(50, size=50)
    assert distance(rows)(chosen) == pytest.approx(vector_distances.energy(rows[chosen], real), rel=1e-5)


def test_intervals_hold_the_figures():
    for distance in measured(normals(3, mean=0.3), draws=50)["distances"].values():
        low, high = distance["interval"]
        assert low < distance["value"] < high


def test_a_covariance_without_inverse_has_no_frechet_distance():
    # 12 rows lie in a space of 11 dimensions about their mean.
    assert "frechet_distance" not in measured(normals(0, 12, 12), dim=12)["distances"]
    assert "frechet_distance" in measured(normals(0, 13, 12), dim=12)["distances"]


@pytest.mark.parametrize(
    "samples, words",
    [
        (normals(0, dim=4), r"the samples are float32 \[400, 4\], but list has float32 \[N, 3\]"),
        (np.full((4, 3), np.nan, np.float32), "4 of 4 samples hold NaN or infinity"),
        (np.zeros((4, 3), np.uint8), r"are uint8 \[4, 3\], but list has float32 \[N, 3\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, words):
    with pytest.raises(WorkdirError, match=words):
        measured(samples)


def test_features_of_pictures_are_refused():
    with pytest.raises(ConfigError, match="holds 'classifier', a feature of pictures, but the examples of list are"):
        measured(normals(3), **{"evaluate.features": ("classifier",)})


@pytest.mark.slow
def test_a_run_on_points_is_evaluated(tmp_path):
    config = config_of(
        {"name": "spirals", "arms": 2, "number": 40},
        **{"evaluate.every": 2, "evaluate.number": 12, "evaluate.failed": "stop", "sample.number": 12},
    )
    assert training.run(config, tmp_path) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (in_loop,) = (line["evaluate"] for line in lines if "evaluate" in line)
    assert in_loop.keys() == set(vector_metrics.FIGURES) and (tmp_path / "previews/2.png").exists()
    config = workdir.read_config(tmp_path)
    run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path)
    content = evaluate.run(config, tmp_path, "diffusion evaluate", evaluate.Effort(10, 2))
    text = (tmp_path / "report.md").read_text()
    assert "| energy distance | **" in text and "12 against 40 test examples; 2 numbers each" in text
    assert "![Real examples and samples" in text and (tmp_path / "beside.png").is_file()
    assert figures.read_run(tmp_path).figures["energy_distance"].value == pytest.approx(
        content["figures"]["distances"]["energy_distance"]["value"]
    )


def test_a_metric_of_ones_own_is_of_any_examples_unless_it_says_that_it_is_of_pictures(monkeypatch):
    config = config_of({"name": "spirals", "arms": 2, "number": 40})
    monkeypatch.setattr(model_metrics, "METRICS", dict(model_metrics.METRICS))
    names.add(model_metrics.METRICS, lambda subject: {}, "spread")
    names.add(model_metrics.METRICS, model_metrics.pictures_alone(lambda subject: {}), "brightness")
    evaluate.require_pictures(config, ["spread", "bpd"])
    for metric in ("brightness", "cas", "copying", "fid"):
        with pytest.raises(ConfigError, match=rf"--metrics={metric} is for pictures.*Valid: .*bpd.*spread"):
            evaluate.require_pictures(config, ["spread", metric])
    for wrong in ({"protocol": "adm"}, {"networks": ["inception"]}):
        with pytest.raises(ConfigError, match=r"--(protocol|inception) is for pictures"):
            evaluate.require_pictures(config, ["spread"], **wrong)


def test_the_leaves_of_pytrees_are_packed_as_the_data_are(tmp_path):
    charges, positions = normals(0, 4, 2), normals(1, 4, 6)
    np.savez(
        tmp_path / "samples.npz",
        **{"labels": np.zeros(4, int), "images/charges": charges, "images/positions": positions.reshape(4, 3, 2)},
    )
    images, _ = sample_files.read_samples(tmp_path)
    np.testing.assert_array_equal(images, np.concatenate([charges, positions], axis=1))
