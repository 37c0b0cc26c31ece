"""The type of watermarks: how they are embedded, and how they are read."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np


class Reading(NamedTuple):
    """The evidence for a watermark in B noises or pictures.

    Attributes:
        score: float64 `[B]`; a higher score is stronger evidence for the watermark.
        p_value: float64 `[B]`, the probability of this score or a higher one without the watermark.
        bits: Bool `[B, K]`, the read message; None for a watermark without a message.
    """

    score: np.ndarray
    p_value: np.ndarray
    bits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Watermark:
    """A watermark under one secret key.

    Attributes:
        carrier: input of `embed` and `read`: "noise" for the initial noise `[B, h, w, C]` from N(0, 1), or "pictures"
            for uint8 `[B, H, W, C]`.
        embed: (noise, random keys `[B]`) -> noise, traceable; or (pictures, None) -> pictures, by numpy.
        read: noise or pictures -> `Reading`, by numpy.
        message: Bool `[K]`, the embedded message; None for a watermark that only marks its presence.
        identity: name of the watermark and a digest of its key file, for records; "" if there is no file.

    Raises:
        ValueError: if carrier is neither.
    """

    carrier: Literal["noise", "pictures"]
    embed: Callable[[Any, Any], Any]
    read: Callable[[Any], Reading]
    message: np.ndarray | None = None
    identity: str = ""

    def __post_init__(self):
        if self.carrier not in ("noise", "pictures"):
            raise ValueError(f"a watermark's carrier is {self.carrier!r}. Valid: 'noise' or 'pictures'")

    def check_readable(self, draws: bool, from_picture: bool) -> None:
        """Refuses a watermark in the noise if inversion cannot recover this noise.

        Args:
            draws: whether the sampler adds noise.
            from_picture: whether sampling starts from a noised picture instead of pure noise, or keeps a part of one.

        Raises:
            ValueError: if one of them is true for a watermark in the noise.
        """
        if self.carrier == "noise" and (draws or from_picture):
            picture = "sampling starts from a picture, or keeps a part of one"
            why = "the sampler adds noise of its own" if draws else picture
            raise ValueError(
                f"{self.identity} lies in the initial noise and could not be read: {why}. Valid: a watermark for "
                "pictures, such as spread_spectrum, or a deterministic sampler that starts from noise alone"
            )


def check_whole(function: str, lowest: int, highest: int, **values: Any) -> None:
    """Checks integer arguments of a watermark.

    Raises:
        ValueError: if one is not an integer from `lowest` to `highest`.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not lowest <= value <= highest:
            raise ValueError(f"{function}: {name} = {value!r} must be an integer, {lowest} .. {highest}")


def check_finite(function: str, values: Any) -> None:
    """Refuses to read noise or pictures that are not finite.

    Raises:
        ValueError: if a value is infinite or NaN.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{function}: the input has values that are not finite, so no watermark can be read")
