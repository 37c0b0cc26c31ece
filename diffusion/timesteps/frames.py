"""Plans with a time for each frame of a sequence."""

import numpy as np
from jax.typing import ArrayLike

from diffusion.timesteps.plans import Plan, plan

MOST_TIMES = 10**8  # of a plan, which is held in memory


def staggered(grid: ArrayLike, frames: int, delay: int, chunk: int = 1) -> Plan:
    """A plan for `per_frame` in which chunk c of the frames starts on the grid c `delay` steps after the first chunk.

    With delay 0 all frames are denoised together; with delay N the chunks are denoised one after the other. A delay in
    between gives the pyramid of diffusion forcing, in which the near future becomes sharp before the far future. Frame
    f belongs to chunk f // chunk; the frames of a chunk share their times.

    Facts:
        paper: Chen et al. 2024, "Diffusion Forcing", section 3.2; chunks as Huang et al. 2025, "Self Forcing"

    Args:
        grid: `[N + 1]` times, strictly decreasing.
        frames: number F of frames, >= 1.
        delay: number of steps between the starts of two chunks, >= 0.
        chunk: number of frames in a chunk, >= 1; it divides F.

    Returns:
        A plan with t and s of shape `[N + delay (F / chunk - 1), F]`; a frame rests where they are equal.

    Raises:
        ValueError: if frames, delay or chunk is out of range, the plan has more than 10^8 times, and under the
            conditions of `plan`.
    """
    if frames < 1 or delay < 0:
        raise ValueError(f"staggered: frames = {frames}, delay = {delay}. Valid: frames >= 1 and delay >= 0")
    if chunk < 1 or frames % chunk:
        raise ValueError(f"staggered: chunk = {chunk} does not divide {frames} frames. Valid: a divisor")
    steps = plan(grid).t.shape[0]
    total = steps + delay * (frames // chunk - 1)
    if total * frames > MOST_TIMES:
        raise ValueError(
            f"staggered: frames = {frames}, delay = {delay} make {total} steps, which are {total * frames} times. "
            f"Valid: at most {MOST_TIMES} times"
        )
    position = np.clip(np.arange(total + 1)[:, None] - delay * (np.arange(frames) // chunk), 0, steps)
    times = np.asarray(grid)[position]
    return Plan(times[:-1], times[1:], np.zeros(total, bool))
