"""Figures of point clouds: what of which set is compared with what, by enumeration."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from diffusion.experiments.evaluation import cloud_metrics
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress

SPEC = types.SimpleNamespace(name="solids")


def clouds(seed, number, at=0.0, width=1.0):
    return at + width * np.random.default_rng(seed).normal(size=(number, 4, 3))


@pytest.fixture
def subject(monkeypatch):
    """A run whose examples are clouds; their surface adds what its generator draws."""

    def make(samples, real, train, number=100, draws=1):
        of = lambda draws: types.SimpleNamespace(
            surface=lambda x, rng: x + 1e-9 * rng.normal(size=x.shape), **({} if draws == 1 else {"draws": draws})
        )
        monkeypatch.setattr(cloud_metrics, "held_out_source", lambda subject: of(draws))
        monkeypatch.setattr(cloud_metrics, "training_source", lambda subject: of(draws))
        half = lambda x: types.SimpleNamespace(images=x, labels=np.arange(len(x)) % 2, spec=SPEC)
        config = ConfigDict({"evaluate": {"split": "test", "number": number}, "model": {"num_classes": 2}})
        labels = np.arange(len(samples)) % 2
        parts = {"images": samples, "labels": labels, "train": half(train), "real": half(real)}
        return types.SimpleNamespace(config=config, built=None, **parts)

    return make


def chamfer(a, b):
    squared = ((a[:, None] - b) ** 2).sum(-1)
    return squared.min(1).mean() + squared.min(0).mean()


def table(first, second):
    return np.array([[chamfer(a, b) for b in second] for a in first])


def nearest_is_of_its_own(within, across, references):
    every = np.block([[within, across], [across.T, references]]) + np.diag(np.full(2 * len(within), np.inf))
    own = np.arange(len(every)) < len(within)
    return np.mean(own[every.argmin(1)] == own)


def test_figures_by_enumeration(subject):
    samples, real, train = clouds(0, 6), clouds(1, 8), clouds(2, 7)
    found = cloud_metrics.measure_clouds(subject(samples, real, train))
    chosen = {"": samples, "_of_real_shapes": train}
    for suffix, some in chosen.items():
        # Classes take turns: of alternating labels that is the order of the rows.
        some, reference = some[:6], real[:6]
        across = table(some, reference)
        expected = {
            "1nna": nearest_is_of_its_own(table(some, some), across, table(reference, reference)),
            "coverage": len(set(across.argmin(1))) / 6,
            "minimum_matching": across.min(0).mean(),
        }
        for name, value in expected.items():
            figure = found[f"{name}_chamfer{suffix}"]
            assert figure["value"] == pytest.approx(value, abs=1e-6), (name, suffix)
            assert figure["samples"] == figure["reference"] == 6
    sets = ("", "_of_real_shapes", "_of_scattered_points")
    names = {f"{name}_{by}{of}" for name in ("1nna", "coverage", "minimum_matching")
             for by in ("chamfer", "earth_movers") for of in sets}  # fmt: skip
    assert set(found) == names and list(found) == sorted(found)


def test_scattered_points_are_those_of_the_training_clouds_in_no_order(subject, monkeypatch):
    """Each training cloud is one point four times over: a scattered cloud holds points of several."""
    seen = []
    original = cloud_metrics.point_clouds.distances

    def distances(first, second, distance, done):
        seen.append(first)
        return original(first, second, distance, done)

    monkeypatch.setattr(cloud_metrics.point_clouds, "distances", distances)
    train = np.repeat(np.arange(8.0)[:, None, None], 4, 1) * np.ones(3)
    cloud_metrics.measure_clouds(subject(clouds(0, 8), clouds(1, 8), train))
    scattered = next(some for some in seen if some.shape == (8, 4, 3) and np.ptp(some[0], axis=0).max() > 0.5
                     and set(np.round(some[:, :, 0].ravel())) <= set(range(8)))  # fmt: skip
    assert (np.round(scattered) == np.round(scattered[..., :1])).all()  # each point is one of theirs
    assert len(np.unique(np.round(scattered[..., 0]))) > 4


def test_real_shapes_are_the_floor_and_far_clouds_are_none(subject):
    found = cloud_metrics.measure_clouds(subject(clouds(0, 12, at=9), clouds(1, 12), clouds(2, 12)))
    value = lambda name: found[name]["value"]
    for distance in ("chamfer", "earth_movers"):
        assert value(f"1nna_{distance}") == 1 and value(f"1nna_{distance}_of_real_shapes") < 0.9
        assert value(f"minimum_matching_{distance}") > 5 * value(f"minimum_matching_{distance}_of_real_shapes")


def test_of_several_clouds_of_one_file_the_first_counts(subject):
    """With its other draws among the references, the nearest neighbour of each would be one of them."""
    samples, real, train = clouds(0, 9), clouds(1, 4), clouds(2, 5)
    drawn = lambda x: x.repeat(3, axis=0) + 1e-3 * np.arange(3 * len(x))[:, None, None]
    every = lambda x: drawn(x)[::3]
    found = cloud_metrics.measure_clouds(subject(samples, drawn(real), drawn(train), draws=3))
    alone = cloud_metrics.measure_clouds(subject(samples, every(real), every(train)))
    assert found["1nna_chamfer"]["samples"] == 4
    for name in ("1nna_chamfer", "coverage_earth_movers", "minimum_matching_chamfer_of_real_shapes"):
        assert found[name]["value"] == pytest.approx(alone[name]["value"], abs=1e-6), name


def test_the_number_is_that_of_the_smallest_set_or_of_the_config(subject):
    for samples, real, train, wanted, number in ((5, 6, 7, 9, 5), (6, 5, 7, 9, 5), (7, 6, 5, 9, 5), (7, 7, 7, 4, 4)):
        found = cloud_metrics.measure_clouds(subject(clouds(0, samples), clouds(1, real), clouds(2, train), wanted))
        assert {(figure["samples"], figure["reference"]) for figure in found.values()} == {(number, number)}


def test_classes_take_turns_and_each_cloud_has_draws_of_its_own(subject, monkeypatch):
    """Of the classes 0, 0, 0, 1, 1 the first four in turn are the rows 0, 3, 1, 4."""
    seen = []

    def distances(first, second, distance, done):
        seen.append(first)
        return np.random.default_rng(len(seen)).random((4, 4))

    monkeypatch.setattr(cloud_metrics.point_clouds, "distances", distances)
    run = subject(*(10 * k + np.arange(5.0)[:, None, None] * np.ones((4, 3)) for k in (0, 1, 2)), number=4)
    run.labels = run.real.labels = run.train.labels = np.array([0, 0, 0, 1, 1])
    surface = lambda x, rng: x + rng.uniform(0, 0.4, x.shape)
    monkeypatch.setattr(cloud_metrics, "held_out_source", lambda subject: types.SimpleNamespace(surface=surface))
    cloud_metrics.measure_clouds(run)
    for first, begin in ((seen[0], 10), (seen[1], 0), (seen[3], 20)):  # held-out clouds, samples, training clouds
        assert np.floor(first[:, 0, 0]).tolist() == [begin, begin + 3, begin + 1, begin + 4]
        assert len(np.unique(np.round(first[:, 0, 0] % 1, 6))) == 4


def test_two_clouds_are_the_fewest(subject):
    cloud_metrics.measure_clouds(subject(clouds(0, 2), clouds(1, 2), clouds(2, 2)))
    with pytest.raises(ConfigError, match="at least 2 clouds, but each has only 1"):
        cloud_metrics.measure_clouds(subject(clouds(0, 1), clouds(1, 2), clouds(2, 2)))


def test_the_bar_ends_where_it_says(subject, monkeypatch):
    """Rows of distances: two kinds, each of the references and of three sets within themselves and across."""
    seen = []

    class Bar:
        def __init__(self, name, total, unit):
            self.total = total

        def __enter__(self):
            return lambda done: seen.append((done, self.total))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(progress, "bar", Bar)
    cloud_metrics.measure_clouds(subject(clouds(0, 3), clouds(1, 3), clouds(2, 3)))
    assert [done for done, _ in seen] == list(range(1, 43)) and {total for _, total in seen} == {42}


def test_a_run_on_other_data_is_refused(subject, monkeypatch):
    other = subject(clouds(0, 2), clouds(1, 2), clouds(2, 2))
    monkeypatch.setattr(cloud_metrics, "held_out_source", lambda subject: types.SimpleNamespace())
    with pytest.raises(ConfigError, match="--metrics=clouds is for surfaces in space, but solids holds none"):
        cloud_metrics.measure_clouds(other)


def test_the_share_of_solids_in_one_piece_is_measured_of_all_and_of_each_class(subject, monkeypatch):
    whole, broken = (
        -np.ones((3, 3, 3, 1)),
        np.sign(np.abs(np.arange(3) - 1.0) * -2 + 1)[:, None, None, None] * np.ones((3, 3, 3, 1)),
    )
    samples = np.stack([whole, broken, whole, whole])  # of the classes 0, 1, 0, 1
    made = subject(samples, samples, np.stack([whole, whole, broken, whole]), number=4)
    made.real.spec = made.train.spec = types.SimpleNamespace(name="solids", classes=("table", "chair"))
    made.real.images, made.train.images = samples, made.train.images
    source = types.SimpleNamespace(surface=lambda x, rng: x.reshape(-1, 3))
    monkeypatch.setattr(cloud_metrics, "held_out_source", lambda subject: source)
    found = cloud_metrics.measure_clouds(made)
    shares = {name: figure["value"] for name, figure in found.items() if name.startswith("in_one_piece")}
    assert shares == {
        "in_one_piece": 0.75, "in_one_piece_table": 1.0, "in_one_piece_chair": 0.5,
        "in_one_piece_of_real_shapes": 0.75, "in_one_piece_table_of_real_shapes": 0.5,
        "in_one_piece_chair_of_real_shapes": 1.0,
    }  # fmt: skip
    # Both tables are in one piece: of 2 of 2, Wilson's interval begins at 2 / (2 + 1.96^2).
    assert found["in_one_piece_table"]["standard_error"] is None
    assert found["in_one_piece_table"]["interval"] == pytest.approx((2 / (2 + 1.959964**2), 1))
    made.config.model.num_classes = 0  # the labels of samples are zeros, and no tables
    assert not {"in_one_piece_table", "in_one_piece_chair"} & cloud_metrics.measure_clouds(made).keys()


def test_solids_in_one_piece_are_counted_by_the_classes_of_the_solids_that_are_measured(subject, monkeypatch):
    """Of the classes 0, 0, 1, 1 two solids are measured, the rows 0 and 2."""
    whole, broken = -np.ones((3, 3, 3, 1)), np.ones((3, 3, 3, 1))
    broken[[0, 2]] = -1
    samples = np.stack([whole, broken, broken, whole])
    run = subject(samples, samples, samples, number=2)
    run.labels = run.train.labels = run.real.labels = np.array([0, 0, 1, 1])
    run.real.spec = types.SimpleNamespace(name="solids", classes=("table", "chair"))
    surface = types.SimpleNamespace(surface=lambda x, rng: x.reshape(-1, 3))
    monkeypatch.setattr(cloud_metrics, "held_out_source", lambda subject: surface)
    shares = {name: figure["value"] for name, figure in cloud_metrics.measure_clouds(run).items() if "piece" in name}
    for suffix in ("", "_of_real_shapes"):
        assert shares[f"in_one_piece{suffix}"] == 0.5
        assert (shares[f"in_one_piece_table{suffix}"], shares[f"in_one_piece_chair{suffix}"]) == (1, 0)


def test_clouds_have_no_pieces(subject):
    assert not [
        name for name in cloud_metrics.measure_clouds(subject(*(clouds(n, 3) for n in range(3)))) if "piece" in name
    ]
