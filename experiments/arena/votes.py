"""The votes of an arena, one per line in votes.jsonl; lines are added and never removed."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import json_lines, schema

FILE = "votes.jsonl"
FIRST, SECOND, TIE = "first", "second", "tie"
WITHDRAWN = "withdrawn"  # cancels the voter's earlier vote on this comparison
CHOICES = (FIRST, SECOND, TIE, WITHDRAWN)
LINE = {
    "voter": schema.text(40),
    "comparison": schema.integer(),
    "choice": schema.Valid(f"one of {', '.join(CHOICES)}", CHOICES.__contains__),
    "left": schema.Valid(f"{FIRST} or {SECOND}", (FIRST, SECOND).__contains__),
}


class Vote(NamedTuple):
    """A voter's choice between the two pictures of a comparison.

    Attributes:
        voter: the voter's name.
        comparison: the comparison's index in `Arena.comparisons`.
        choice: one of `CHOICES`: `FIRST` or `SECOND` for the preferred picture, `TIE`, or `WITHDRAWN` to cancel an
            earlier vote.
        left: the picture that was shown on the left, `FIRST` or `SECOND`.
    """

    voter: str
    comparison: int
    choice: str
    left: str


def add(folder: pathlib.Path, vote: Vote) -> None:
    """Appends a vote to the file, and returns when it has reached the disk."""
    json_lines.append(folder / FILE, vote._asdict())
    json_lines.sync(folder / FILE)


def read(folder: pathlib.Path, comparisons: int) -> list[Vote]:
    """The votes that were not withdrawn, in the order in which they were cast.

    Each voter has at most one vote on each comparison: a later vote replaces an earlier one.

    Args:
        folder: the arena's folder.
        comparisons: the number of comparisons in the arena.

    Raises:
        WorkdirError: if a line is damaged, or its comparison is not in the arena.
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
