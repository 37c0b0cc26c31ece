"""Strengths against their closed form, and where comparisons follow the model exactly."""

import numpy as np
import pytest

from diffusion.metrics.bradley_terry import ELO, bradley_terry


def test_of_two_players_it_is_the_log_odds():
    theta = bradley_terry([[0, 30], [10, 0]], prior=0)
    np.testing.assert_allclose(theta, [np.log(3) / 2, -np.log(3) / 2], rtol=1e-12)
    theta = bradley_terry([[0, 30], [10, 0]])
    assert theta[0] - theta[1] == pytest.approx(np.log(30.5 / 10.5), rel=1e-12)


def test_comparisons_in_the_shares_of_the_model_give_its_strengths_back():
    theta = np.array([2.0, 0.3, -0.1, -2.2])
    compared = np.array([[0, 5, 40, 7], [5, 0, 9, 100], [40, 9, 0, 0], [7, 100, 0, 0]])
    wins = compared / (1 + np.exp(theta[None] - theta[:, None]))
    np.testing.assert_allclose(bradley_terry(wins, prior=0), theta, atol=1e-9)


def test_players_in_another_order_have_the_same_strengths():
    wins = np.random.default_rng(0).integers(0, 20, (5, 5)) * (1 - np.eye(5))
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(bradley_terry(wins[np.ix_(order, order)]), bradley_terry(wins)[order], atol=1e-9)


@pytest.mark.parametrize("won", [1, 1000, 10**6])
def test_who_never_lost_has_a_finite_strength_with_a_prior_alone(won):
    theta = bradley_terry([[0, won], [0, 0]])
    assert theta[0] - theta[1] == pytest.approx(np.log(2 * won + 1), rel=1e-9)
    with pytest.raises(ValueError, match="some players never lost"):
        bradley_terry([[0, won], [0, 0]], prior=0)


def test_strengths_are_those_with_the_wins_that_happened_where_a_full_step_overshoots():
    """At the maximum each player's expected wins are its wins, the prior's among them."""
    wins, prior = np.array([[0, 1, 0, 0], [100, 0, 10**5, 0], [20, 0, 0, 10], [2 * 10**5, 2 * 10**5, 10, 0]]), 9e-4
    theta = bradley_terry(wins, prior)
    counted = wins + prior * (1 - np.eye(4))
    expected = (counted + counted.T) / (1 + np.exp(theta[None, :] - theta[:, None]))
    np.testing.assert_allclose((expected * (1 - np.eye(4))).sum(1), counted.sum(1), rtol=1e-8)


def test_a_group_that_never_lost_to_the_rest_is_refused_too():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = wins[0, 2] = 1
    with pytest.raises(ValueError, match="some players never lost"):
        bradley_terry(wins, prior=0)
    wins[3, 1] = 1
    assert np.isfinite(bradley_terry(wins, prior=0)).all()


def test_four_hundred_points_are_ten_wins_of_eleven():
    assert 1 / (1 + np.exp(-400 / ELO)) == pytest.approx(10 / 11)


@pytest.mark.parametrize(
    "wins, prior, message",
    [([[0, 1]], 0.5, r"\[1, 2\]"), ([[0]], 0.5, r"\[1, 1\]"),
     ([[0, 1], [1, 0], [1, 1]], 0.5, r"\[3, 2\]"), ([[0, 1, 1], [1, 0, 1]], 0.5, r"\[2, 3\]"),
     ([[0, -1], [1, 0]], 0.5, ">= 0"),
     ([[1, 1], [1, 0]], 0.5, "diagonal"), ([[0, 1], [1, 0]], -1, "prior must be >= 0"),
     ([[0, np.nan], [1, 0]], 0.5, ">= 0")],
)  # fmt: skip
def test_what_is_no_table_of_wins_is_refused(wins, prior, message):
    with pytest.raises(ValueError, match=message):
        bradley_terry(wins, prior)
