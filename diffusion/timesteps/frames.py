"""Plans with a time for each frame of a sequence."""

__all__ = ["staggered"]

import numpy as np
from jax.typing import ArrayLike

from diffusion.timesteps.plans import Plan, plan


def staggered(grid: ArrayLike, frames: int, delay: int) -> Plan:
    """The plan in which frame f follows the grid `delay` f steps after the first, for `samplers.per_frame`.

    With delay 0 all frames go together, with delay N one after the other; between them is diffusion forcing's pyramid,
    in which the near future is sharp before the far one.

    Facts:
        paper: Chen et al. 2024, "Diffusion Forcing", section 3.2

    Args:
        grid: `[N + 1]` times, strictly decreasing.
        frames: F, >= 1.
        delay: steps between the starts of two frames, >= 0.

    Returns:
        A plan with t and s of shape `[N + delay (F - 1), F]`; a frame rests where they are equal.

    Raises:
        ValueError: if frames or delay is out of range, or as `plan` does.
    """
    if frames < 1 or delay < 0:
        raise ValueError(f"staggered: needs frames >= 1 and delay >= 0; got {frames} and {delay}")
    steps = plan(grid).t.shape[0]
    total = steps + delay * (frames - 1)
    position = np.clip(np.arange(total + 1)[:, None] - delay * np.arange(frames), 0, steps)
    times = np.asarray(grid)[position]
    return Plan(times[:-1], times[1:], np.zeros(total, bool))
