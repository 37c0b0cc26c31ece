"""Lin et al.'s table 1: the share of the data that common schedules leave at their last step; the correction leaves 0.

The paper's values come from float32, which rounds the cosine's last beta, 0.999, to 0.99900001287, and so changes
1 - beta by 1.3e-5 of its value. The cosine schedule is therefore measured twice: in float64, and with betas that are
rounded to float32.
"""

from collections.abc import Mapping

import jax
import numpy as np

from diffusion import schedules
from diffusion.experiments.remake.claims import Published, Remake

T = 1000
ROUNDED = "cosine, betas in float32"


def cosine_betas() -> np.ndarray:
    """beta_t = min(1 - alpha_bar_t / alpha_bar_{t-1}, 0.999), alpha_bar_t = cos^2((t / T + 0.008) / 1.008 pi / 2)."""
    steps = np.arange(T + 1) / T
    alpha_bar = np.cos((steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """SNR(T) and sqrt(alpha_bar_T) of one schedule, and the latter also after the correction."""
    del quick
    make = {
        "linear": schedules.linear_beta,
        "cosine": lambda: schedules.from_betas(cosine_betas()),
        ROUNDED: lambda: schedules.from_betas(cosine_betas().astype(np.float32).astype(np.float64)),
        "Stable Diffusion": schedules.scaled_linear,
    }
    with jax.enable_x64(True):
        schedule = make[part]()
        corrected = schedules.zero_terminal_snr(schedule)
        alpha, sigma = float(schedule.alpha(schedule.t_max)), float(schedule.sigma(schedule.t_max))
        after = float(corrected.alpha(corrected.t_max))
    return {
        f"{part}: SNR(T)": (alpha / sigma) ** 2,
        f"{part}: sqrt(alpha_bar_T)": alpha,
        f"{part}, corrected: sqrt(alpha_bar_T)": after,
    }


def _rows(part: str, snr: tuple[float, float], alpha: tuple[float, float]) -> list[Published]:
    return [
        Published(f"{part}: SNR(T)", *snr),
        Published(f"{part}: sqrt(alpha_bar_T)", *alpha),
        Published(f"{part}, corrected: sqrt(alpha_bar_T)", 0.0, 0.0),
    ]


COSINE = (2.428735e-9, 5e-16), (4.928220e-5, 5e-12)

REMAKE = Remake(
    name="terminal_snr",
    title="Signal-to-noise ratio at the last step of three schedules, and after the correction",
    paper='Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891',
    place="table 1; the corrected values are section 3.1's zero terminal SNR",
    source="the paper's text",
    published=[
        *_rows("linear", (4.035993e-5, 5e-12), (0.006353, 5e-7)),
        *_rows("cosine", *COSINE),
        *_rows(ROUNDED, *COSINE),
        *_rows("Stable Diffusion", (0.004682, 5e-7), (0.068265, 5e-7)),
    ],
    parts=["linear", "cosine", ROUNDED, "Stable Diffusion"],
    measure=measure,
    minutes=0.1,
    unstated=["the precision of the betas. We use float64, and for the cosine schedule also float32."],
    differs=(
        "The two values of the cosine schedule in the paper come from betas in float32, where 0.999 is "
        "0.99900001287. In float64, the values are 1.3e-5 and 6.5e-6 larger. With betas in float32, the square "
        "root equals the value in the paper, and the ratio, 2.4287355e-9, differs only by the rounding of its "
        "last digit."
    ),
)
