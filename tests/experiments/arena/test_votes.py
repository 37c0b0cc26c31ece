"""Votes: lines that stand, are withdrawn, and outlive a crash."""

import pytest

from diffusion.experiments.arena import votes
from diffusion.experiments.arena.votes import FIRST, SECOND, TIE, WITHDRAWN, Vote
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import json_lines


def test_the_last_line_of_a_voter_on_a_comparison_counts(tmp_path):
    lines = [
        Vote("ana", 0, FIRST, FIRST),
        Vote("ben", 0, SECOND, FIRST),
        Vote("ana", 1, TIE, SECOND),
        Vote("ana", 0, WITHDRAWN, FIRST),
        Vote("ana", 0, SECOND, FIRST),
        Vote("ben", 0, WITHDRAWN, FIRST),
    ]
    for vote in lines:
        votes.add(tmp_path, vote)
    assert votes.read(tmp_path, 2) == [lines[2], lines[4]]
    assert votes.select_votes(votes.read(tmp_path, 2), "ben") == []
    assert votes.read(tmp_path / "none", 2) == []


def test_a_torn_line_takes_no_other_with_it(tmp_path):
    first, second = Vote("ana", 0, FIRST, FIRST), Vote("ana", 1, TIE, FIRST)
    json_lines.mend(tmp_path / votes.FILE)
    votes.add(tmp_path, first)
    with open(tmp_path / votes.FILE, "a") as file:
        file.write('{"voter": "ana", "compar')
    json_lines.mend(tmp_path / votes.FILE)
    votes.add(tmp_path, second)
    assert votes.read(tmp_path, 2) == [first, second]


@pytest.mark.parametrize(
    "line, message",
    [('{"voter": "ana", "comparison": 2, "choice": "tie", "left": "first"}', r"comparison = 2\. Valid: 0 to"),
     ('{"voter": "ana", "comparison": 0, "choice": "both", "left": "first"}', "choice"),
     ('{"voter": "ana", "comparison": 0}', "Each line is"), ('{"voter": "ana", "more": 0}', "Each line is")],
)  # fmt: skip
def test_a_line_that_is_no_vote_is_named(tmp_path, line, message):
    (tmp_path / votes.FILE).write_text(line + "\n")
    with pytest.raises(WorkdirError, match=message):
        votes.read(tmp_path, 2)


def test_a_damaged_line_among_the_votes_is_an_error(tmp_path):
    for comparison in range(5):
        votes.add(tmp_path, Vote("ana", comparison, FIRST, FIRST))
    path = tmp_path / votes.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]]))
    with pytest.raises(WorkdirError, match=r"votes\.jsonl: line 3 "):
        votes.read(tmp_path, 5)
