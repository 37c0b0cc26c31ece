"""Which rows, of which features, each figure of two sets receives, and what it says of itself."""

import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import image_metrics, report
from diffusion.experiments.evaluation.image_metrics import FeatureSets, NotMeasured
from diffusion.metrics import frechet, inception_score, kernel_distance

RNG = np.random.default_rng(0)


def gathered(rows, count=None, moments=None):
    """Rows by tap, and their moments."""
    fitted = {tap: frechet.update(frechet.init(x.shape[1]), x) for tap, x in rows.items()}
    statistics = types.SimpleNamespace(moments=fitted if moments is None else moments, count=count or len(rows["a"]))
    return types.SimpleNamespace(rows=rows, statistics=statistics)


def space(main="a", **changes):
    fields = {"main": main, "frechet": "fd", "neighbours": 3, "overlap_rows": 0, "equal_rows": True, "name": "made"}
    return types.SimpleNamespace(**{**fields, **changes})


def sets(samples=40, reference=50, splits="one", seed=0, **changes):
    own = {"a": RNG.normal(size=(samples, 3)), "spatial": RNG.normal(size=(samples, 2)),
           "logits": RNG.normal(size=(samples, 5))}  # fmt: skip
    real = {"a": RNG.normal(size=(reference, 3)), "spatial": RNG.normal(size=(reference, 2))}
    return FeatureSets(gathered(own), gathered(real), space(**changes), seed, splits)


def test_distances_are_of_their_features():
    both = sets()
    for metric, tap, name, dims in ((image_metrics.fid, "a", "fd", 3), (image_metrics.sfid, "spatial", "sfid", 2)):
        (figure,) = metric(both).values()
        assert list(metric(both)) == [name]
        expected = frechet.frechet_distance(
            both.samples.statistics.moments[tap], both.reference.statistics.moments[tap]
        )
        assert figure["value"] == pytest.approx(expected) and figure["features"] == dims
        assert (figure["samples"], figure["reference"]) == (40, 50) and figure["standard_error"] > 0


def test_a_reference_without_the_features_or_rows_is_said():
    both = sets()
    alone = both._replace(reference=gathered({"a": RNG.normal(size=(50, 3))}))
    with pytest.raises(NotMeasured, match="statistics of spatial features, only of a"):
        image_metrics.sfid(alone)
    statistics = types.SimpleNamespace(rows={}, statistics=both.reference.statistics)
    for metric in (image_metrics.kid, image_metrics.monge, image_metrics.pr, image_metrics.authenticity):
        with pytest.raises(
            NotMeasured, match="this figure needs the images of the reference, which holds only statistics"
        ):
            metric(both._replace(reference=statistics))


@pytest.mark.parametrize("count, whole", [(1000, True), (1001, False)])
def test_the_kernel_distance_is_of_all_rows_up_to_a_thousand(monkeypatch, count, whole):
    seen = []
    exact = kernel_distance.mmd2(kernel_distance.cubic, np.eye(3), np.eye(3))
    monkeypatch.setattr(kernel_distance, "mmd2", lambda *rows: seen.append({}) or exact)
    monkeypatch.setattr(kernel_distance, "kid", lambda *rows, **settings: seen.append(settings) or exact)
    monkeypatch.setattr(image_metrics, "_error_over_draws", lambda *rows: 0.0)
    assert list(image_metrics.kid(sets(count, count + 5, seed=4))) == ["kd"]
    assert seen == [{} if whole else {"size": 1000, "seed": 4}]


@pytest.mark.parametrize("most", [5000, 40])
def test_the_error_of_the_kernel_distance_is_its_scatter_over_new_draws(monkeypatch, most):
    """Subsets of 50 of 60 rows are nearly equal, so that the scatter over them is about a tenth of that over draws."""
    monkeypatch.setattr(image_metrics, "SUBSET", 50)
    monkeypatch.setattr(image_metrics, "ERROR_ROWS", most)
    draws = np.random.default_rng(1)
    figures = []
    for _ in range(16):
        own, real = {"a": draws.normal(size=(60, 3)) + 0.5}, {"a": draws.normal(size=(80, 3))}
        figures.append(image_metrics.kid(FeatureSets(gathered(own), gathered(real), space(), 0, "one"))["kd"])
    scatter = np.std([figure["value"] for figure in figures], ddof=1)
    error = np.mean([figure["standard_error"] for figure in figures])
    assert 0.65 < error / scatter < 1.5  # the scatter of 16 values is known to 18 %


