"""Corrects a share that an imperfect judge has measured, using its errors on known examples."""

import math
from typing import NamedTuple


class Corrected(NamedTuple):
    """A corrected share.

    Attributes:
        value: the corrected share, in [0, 1]; NaN if the judge does not tell right from wrong.
        interval: its 95 % interval, which includes the uncertainty of the judge's error rates.
    """

    value: float
    interval: tuple[float, float]


def corrected(seen: tuple[int, int], right: tuple[int, int], wrong: tuple[int, int], z: float = 1.959964) -> Corrected:
    """The share of examples that are right, from the share q that a judge accepts.

    p = (q + c - 1) / (s + c - 1), with the judge's sensitivity s and specificity c (Rogan and Gladen 1978), since
    q = p s + (1 - p) (1 - c). The interval follows Lang and Reiczigel: with q' = (n q + z^2 / 2) / (n + z^2), s' = (n_s
    s + 1) / (n_s + 2), c' likewise, and p' of these,

        p' + d +- z sqrt(q' (1 - q') / n' + p'^2 v_s + (1 - p')^2 v_c) / (s' + c' - 1),
        v_s = s' (1 - s') / n_s',  v_c = c' (1 - c') / n_c',  d = 2 z^2 (p' v_s - (1 - p') v_c),

    where n' = n + z^2, n_s' = n_s + 2 and n_c' = n_c + 2; both ends are cut at 0 and 1. If s' + c' <= 1, the known
    examples are too few to bound the share, and the interval is (0, 1).

    Args:
        seen: (number of examples that the judge accepts, number of examples).
        right: the same counts for known examples that are right.
        wrong: the same counts for known examples that are wrong.
        z: normal quantile.

    Returns:
        The share and its interval; all are NaN if s + c <= 1.

    Raises:
        ValueError: if a count is impossible.

    Reference: Lang and Reiczigel 2014, "Confidence limits for prevalence of disease adjusted for estimated sensitivity
        and specificity", Preventive Veterinary Medicine 113; as in `prevSeSp` of the package asht of R.
    """
    for count, number in (seen, right, wrong):
        if number < 1 or not 0 <= count <= number:
            raise ValueError(f"counts must fulfil 0 <= count <= number and number >= 1, got {count} of {number}")
    share = seen[0] / seen[1]
    sensitivity = right[0] / right[1]
    specificity = 1 - wrong[0] / wrong[1]
    if sensitivity + specificity <= 1:
        return Corrected(math.nan, (math.nan, math.nan))
    cut = lambda x: min(max(x, 0.0), 1.0)
    value = cut((share + specificity - 1) / (sensitivity + specificity - 1))
    if (right[0] + 1) * (wrong[1] + 2) <= (wrong[0] + 1) * (right[1] + 2):  # s' + c' <= 1, without rounding
        return Corrected(value, (0.0, 1.0))
    number = seen[1] + z * z
    q = (seen[0] + z * z / 2) / number
    s = (right[0] + 1) / (right[1] + 2)
    c = (wrong[1] - wrong[0] + 1) / (wrong[1] + 2)
    p = (q + c - 1) / (s + c - 1)
    variance_s = s * (1 - s) / (right[1] + 2)
    variance_c = c * (1 - c) / (wrong[1] + 2)
    middle = p + 2 * z * z * (p * variance_s - (1 - p) * variance_c)
    half = z * math.sqrt(q * (1 - q) / number + p * p * variance_s + (1 - p) ** 2 * variance_c) / (s + c - 1)
    return Corrected(value, (cut(middle - half), cut(middle + half)))
