"""The results of an arena's votes: scores with intervals, preferences for each pair, and agreement of the voters."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion.experiments.arena import votes as votes_file
from diffusion.experiments.arena.comparisons import Arena
from diffusion.experiments.arena.votes import FIRST, SECOND, TIE, Vote
from diffusion.experiments.evaluation import plots, report
from diffusion.io import files
from diffusion.io.files import write_text
from diffusion.metrics import bootstrap
from diffusion.metrics.bradley_terry import ELO, bradley_terry
from diffusion.metrics.prompt_following import clustered
from diffusion.metrics.voter_agreement import NO_VOTE, krippendorff_alpha

DRAWS = 1000  # draws of the bootstrap
CATEGORIES = (FIRST, SECOND, TIE)
HOW_TO_READ = (
    "The score is 400 / ln 10 times the log-strength in Bradley and Terry's model; the average score is 0. A run that "
    "is 400 points ahead is preferred ten times out of eleven. A tie counts as half a win for both runs. Each run is "
    "credited with an extra half win against every other run, so that all scores are finite. Brackets contain 95 % "
    "bootstrap intervals; the bootstrap draws comparisons, each with all its votes. The intervals of the pairs' shares "
    "are Wilson's, for as many votes as would be independent."
)


class Score(NamedTuple):
    """The score of one competitor.

    Attributes:
        name: the competitor's name.
        score: the score in Elo's points.
        low: the lower end of the score's 95 % interval; NaN if there are votes on fewer than two comparisons.
        high: the upper end of the interval; NaN as `low`.
        wins: the number of votes for the competitor.
        ties: the number of ties in the competitor's comparisons.
        losses: the number of votes for its opponent in these comparisons.
    """

    name: str
    score: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None if there is none."""
        return None if np.isnan(self.low) else (self.low, self.high)


def wins(arena: Arena, votes: Sequence[Vote]) -> np.ndarray:
    """How often competitor i was preferred to competitor j, float64 [K, K]; a tie counts as half a win for both."""
    matrix = np.zeros((len(arena.names),) * 2)
    for vote in votes:
        comparison = arena.comparisons[vote.comparison]
        share = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}[vote.choice]
        matrix[comparison.first, comparison.second] += share
        matrix[comparison.second, comparison.first] += 1 - share
    return matrix


def scores(arena: Arena, votes: Sequence[Vote]) -> list[Score]:
    """The score of each competitor, the best first.

    Args:
        arena: the arena of the votes.
        votes: the votes that were not withdrawn, at least one.
    """
    theta = bradley_terry(wins(arena, votes))
    votes_by_comparison: dict[int, list[Vote]] = {}
    for vote in votes:
        votes_by_comparison.setdefault(vote.comparison, []).append(vote)
    wins_by_comparison = np.stack([wins(arena, group) for group in votes_by_comparison.values()])
    intervals = [(float("nan"),) * 2] * len(theta)
    if len(wins_by_comparison) > 1:
        statistic = lambda rows: bradley_terry(wins_by_comparison[rows].sum(0))
        draws = bootstrap.replicates(statistic, len(wins_by_comparison), DRAWS, np.random.default_rng(arena.seed))
        intervals = [bootstrap.percentile_interval(column) for column in draws.T]
    counts = [_counts(arena, votes, number) for number in range(len(theta))]
    ranking = [
        Score(name, float(ELO * value), float(ELO * low), float(ELO * high), *count)
        for name, value, (low, high), count in zip(arena.names, theta, intervals, counts)
    ]
    return sorted(ranking, key=lambda score: -score.score)


def _counts(arena: Arena, votes: Sequence[Vote], number: int) -> tuple[int, int, int]:
    """(wins, ties, losses) of a competitor."""
    won = tied = lost = 0
    for vote in votes:
        comparison = arena.comparisons[vote.comparison]
        if number in (comparison.first, comparison.second):
            competitor = FIRST if comparison.first == number else SECOND
            tied += vote.choice == TIE
            won += vote.choice == competitor
            lost += vote.choice not in (TIE, competitor)
    return won, tied, lost


def agreement(arena: Arena, votes: Sequence[Vote]) -> tuple[float, int]:
    """(Krippendorff's alpha of the voters' choices, the number of comparisons on which two or more people voted)."""
    voters = sorted({vote.voter for vote in votes})
    table = np.full((len(voters), len(arena.comparisons)), NO_VOTE)
    for vote in votes:
        table[voters.index(vote.voter), vote.comparison] = CATEGORIES.index(vote.choice)
    return krippendorff_alpha(table), int(((table != NO_VOTE).sum(0) >= 2).sum())