@pytest.mark.parametrize("most, count", [(0, 40), (30, 30), (45, 40)])
def test_equal_numbers_are_drawn_from_the_larger_set(most, count):
    both = sets()
    own, real = image_metrics._equal(both, "a", most)
    assert len(own) == len(real) == count
    for rows, drawn in ((both.samples.rows["a"], own), (both.reference.rows["a"], real)):
        places = [int(np.flatnonzero((rows == row).all(1))[0]) for row in drawn]
        assert places == sorted(set(places))  # each once, in their order
    other = image_metrics._equal(both._replace(seed=1), "a", most)[1]
    assert not np.array_equal(other, real)


def test_precision_density_and_their_neighbours():
    both = sets(60, 60)
    near, density = image_metrics.pr(both), image_metrics.dc(both)
    assert (near.keys(), density.keys()) == ({"precision", "recall"}, {"density", "coverage"})
    assert {figure["k"] for figure in near.values()} == {3} and {figure["k"] for figure in density.values()} == {5}
    for figure in (*near.values(), *density.values()):
        assert figure["samples"] == figure["reference"] == 60 and (figure["standard_error"] or 0) >= 0
    assert {figure["k"] for figure in image_metrics.pr(sets(60, 60, neighbours=4)).values()} == {4}
    few = image_metrics.pr(sets(60, 60, overlap_rows=20))["precision"]
    assert few["samples"] == few["reference"] == 20


def test_precision_and_recall_are_of_all_rows_where_the_protocol_s_code_takes_all():
    """ADM and torch-fidelity compare all samples with all images of the reference, 50,000 with 10,000 in papers."""
    both = sets(60, 25, equal_rows=False)
    x, y = both.samples.rows["a"], both.reference.rows["a"]
    distances = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2)
    radii = lambda rows: np.sort(distances(rows, rows), axis=1)[:, 3]  # its own distance of 0 is the first
    precision = (distances(x, y) <= radii(y)).any(1).mean()
    recall = (distances(x, y) <= radii(x)[:, None]).any(0).mean()
    figures = image_metrics.pr(both)
    assert (figures["precision"]["value"], figures["recall"]["value"]) == pytest.approx((precision, recall))
    assert all((figure["samples"], figure["reference"]) == (60, 25) for figure in figures.values())
    drawn = image_metrics.pr(sets(60, 25))
    assert all((figure["samples"], figure["reference"]) == (25, 25) for figure in drawn.values())


def test_a_share_of_no_or_all_rows_has_an_interval_and_no_error_of_zero():
    """With z = 1.96 Wilson's interval of 0 of n reaches up to z^2 / (n + z^2), and of n of n down to n / (n + z^2)."""
    real = RNG.normal(size=(60, 3))
    end = 1.959964**2 / (60 + 1.959964**2)
    for offset, value, interval in ((100.0, 0, [0, end]), (0.0, 1, [1 - end, 1])):
        both = FeatureSets(gathered({"a": real + offset}), gathered({"a": real}), space(), 0, "one")
        shares = image_metrics.pr(both) | {"coverage": image_metrics.dc(both)["coverage"]}
        for name, figure in shares.items():
            assert figure["value"] == value and figure["standard_error"] is None, name
            assert figure["interval"] == pytest.approx(interval, abs=1e-9)
        (text,) = {row[1] for row in report.metric_rows(shares)}
        assert "±" not in text and text.startswith(f"{value} (")
    far = FeatureSets(gathered({"a": real + 100}), gathered({"a": real}), space(), 0, "one")
    density = image_metrics.dc(far)["density"]
    assert (density["value"], density["standard_error"]) == (0, None) and "interval" not in density


