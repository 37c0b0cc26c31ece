"""How far several voters agree beyond chance: Krippendorff's alpha."""

import numpy as np

NO_VOTE = -1
"""In place of a category, where a voter has not seen the item."""


def krippendorff_alpha(votes: np.ndarray) -> float:
    """Returns the agreement of voters on items; each voter may have seen a part of them.

    alpha = 1 - D_o / D_e: D_o is the share of disagreeing pairs of votes on one item, in which an item with m votes has
    the weight m, and D_e is the same share of all pairs of votes. 1 is full agreement, 0 the agreement of votes at
    random.

    Args:
        votes: int [V, N]: the category, 0, 1, ..., that a voter chose for an item, or `NO_VOTE`.

    Returns:
        alpha <= 1; nan where no item has two votes, or all items that have chose one category.

    Raises:
        ValueError: if `votes` is no such array.

    Paper: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C (nominal data).
    """
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.dtype.kind not in "iu" or (votes < NO_VOTE).any():
        raise ValueError(f"votes must be integers [V, N] >= {NO_VOTE}, got {votes.dtype} {list(votes.shape)}")
    chosen = votes[None] == np.arange(votes.max(initial=0) + 1)[:, None, None]
    counts = chosen.sum(1).T.astype(np.float64)  # [N, categories]
    counts = counts[counts.sum(1) >= 2]
    votes_by_item = counts.sum(1)
    total = votes_by_item.sum()
    votes_by_category = counts.sum(0)
    expected = total**2 - (votes_by_category**2).sum()
    if expected == 0:
        return float("nan")
    observed = ((votes_by_item**2 - (counts**2).sum(1)) / (votes_by_item - 1)).sum()
    return float(1 - (total - 1) * observed / expected)
