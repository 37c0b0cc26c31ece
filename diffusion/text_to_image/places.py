"""Where the regions and words of a request lie, as far as a program is compiled for it."""

__all__ = ["Places", "ends"]

from typing import NamedTuple

import numpy as np

from diffusion import timesteps
from diffusion.text_to_image.regions import Box


class Places(NamedTuple):
    """The places of regions and words that a program is compiled for.

    Attributes:
        masks: the masks of the regions over the latents, float32 [h, w].
        boxes: the boxes of the words; None for a word that may be anywhere.
        attention: scale of the guidance of words.
        first: number of tokens before the prompt's.
        ends: the last t at which words without a box move x_t, and those with one.
    """

    masks: tuple[np.ndarray, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    attention: float = 1.0
    first: int = 0
    ends: tuple[float, float] = (0.5, 0.8)

    @property
    def key(self) -> tuple:
        """Equal for equal places."""
        return (*(mask.tobytes() for mask in self.masks), self.boxes, self.attention, self.first, self.ends)


NOWHERE = Places()


def ends(plan: timesteps.Plan) -> tuple[float, float]:
    """The last t of the first half of the steps of a plan, and of their first fifth, each of one step at least."""
    t = np.unique(np.asarray(plan.t)[~np.asarray(plan.renoise)])[::-1]  # a step that is repeated counts once
    last = lambda parts: float(t[-(-len(t) // parts) - 1])
    return last(2), last(5)
