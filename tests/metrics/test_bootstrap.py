"""Intervals hold what they promise: their share of repeated experiments."""

import numpy as np
import pytest
from scipy import optimize

from diffusion.metrics import bootstrap, frechet


def test_replicates_resample_with_replacement():
    seen = []

    def statistic(rows):
        seen.append(rows)
        return float(len(seen))

    values = bootstrap.replicates(statistic, 50, 30, np.random.default_rng(0))
    assert values.tolist() == list(range(1, 31))
    rows = np.array(seen)
    assert rows.shape == (30, 50) and rows.min() == 0 and rows.max() == 49
    distinct = np.mean([len(set(r)) for r in seen]) / 50
    assert distinct == pytest.approx(1 - np.exp(-1), abs=0.03)  # a resample holds 63 % of the rows


def test_strata_keep_their_sizes():
    strata = np.array([0] * 5 + [1] * 20 + [7] * 3)
    counts = []
    statistic = lambda rows: counts.append(np.unique(strata[rows], return_counts=True)[1].tolist()) or 0.0
    bootstrap.replicates(statistic, 28, 10, np.random.default_rng(0), strata)
    assert counts == [[5, 20, 3]] * 10


def test_same_generator_state_same_replicates():
    data = np.random.default_rng(1).normal(size=40)
    draw = lambda seed: bootstrap.replicates(lambda r: data[r].mean(), 40, 20, np.random.default_rng(seed))
    assert (draw(3) == draw(3)).all()
    assert (draw(3) != draw(4)).any()


@pytest.mark.extended
def test_interval_of_a_mean_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        data = rng.normal(size=60)
        values = bootstrap.replicates(lambda rows, data=data: data[rows].mean(), 60, 200, rng)
        low, high = bootstrap.percentile_interval(values)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99
    low, high = bootstrap.percentile_interval(values, level=0.5)
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.extended
def test_recentring_repairs_the_bias_of_a_frechet_distance():
    """The mean distance of fresh samples of N is covered with recentring, and missed without."""
    rng = np.random.default_rng(0)
    dim, count = 12, 60
    moments = lambda rows: frechet.update(frechet.init(dim), rows)
    reference = moments(rng.normal(size=(400, dim)))
    fresh = lambda: rng.normal(size=(count, dim))
    distance = lambda rows: frechet.frechet_distance(moments(rows), reference)
    truth = np.mean([distance(fresh()) for _ in range(300)])
    covered = {"recentred": 0, "plain": 0}
    for _ in range(40):
        rows = fresh()
        values = bootstrap.replicates(lambda chosen, rows=rows: distance(rows[chosen]), count, 60, rng)
        low, high = bootstrap.percentile_interval(values, estimate=distance(rows))
        covered["recentred"] += low <= truth <= high
        low, high = bootstrap.percentile_interval(values)
        covered["plain"] += low <= truth <= high
    assert covered["recentred"] >= 33
    assert covered["plain"] <= 10


@pytest.mark.parametrize("successes, trials", [(0, 20), (0, 1200), (7, 20), (97, 100), (20, 20)])
@pytest.mark.parametrize("z", [1.959964, 1.0])
def test_wilson_ends_solve_the_score_equation(successes, trials, z):
    """Its ends are the shares p at which |successes/n - p| = z sqrt(p (1 - p)/n)."""
    share = successes / trials
    low, high = bootstrap.wilson_interval(successes, trials, z)
    score = lambda p: (share - p) ** 2 - z**2 * p * (1 - p) / trials
    for end, inside, edge in ((low, share, 0.0), (high, share, 1.0)):
        if successes in (0, trials) and edge == share:
            assert end == edge  # a report shows it, and 2e-19 is no end of a share
        else:
            eps = 1e-9 if edge == 0 else -1e-9
            assert end == pytest.approx(optimize.brentq(score, edge + eps, inside - eps * (share in (0, 1))), abs=1e-6)


