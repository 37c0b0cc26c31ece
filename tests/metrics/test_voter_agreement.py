"""Krippendorff's alpha against his published example and against its definition over pairs."""

import itertools

import numpy as np
import pytest

from diffusion.metrics.voter_agreement import NO_VOTE, krippendorff_alpha

# Krippendorff 2011, section C: four observers, twelve units; 0 is missing.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def test_the_published_example():
    assert krippendorff_alpha(np.array(PUBLISHED) - 1) == pytest.approx(0.743, abs=5e-4)


def test_it_is_one_less_the_disagreement_of_pairs_over_that_by_chance():
    votes = np.random.default_rng(0).integers(-1, 3, (3, 30))
    items = [[int(vote) for vote in item if vote != NO_VOTE] for item in votes.T]
    items = [item for item in items if len(item) > 1]
    every = [vote for item in items for vote in item]
    differ = lambda pairs: sum(a != b for a, b in pairs)
    observed = sum(differ(itertools.permutations(item, 2)) / (len(item) - 1) for item in items) / len(every)
    expected = differ(itertools.permutations(every, 2)) / (len(every) * (len(every) - 1))
    assert krippendorff_alpha(votes) == pytest.approx(1 - observed / expected)


def test_full_agreement_is_one_and_nothing_in_common_is_not_defined():
    assert krippendorff_alpha(np.array([[0, 1, 2], [0, 1, 2]])) == 1
    assert np.isnan(krippendorff_alpha(np.array([[0, NO_VOTE], [NO_VOTE, 1]])))
    assert np.isnan(krippendorff_alpha(np.array([[1, 1], [1, 1]])))
    assert krippendorff_alpha(np.array([[0, 1], [1, 0]])) < 0


@pytest.mark.parametrize("votes", [[0, 1], [[0.5]], [[-2]], [[0, -2], [1, 1]]])
def test_what_is_no_table_of_votes_is_refused(votes):
    with pytest.raises(ValueError, match="votes must be integers"):
        krippendorff_alpha(np.array(votes))
