"""Strengths of players from paired comparisons, by the model of Bradley and Terry."""

import numpy as np

ELO = 400 / np.log(10)
"""Elo's points for each unit of log-strength: who is 400 points ahead is preferred ten times out of eleven."""
STEPS = 100  # most steps of Newton's method, which needs about ten


def bradley_terry(wins: np.ndarray, prior: float = 0.5) -> np.ndarray:
    """Returns the log-strengths of K players.

    P(i is preferred to j) = 1 / (1 + exp(theta_j - theta_i)); theta maximises
    sum_{i != j} (w_ij + prior) log P(i is preferred to j), with sum_i theta_i = 0.

    For two players theta_1 - theta_2 = log((w_12 + prior) / (w_21 + prior)), with prior 1/2 the estimate of a log-odds
    whose bias is of second order in 1 / n (Haldane 1956). With a prior every strength is finite.

    Args:
        wins: the number of times that i was preferred to j, [K, K], K >= 2, >= 0; a tie counts half for both. The
            diagonal is zero.
        prior: number of comparisons that each player is taken to have won against each other one beforehand, >= 0.

    Returns:
        theta, float64 [K].

    Raises:
        ValueError: if `wins` is no such matrix, or there is no finite maximum: with prior 0, where some players have
            never lost to any of the others (Ford 1957).

    Paper: Bradley and Terry 1952, equation 1.
    """
    wins = np.asarray(wins, np.float64)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise ValueError(f"wins must have shape [K, K] with K >= 2, got {list(wins.shape)}")
    if not (wins >= 0).all() or np.diag(wins).any():
        raise ValueError("wins must be >= 0, and zero on the diagonal, because nobody is compared with itself")
    if not prior >= 0:
        raise ValueError(f"prior must be >= 0, got {prior}")
    count = len(wins)
    wins = wins + prior * (1 - np.eye(count))
    reached = np.linalg.matrix_power((wins > 0) + np.eye(count), count) > 0
    if not reached.all():
        raise ValueError(
            "the strengths are not finite, because some players never lost to any of the others; use a prior > 0"
        )
    compared = wins + wins.T
    theta = np.zeros(count)
    for _ in range(STEPS):
        preferred = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        gradient = (wins - compared * preferred).sum(1)
        curvature = compared * preferred * (1 - preferred)
        hessian = np.diag(curvature.sum(1)) - curvature
        # The Hessian has the null vector 1, along which the gradient is zero; adding 1 keeps the step in sum = 0.
        step = np.linalg.solve(hessian + 1, gradient)
        theta += np.clip(step, -2, 2)  # a full step can overshoot where a player hardly ever loses
        if np.abs(step).max() < 1e-10:
            break
    return theta - theta.mean()