def test_bad_input():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        bootstrap.replicates(lambda rows: 0.0, 1, 5, rng)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        bootstrap.replicates(lambda rows: 0.0, 5, 0, rng)
    with pytest.raises(ValueError, match=r"shape \[5\], got \[4\]"):
        bootstrap.replicates(lambda rows: 0.0, 5, 5, rng, np.zeros(4))
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level"):
            bootstrap.percentile_interval(np.arange(4), level=level)
    with pytest.raises(ValueError, match="finite"):
        bootstrap.percentile_interval(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        bootstrap.wilson_interval(3, 2)


def test_an_interval_about_an_estimate_is_of_the_replicates_moved_onto_it():
    """1, 2, .., 5 have the quantiles 1.5 and 4.5 at the level 3 / 4; their mean is 3."""
    values = np.arange(1.0, 6.0)
    assert bootstrap.percentile_interval(values, 0.75) == pytest.approx((1.5, 4.5))
    assert bootstrap.percentile_interval(values, 0.75, estimate=10.0) == pytest.approx((8.5, 11.5))


def test_a_mean_has_the_error_of_its_draws():
    """1, 2, 3, 6: the mean is 3, the squares of the differences are 4 + 1 + 0 + 9, and s^2 / N = 14 / 3 / 4."""
    assert bootstrap.mean(np.array([1, 2, 3, 6])) == {
        "value": 3.0,
        "standard_error": pytest.approx((14 / 12) ** 0.5),
        "samples": 4,
    }
    assert bootstrap.mean(np.ones(1))["standard_error"] is None and np.isnan(bootstrap.standard_error(np.ones(1)))
    assert bootstrap.mean(np.array([1, np.inf, 2])) == {"value": np.inf, "standard_error": None, "samples": 3}


def test_means_by_class_are_those_of_its_values_and_leave_out_a_class_without_any():
    found = bootstrap.means_by_class(np.array([1.0, 0.0, 1.0, 4.0]), np.array([0, 2, 0, 2]), ("a", "b", "c"))
    assert found == {"a": bootstrap.mean(np.array([1.0, 1.0])), "c": bootstrap.mean(np.array([0.0, 4.0]))}
    assert (found["a"]["value"], found["c"]["value"], found["c"]["samples"]) == (1, 2, 2)


def test_a_proportion_in_which_all_agree_has_wilsons_interval():
    """Of n equal trials the interval ends at 1, or at 0, and reaches z^2 / (n + z^2) from there."""
    reach = 1.959964**2 / (20 + 1.959964**2)
    for value, interval in ((1, (1 - reach, 1)), (0, (0, reach))):
        found = bootstrap.proportion(np.full(20, bool(value)))
        assert (found["value"], found["standard_error"], found["samples"]) == (value, None, 20)
        assert found["interval"] == pytest.approx(interval)
    mixed = np.array([True, False, True, True])
    assert bootstrap.proportion(mixed) == bootstrap.mean(mixed.astype(float))
    by_class = bootstrap.means_by_class(mixed, np.array([0, 1, 0, 1]), ("a", "b"), bootstrap.proportion)
    assert by_class == {"a": bootstrap.proportion(mixed[::2]), "b": bootstrap.proportion(mixed[1::2])}


def test_draws_of_one_group_count_together():
    """Three draws that are repeated four times tell no more of the mean than once: s^2 = 7/3, and s^2 / 3."""
    values, groups = np.tile([1.0, 2.0, 4.0], 4), np.tile([7, 9, 8], 4)
    assert bootstrap.mean(values, groups) == {
        "value": pytest.approx(7 / 3),
        "standard_error": pytest.approx(np.sqrt(7 / 3 / 3)),
        "samples": 12,
    }
    alone = bootstrap.mean(values, np.arange(12))
    assert alone["standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(12))
    assert bootstrap.mean(values, np.zeros(12, int))["standard_error"] is None
