"""Classifier-free guidance that preserves the contrast of the conditional prediction."""

from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.prediction_changes import deviation_ratio, extrapolate, slide
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


def rescaled(
    branches: Branches,
    schedule: NoiseSchedule,
    scale: Scale,
    rescale: float = 0.7,
    interval: Interval = None,
    real: Array | None = None,
) -> Denoiser:
    """Classifier-free guidance, rescaled towards the standard deviation of the conditional prediction.

        v_cfg = v_c + (w - 1) (v_c - v_u),    v = v_cfg (phi std(v_c) / std(v_cfg) + 1 - phi)

    The standard deviations are taken over one example's values. The paper scales its network's output, which is v. This
    function scales v for every parameterization; scaling eps, as is common for networks that predict eps, gives another
    result.

    Facts:
        nfe: 2 branches per call
        neutral: w = 1, the conditional denoiser exactly; phi = 0 is classifier-free guidance exactly
        paper: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section 3.4 and
            algorithm 2

    Args:
        branches: evaluates (condition, null or negative condition).
        schedule: the process.
        scale: guidance scale w: a number, `[B]` or a function of t.
        rescale: strength phi in [0, 1]; 0.7 in the paper.
        interval: (t_low, t_high) outside which w = 1; None for all times.
        real: mask of x, False on padding, see `diffusion.padding`; the standard deviations are then over the real
            values.

    Raises:
        ValueError: if phi is not in [0, 1] or the interval is empty; when called, if there are not two branches.
    """
    check_process(branches, schedule)
    if not traced(rescale) and not 0 <= rescale <= 1:
        raise ValueError(f"rescaled: rescale = {rescale} must be in [0, 1]; 0 is classifier-free guidance")
    check_interval(interval, schedule)

    def denoise(x_t, t):
        alpha = left_broadcast(schedule.alpha(t), x_t)
        sigma = left_broadcast(schedule.sigma(t), x_t)
        v = lambda prediction: alpha * prediction.eps - sigma * prediction.x0
        cond, uncond = evaluate(branches, x_t, t, (2,), "(condition, null condition)")
        guided = extrapolate(cond, [uncond], [strength(scale, 1, interval, t, x_t)])
        some = None if real is None else left_broadcast(real, x_t)
        ratio = deviation_ratio(v(cond), v(guided), some)
        return slide(guided, schedule, t, rescale * (ratio - 1) * v(guided) / (alpha**2 + sigma**2))

    return belonging_to(schedule, denoise)