def tables(
    arena: Arena, votes: Sequence[Vote], scores: Sequence[Score]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Three tables as (title, header, rows of cells): the scores, the pairs and the voters."""
    score_rows = [
        [score.name, f"{score.score:+z.0f}{report.span(score.interval, '+z.0f')}", score.wins, score.ties, score.losses]
        for score in scores
    ]
    pair_rows = []
    preferred: dict[tuple[int, int], list[tuple[int, int]]] = {}  # {pair: (competitor, comparison) of each vote}
    for vote in votes:
        comparison = arena.comparisons[vote.comparison]
        if vote.choice != TIE:
            chosen = comparison.first if vote.choice == FIRST else comparison.second
            pair = (min(comparison.first, comparison.second), max(comparison.first, comparison.second))
            preferred.setdefault(pair, []).append((chosen, vote.comparison))
    for (first, second), decided in sorted(preferred.items()):
        right = [chosen == first for chosen, _ in decided]
        share = report.percent(clustered.share(right, [number for _, number in decided]))
        counts = f"{sum(right)} : {len(right) - sum(right)}"
        pair_rows.append([arena.names[first], arena.names[second], counts, share])
    voter_rows = []
    for voter in sorted({vote.voter for vote in votes}):
        cast = votes_file.select_votes(votes, voter)
        decided = [vote for vote in cast if vote.choice != TIE]
        left = report.percent(bootstrap.share([vote.choice == vote.left for vote in decided])) if decided else "—"
        voter_rows.append([voter, len(cast), len(cast) - len(decided), left])
    return [
        ("Scores", ["run", "score", "wins", "ties", "losses"], score_rows),
        ("Pairs", ["run", "against", "votes, without ties", "share of the first"], pair_rows),
        ("Voters", ["voter", "votes", "ties", "chose the left one"], voter_rows),
    ]


def write(arena: Arena, votes: Sequence[Vote], scores: Sequence[Score], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes scores.csv, votes.csv, arena.md and scores.png; returns their paths.

    Args:
        arena: the arena of the votes.
        votes: the votes that were not withdrawn, at least one.
        scores: the scores of these votes, the best first.
        folder: the arena's folder.
    """
    _csv(folder / "scores.csv", Score._fields, scores)
    rows = []
    for vote in votes:
        comparison = arena.comparisons[vote.comparison]
        pair = {FIRST: arena.names[comparison.first], SECOND: arena.names[comparison.second]}
        right = pair[SECOND if vote.left == FIRST else FIRST]
        chosen = pair.get(vote.choice, TIE)
        rows.append([vote.voter, vote.comparison, comparison.request, pair[vote.left], right, chosen])
    _csv(folder / "votes.csv", ("voter", "comparison", "request", "left", "right", "preferred"), rows)
    _draw(scores, folder / "scores.png")
    parts = [f"# {arena.question}"]
    for title, header, cells in tables(arena, votes, scores):
        parts += [f"## {title}", report.table(header, cells)]
    caption = "Scores of Bradley and Terry's model, with 95 % intervals"
    parts += [agreement_line(arena, votes), *report.pictures(folder, {"scores.png": caption}), HOW_TO_READ]
    write_text(folder / "arena.md", "\n\n".join(parts) + "\n")
    return [folder / name for name in ("arena.md", "scores.png", "scores.csv", "votes.csv")]


def agreement_line(arena: Arena, votes: Sequence[Vote]) -> str:
    """A sentence on how far the voters agree."""
    alpha, shared = agreement(arena, votes)
    if not shared:
        return "No comparison has votes of two voters, so the agreement of the voters is not known."
    value = "not defined, as all votes are equal" if np.isnan(alpha) else f"{alpha:.2f} (1: full, 0: by chance)"
    return (
        f"Agreement of the voters on the {shared} comparisons with votes of two or more, Krippendorff's alpha: {value}."
    )


def _csv(path: pathlib.Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    with files.atomic(path) as file:
        file.write(text.getvalue().encode())


def _draw(scores: Sequence[Score], path: pathlib.Path) -> None:
    figure = plots.blank(6, 1 + 0.4 * len(scores), "constrained")
    axes = figure.subplots()
    for row, score in enumerate(reversed(scores)):
        axes.plot([score.low, score.high], [row, row], color="0.6", linewidth=2)
        axes.plot(score.score, row, "o", color="C0")
    axes.set_yticks(range(len(scores)), [score.name for score in reversed(scores)], parse_math=False)
    axes.set_ylim(-0.5, len(scores) - 0.5)
    axes.set_xlabel("score (400 points: preferred ten times out of eleven)")
    plots.style(axes)
    plots.save(figure, path)
