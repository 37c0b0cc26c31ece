"""The use of a LoRA file: its weight, and the interval of t in which it acts."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from diffusion.io import schema
from diffusion.text_to_image.valid_values import valid_as

WEIGHT = schema.number(-1e6, 1e6)
TIMES = schema.several(schema.number(0, 1), 2, 2)
ALWAYS = (0.0, 1.0)


class LoraWeight(NamedTuple):
    """The weight of a LoRA file, and the times at which it acts.

    Attributes:
        weight: the weight of its update.
        times: the least and the greatest t at which it acts, both included; t = 0 is the picture, t = 1 noise.
    """

    weight: float
    times: tuple[float, float] = ALWAYS

    @classmethod
    def read(cls, value: Any) -> Self:
        """The weight of a number, or of a weight and two times: 0.8, (0.8, (0.3, 1)).

        Raises:
            ValueError: for anything else, or a number out of range.
        """
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        if len(parts) not in (1, 2):
            raise ValueError(f"a LoRA has {parts!r}. Valid: a weight, or a weight and two times, (0.8, (0.3, 1)).")
        weight = float(valid_as(WEIGHT, "weight of a LoRA", parts[0]))
        times = parts[1] if len(parts) == 2 else ALWAYS
        low, high = valid_as(TIMES, "times of a LoRA", tuple(times) if isinstance(times, list) else times)
        if low > high:
            raise ValueError(f"times of a LoRA = {(low, high)}. Valid: the smaller t first, {(high, low)}.")
        return cls(weight, (float(low), float(high)))

    @property
    def written(self) -> float | list:
        """The form in a file of settings: a number, or the weight and the times."""
        return self.weight if self.always else [self.weight, list(self.times)]

    @property
    def always(self) -> bool:
        """Whether it acts at every t."""
        return self.times == ALWAYS
