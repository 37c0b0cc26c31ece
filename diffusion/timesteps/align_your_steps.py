"""Published tables of noise levels that were optimised for a network."""

import numpy as np

from diffusion.schedules import NoiseSchedule
from diffusion.timesteps.grids import ending_at_zero
from diffusion.timesteps.valid_ranges import at_least_one, check_sigmas

# sigma / alpha at the starts of ten steps and at the end of the last step, from the authors' page "Quickstart Guide",
# with the digits of ComfyUI's `nodes_align_your_steps.py`.
SIGMAS = {
    "stable_diffusion_1.5": (
        14.6146412293,
        6.4745760956,
        3.8636745985,
        2.6946151520,
        1.8841921177,
        1.3943805092,
        0.9642583904,
        0.6523686016,
        0.3977456272,
        0.1515232662,
        0.0291671582,
    ),
    "stable_diffusion_xl": (
        14.6146412293,
        6.3184485287,
        3.7681790315,
        2.1811480769,
        1.3405244945,
        0.8620721141,
        0.5550693289,
        0.3798540708,
        0.2332364134,
        0.1114188177,
        0.0291671582,
    ),
    "stable_video_diffusion": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def align_your_steps(schedule: NoiseSchedule, steps: int, network: str) -> np.ndarray:
    """The times of the published optimal grid of a network, `[steps + 1]`, with 0 in place of the last time.

    The tables hold ten steps. For another number of steps, ln(sigma / alpha) is interpolated linearly in the index, as
    the authors do.

    Facts:
        paper: Sabour et al. 2024, "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models"

    Args:
        schedule: the process, which turns sigma / alpha into t; it must reach the table's first value, 14.6 or 700.
        steps: number of solver steps, >= 1.
        network: "stable_diffusion_1.5", "stable_diffusion_xl" or "stable_video_diffusion".

    Raises:
        ValueError: if the network has no table, or the schedule does not reach the table's first value.
    """
    if network not in SIGMAS:
        raise ValueError(
            f"align_your_steps: there is no table for {network!r}. Valid: {', '.join(SIGMAS)}; for your own network, "
            "use `optimal`"
        )
    table = np.array(SIGMAS[network])
    check_sigmas(schedule, table[-1], table[0])
    index = np.linspace(0, len(table) - 1, at_least_one(steps) + 1)
    sigmas = np.exp(np.interp(index, np.arange(len(table)), np.log(table)))
    return ending_at_zero(schedule, sigmas[:-1])
