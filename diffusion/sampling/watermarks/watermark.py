"""What a watermark is: how it is put in, and how it is read."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np


class Reading(NamedTuple):
    """The evidence for a watermark in B noises or pictures.

    Attributes:
        score: float64 `[B]`; the higher, the surer that the watermark is there.
        p_value: float64 `[B]`, the probability of such a score or a higher one where it is not.
        bits: Bool `[B, K]` of the message; None for a watermark without one.
    """

    score: np.ndarray
    p_value: np.ndarray
    bits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Watermark:
    """A watermark under one secret key.

    Attributes:
        carrier: the input of `embed` and `read`: "noise" `[B, h, w, C]` of N(0, 1), which sampling starts from, or
            "pictures", uint8 `[B, H, W, C]`.
        embed: (noise, random keys `[B]`) -> noise, traceable; or (pictures, None) -> pictures, by numpy.
        read: noise or pictures -> `Reading`, by numpy.
        message: Bool `[K]` that is embedded; None for a watermark that says "here" alone.
        identity: its name and a digest of its key file, for records; "" where no file made it.
    """

    carrier: Literal["noise", "pictures"]
    embed: Callable[[Any, Any], Any]
    read: Callable[[Any], Reading]
    message: np.ndarray | None = None
    identity: str = ""

    def check_readable(self, draws: bool, from_picture: bool) -> None:
        """Refuses a watermark in the noise where inversion does not lead back to that noise.

        Args:
            draws: whether sampling adds noise of its own.
            from_picture: whether sampling starts from a picture with noise, in place of noise alone.

        Raises:
            ValueError: if so.
        """
        if self.carrier == "noise" and (draws or from_picture):
            why = "the sampler adds noise of its own" if draws else "sampling starts from a picture"
            raise ValueError(
                f"{self.identity} lies in the initial noise and could not be read: {why}. Valid: a watermark for "
                "pictures, such as spread_spectrum, or a deterministic sampler that starts from noise alone"
            )


def check_whole(function: str, lowest: int, highest: int, **values: Any) -> None:
    """Checks arguments of a watermark.

    Raises:
        ValueError: if one is not a whole number from `lowest` to `highest`.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not lowest <= value <= highest:
            raise ValueError(f"{function}: {name} = {value!r} must be an integer, {lowest} .. {highest}")


def check_finite(function: str, values: Any) -> None:
    """Refuses noise or pictures to read that are not finite.

    Raises:
        ValueError: if a value is infinite or no number.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{function}: the input has values that are not finite, so no watermark can be read")