@pytest.mark.parametrize(
    "protocol, number, splits",
    [("one", 40, 1), ("ten, shuffled", 40, 10), ("every 5,000", 40, 1), ("every 5,000", 12600, 3)],
)
def test_the_score_s_splits_are_the_protocol_s(protocol, number, splits):
    both = sets(number, splits=protocol, seed=3)
    figure = image_metrics.score(both)["is"]
    logits = both.samples.rows["logits"]
    if protocol == "every 5,000":
        expected = inception_score.inception_score_of_parts(logits, 5000)
    else:
        expected = inception_score.inception_score(logits, splits, 3 if protocol == "ten, shuffled" else None)
    assert figure["value"] == pytest.approx(expected.value) and figure["splits"] == splits
    assert figure["standard_deviation"] == pytest.approx(expected.standard_deviation, nan_ok=True)
    assert figure["samples"] == expected.samples == number
    del both.samples.rows["logits"]
    with pytest.raises(NotMeasured, match="no logits"):
        image_metrics.score(both)


def test_names_depend_on_the_space():
    """FID, KID and their like are of Inception's features alone; elsewhere they are plain distances."""
    inception, other = space("2048", frechet="fid"), space("a", frechet="fvd")
    named = lambda where: [image_metrics.called(where, name) for name in ("fid", "kid", "rfid", "fid_infinity", "is")]
    assert named(inception) == ["fid", "kid", "rfid", "fid_infinity", "is"]
    assert named(other) == ["fvd", "kd", "rfd", "fd_infinity", "is"]
    with pytest.raises(NotMeasured, match="CLIP's embeddings"):
        image_metrics.cmmd(sets()._replace(space=inception))
    assert image_metrics.cmmd(sets())["cmmd"]["samples"] == 40


def test_the_extrapolation_says_its_sizes():
    both = sets(12000, 700)
    figure = image_metrics.fid_infinity(both)["fd_infinity"]
    assert (figure["samples"], figure["reference"]) == (12000, 700)
    assert len(figure["sizes"]) == len(figure["distances"]) > 2 and max(figure["sizes"]) <= 12000
    with pytest.raises(NotMeasured):
        image_metrics.fid_infinity(sets(3, 4))


def test_figures_of_rows_name_themselves():
    both = sets()
    mind = image_metrics.monge(both)["mind"]
    assert mind["samples"] == mind["reference"] == 40 and mind["value"] > 0
    own = image_metrics.authenticity(both)["authenticity"]
    assert own["samples"] == 40 and own["reference"] == 50 and isinstance(own["interval"], list)
    assert own["interval"][0] <= own["value"] <= own["interval"][1]


def test_each_figure_says_which_values_are_better():
    """Of copies neither more nor less is better: held-out pictures have their own share."""
    both = sets()
    expected = {
        "fd": "lower", "sfid": "lower", "kd": "lower", "cmmd": "lower", "mind": "lower", "precision": "higher",
        "recall": "higher", "density": "higher", "coverage": "higher", "is": "higher", "authenticity": None,
    }  # fmt: skip
    measured = {}
    for name, metric in image_metrics.METRICS.items():
        if name != "fid_infinity":  # of more samples
            measured |= metric(both)
    assert {name: figure.get("better") for name, figure in measured.items()} == expected
    assert image_metrics.fid_infinity(sets(12000, 700))["fd_infinity"]["better"] == "lower"


def test_the_seed_of_the_sets_is_that_of_every_draw(monkeypatch):
    seeds = []
    fit = types.SimpleNamespace(value=0, standard_error=0, slope=0, sizes=np.ones(1), distances=np.ones(1))
    distance = kernel_distance.mmd2(kernel_distance.cubic, np.eye(3), np.eye(3))
    for module, name, found in (
        (image_metrics.extrapolation, "extrapolate", fit),
        (image_metrics.kernel_distance, "kid", distance),
        (image_metrics.mind, "mind", distance),
    ):
        monkeypatch.setattr(module, name, lambda *_, seed, found=found, **words: seeds.append(seed) or found)
    for metric in (image_metrics.fid_infinity, image_metrics.kid, image_metrics.monge):
        metric(sets(1001, 1001, seed=7))
    assert seeds == [7, 7, 7]
