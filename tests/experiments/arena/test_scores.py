"""Scores of votes whose outcome is known."""

import csv

import numpy as np
import pytest

from diffusion.experiments.arena import scores
from diffusion.experiments.arena.comparisons import Arena, Comparison
from diffusion.experiments.arena.votes import FIRST, SECOND, TIE, Vote
from diffusion.metrics import bootstrap
from diffusion.metrics.bradley_terry import ELO


def arena(pairs, names="abc"):
    made = [Comparison(*pair, (i, i), f"class {i}") for i, pair in enumerate(pairs)]
    return Arena("Which?", 0, {name: "" for name in names}, made)


@pytest.mark.extended
def test_wins_ties_and_losses_are_those_of_the_votes(tmp_path):
    here = arena([(0, 1), (0, 2), (1, 2), (0, 1)])
    votes = [
        Vote("ana", 0, FIRST, SECOND),
        Vote("ana", 1, SECOND, FIRST),
        Vote("ana", 2, TIE, FIRST),
        Vote("ben", 3, FIRST, FIRST),
    ]
    np.testing.assert_array_equal(scores.wins(here, votes), [[0, 2, 0], [0, 0, 0.5], [1, 0.5, 0]])
    counts = {score.name: (score.wins, score.ties, score.losses) for score in scores.scores(here, votes)}
    assert counts == {"a": (2, 0, 1), "b": (0, 1, 2), "c": (1, 1, 0)}
    paths = scores.write(here, votes, scores.scores(here, votes), tmp_path)
    rows = list(csv.reader((tmp_path / "votes.csv").open()))
    assert rows[1:] == [
        ["ana", "0", "class 0", "b", "a", "a"],
        ["ana", "1", "class 1", "a", "c", "c"],
        ["ana", "2", "class 2", "b", "c", "tie"],
        ["ben", "3", "class 3", "a", "b", "a"],
    ]
    assert [row["name"] for row in csv.DictReader((tmp_path / "scores.csv").open())] == ["c", "a", "b"]
    assert all(path.stat().st_size for path in paths)
    text = (tmp_path / "arena.md").read_text()
    assert "| ana | 3 | 1 | 0.0%" in text and "| a | b | 2 : 0 | 100.0%" in text and "scores.png" in text


def test_the_sides_of_the_pictures_are_those_that_the_voter_saw(tmp_path, monkeypatch):
    """Ana saw the second picture on the left and chose it, twice."""
    here = arena([(0, 1), (0, 2), (1, 2)])
    votes = [Vote("ana", 0, SECOND, SECOND), Vote("ana", 1, SECOND, SECOND), Vote("ana", 2, TIE, FIRST)]
    monkeypatch.setattr(scores, "_draw", lambda drawn, path: path.write_bytes(b""))
    drawn = [scores.Score(name, 0.0, -9.0, 9.0, 1, 0, 1) for name in "abc"]
    scores.write(here, votes, drawn, tmp_path)
    rows = list(csv.DictReader((tmp_path / "votes.csv").open()))
    assert [(row["left"], row["right"], row["preferred"]) for row in rows] == [
        ("b", "a", "b"),
        ("c", "a", "c"),
        ("b", "c", "tie"),
    ]
    ((_, cast, ties, left),) = scores.tables(here, votes, drawn)[2][2]
    assert (cast, ties) == (3, 1) and left.startswith("100.0%")


def test_the_interval_holds_the_spread_that_theory_gives():
    """Of 400 votes on as many comparisons of two: sd of the log-odds 1 / sqrt(n p (1 - p))."""
    rng = np.random.default_rng(1)
    here = arena([(0, 1)] * 400, "ab")
    votes = [Vote("ana", i, FIRST if won else SECOND, FIRST) for i, won in enumerate(rng.random(400) < 0.7)]
    first, second = scores.scores(here, votes)
    share = np.mean([vote.choice == FIRST for vote in votes])
    deviation = ELO / 2 / np.sqrt(400 * share * (1 - share))  # the score is half the difference
    assert first.name == "a" and first.score == pytest.approx(ELO / 2 * np.log(share / (1 - share)), rel=0.01)
    assert (first.high - first.low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)
    assert second.score == -first.score


def test_votes_of_many_on_one_comparison_are_no_independent_ones():
    """Ten voters who agree on each of 20 comparisons know as little as one."""
    rng = np.random.default_rng(2)
    here = arena([(0, 1)] * 20, "ab")
    alone = [Vote("0", i, FIRST if won else SECOND, FIRST) for i, won in enumerate(rng.random(20) < 0.6)]
    ten = [vote._replace(voter=str(voter)) for vote in alone for voter in range(10)]
    width = lambda votes: (lambda score: score.high - score.low)(scores.scores(here, votes)[0])
    assert width(ten) == pytest.approx(width(alone), rel=0.15)
    won = sum(vote.choice == FIRST for vote in alone)
    for votes, times in ((alone, 1), (ten, 10)):
        low, high = bootstrap.wilson_interval(won, 20)
        shown = f"{won / 20:.1%} ({low:.1%} to {high:.1%})"
        assert scores.tables(here, votes, [])[1][2] == [["a", "b", f"{times * won} : {times * (20 - won)}", shown]]
    assert scores.agreement(here, ten) == (1.0, 20)
    assert "Krippendorff's alpha: 1.00" in scores.agreement_line(here, ten)
    assert scores.agreement_line(here, alone).startswith("No comparison has votes of two voters")


def test_the_pairs_are_in_the_order_of_the_runs_and_a_tie_is_for_neither():
    here = arena([(1, 2), (0, 2), (0, 1), (0, 2)])
    choices = [FIRST, SECOND, TIE, FIRST]
    votes = [Vote("ana", number, choice, FIRST) for number, choice in enumerate(choices)]
    rows = scores.tables(here, votes, [])[1][2]
    assert [row[:3] for row in rows] == [["a", "c", "1 : 1"], ["b", "c", "1 : 0"]]


def test_one_vote_has_a_score_and_no_interval():
    first, _, _ = scores.scores(arena([(0, 1)]), [Vote("ana", 0, FIRST, FIRST)])
    assert first.name == "a" and first.score > 0 and np.isnan(first.low)


def test_the_table_shows_no_interval_that_is_none_and_no_negative_zero():
    here, votes = arena([(0, 1)]), [Vote("ana", 0, FIRST, FIRST)]
    (_, _, rows), *_ = scores.tables(here, votes, scores.scores(here, votes))
    assert not any("nan" in str(cell) for row in rows for cell in row)
    drawn = scores.Score("a", -0.3, -9.0, 9.0, 1, 0, 1)
    (_, _, (row,)), *_ = scores.tables(here, votes, [drawn])
    assert row[1] == "+0 (-9 to +9)"


def test_the_names_in_the_picture_are_as_they_are_written(tmp_path, monkeypatch):
    """Text between two dollars would be set as mathematics, or end in an error."""
    figures = []
    monkeypatch.setattr(scores.plots, "save", lambda figure, path: figures.append(figure))
    ranking = [scores.Score("a $x$", 1.0, 0.5, 1.5, 1, 0, 0), scores.Score("$\\b$", -1.0, -1.5, -0.5, 0, 0, 1)]
    scores._draw(ranking, tmp_path / "scores.png")
    names = figures[0].axes[0].get_yticklabels()
    assert [name.get_text() for name in names] == ["$\\b$", "a $x$"]
    assert not any(name.get_parse_math() for name in names)
