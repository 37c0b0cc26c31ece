"""The votes of an arena, one per line in votes.jsonl; lines are added and never removed."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import json_lines, schema

FILE = "votes.jsonl"
FIRST, SECOND, TIE = "first", "second", "tie"
WITHDRAWN = "withdrawn"  # takes the voter's vote on this comparison back
CHOICES = (FIRST, SECOND, TIE, WITHDRAWN)
LINE = {
    "voter": schema.text(40),
    "comparison": schema.integer(),
    "choice": schema.Valid(f"one of {', '.join(CHOICES)}", CHOICES.__contains__),
    "left": schema.Valid(f"{FIRST} or {SECOND}", (FIRST, SECOND).__contains__),
}


class Vote(NamedTuple):
    """The choice of a voter.

    Attributes:
        voter: the voter's name.
        comparison: the comparison's number.
        choice: the first or the second picture of the comparison, a tie, or that an earlier vote is withdrawn.
        left: the picture that was on the left: the first or the second.
    """

    voter: str
    comparison: int
    choice: str
    left: str


def add(folder: pathlib.Path, vote: Vote) -> None:
    """Adds a vote, which is on the disk when this returns."""
    json_lines.append(folder / FILE, vote._asdict())
    json_lines.sync(folder / FILE)


def read(folder: pathlib.Path, comparisons: int) -> list[Vote]:
    """The valid votes, in the order in which they were cast: at most one by each voter for each comparison.

    Args:
        folder: the arena's folder.
        comparisons: the number of its comparisons.

    Raises:
        WorkdirError: if a line is damaged, or holds no vote on one of them.
    """
    path = folder / FILE
    standing: dict[tuple[str, int], Vote] = {}
    try:
        lines = json_lines.rows(path)
    except OSError as error:
        raise WorkdirError(str(error)) from error
    for row in lines:
        try:
            schema.check(LINE, row, str(path))
            vote = Vote(**row)
            if vote.comparison >= comparisons:
                raise ValueError(f"{path}: comparison = {vote.comparison}. Valid: 0 to {comparisons - 1}.")
        except (ValueError, TypeError) as error:
            raise WorkdirError(f"{error} Each line is {{voter, comparison, choice, left}}.") from error
        standing.pop((vote.voter, vote.comparison), None)
        if vote.choice != WITHDRAWN:
            standing[vote.voter, vote.comparison] = vote
    return list(standing.values())


def select_votes(votes: Iterable[Vote], voter: str) -> list[Vote]:
    """The votes of one voter."""
    return [vote for vote in votes if vote.voter == voter]
