"""The published figures of a paper, their measurements, and the rule for a verdict."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Published(NamedTuple):
    """A figure that a paper prints.

    Attributes:
        figure: the figure's name, e.g. "linear: SNR(T)".
        value: the printed value.
        half_width: half the width of the published interval: the standard error that the paper states, or half a unit
            of the last printed digit; > 0, or 0 for a value that is exact.
    """

    figure: str
    value: float
    half_width: float


class Remake(NamedTuple):
    """A published table or figure that is reproduced.

    Attributes:
        name: the remake's name on the command line.
        title: the content of the table or figure, in one line of plain words.
        paper: authors, year, title and arXiv number.
        place: the table or figure of the paper.
        source: text in which the published values were read.
        published: the figures, in the order of the paper.
        parts: names of the measurements. Each is stored as soon as it ends; every seed is a separate part.
        measure: a function (part, quick) -> {figure: value}. A quick measurement shows that the code runs, and gives no
            verdict. Values that the paper does not print, and arrays, are for the picture.
        minutes: the time of all parts on two cores, in minutes.
        cores: number of cores, 1 or 2, on which the record's parts were measured.
        unstated: the choices that the paper does not state, and what was chosen.
        differs: the explanation of figures outside the published interval; "" if there are none.
        left_out: the further content of the table or figure, and why it is not measured; "" if nothing is left out.
        conclude: a function {name: value} of all parts -> figures that compare parts; None if there are none.
        beside: names of measured values without a published one, which are listed below the table's other rows.
        draw: a function {part: {name: value or array}} -> the picture; None for a remake without one.
    """

    name: str
    title: str
    paper: str
    place: str
    source: str
    published: Sequence[Published]
    parts: Sequence[str]
    measure: Callable[[str, bool], Mapping[str, Any]]
    minutes: float
    cores: int = 2
    unstated: Sequence[str] = ()
    differs: str = ""
    left_out: str = ""
    conclude: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    beside: Sequence[str] = ()
    draw: "Callable[[Mapping[str, Mapping[str, Any]]], Figure] | None" = None


class Verdict(NamedTuple):
    """A published figure and its measurement.

    Attributes:
        published: the paper's figure.
        value: the mean over the parts that measured the figure.
        standard_error: the standard error of this mean; 0 for a single part, whose value counts as exact.
        reproduced: whether the value lies in the published interval, widened by twice the standard error.
        distance: the distance of the value from the published one, in combined standard errors; for an exact value
            (half_width 0) infinite unless it is equal.
    """

    published: Published
    value: float
    standard_error: float
    reproduced: bool
    distance: float


def verdict(published: Published, values: Sequence[float]) -> Verdict:
    """Compares a published figure with its measurements, by the same rule for every remake.

    The figure is reproduced if |mean - published| <= half_width + 2 standard errors of the mean. The distance is |mean
    - published| / sqrt(half_width^2 + standard_error^2).

    Args:
        published: the paper's figure.
        values: the measurements, at least one; each is from a different part.
    """
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    gap = abs(mean - published.value)
    spread = math.hypot(published.half_width, error)
    distance = gap / spread if spread else (math.inf if gap else 0.0)
    return Verdict(published, mean, error, gap <= published.half_width + 2 * error, distance)
