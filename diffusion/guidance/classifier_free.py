"""Extrapolation away from a second prediction: unconditional, for another condition, or by a worse network."""

import jax.numpy as jnp

from diffusion.arrays.arguments import is_count
from diffusion.guidance.branches import Branches, evaluate, separately
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Interval, Ramp, Scale, check_interval, ramped, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, process_of


def classifier_free(
    branches: Branches, scale: Scale, interval: Interval = None, channels: int | None = None, ramp: Ramp | None = None
) -> Denoiser:
    """Classifier-free guidance: cond + (w - 1) (cond - uncond), for x0 and eps alike.

    w = 0 gives the second branch. With a negative condition in place of the null condition (negative prompting), the
    sample moves away from it. If the two scores belong to densities p_c and p_u, the guided score belongs to p_c^w
    p_u^(1 - w).

    Facts:
        nfe: 2 branches per call
        neutral: w = 1, the conditional denoiser exactly
        paper: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", eq. 6, whose w is ours minus one; intervals:
            Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval"; scales over t: Wang et al. 2024,
            "Analysis of Classifier-Free Guidance Weight Schedulers"

    Args:
        branches: evaluates (condition, null or negative condition).
        scale: guidance scale w: a number, one for each sample `[B]`, or a function of t.
        interval: (t_low, t_high), both included, outside which w = 1; None for all times. The time of a paper's sigma /
            alpha is schedule.inverse_log_snr(-2 log(sigma / alpha)).
        channels: number of leading channels that are guided, >= 1; None for all. The code of DiT and SiT, and the
            results of their papers, guide 3 of the 4 channels of the latents.
        ramp: factor of w - 1 as a function of t, such as `power_cosine()`; None for 1 at all times.

    Returns:
        A denoiser. If the network predicts a variance, the conditional branch provides it.

    Raises:
        ValueError: if the interval is empty, or channels is below 1; when called, if there are not two branches, or x
            has fewer channels.
    """
    check_interval(interval, process_of(branches))
    if channels is not None and not is_count(channels):
        raise ValueError(f"classifier_free: channels = {channels} must be an integer of at least 1, or None for all")

    scale = ramped(scale, ramp)

    def denoise(x_t, t):
        cond, uncond = evaluate(branches, x_t, t, (2,), "(condition, null condition)")
        guided = extrapolate(cond, [uncond], [strength(scale, 1, interval, t, x_t)])
        if channels is None:
            return guided
        if channels > x_t.shape[-1]:
            raise ValueError(f"classifier_free: channels = {channels}, but x has {x_t.shape[-1]}. Valid: None for all")
        chosen = jnp.arange(x_t.shape[-1]) < channels
        return guided._replace(x0=jnp.where(chosen, guided.x0, cond.x0), eps=jnp.where(chosen, guided.eps, cond.eps))

    return belonging_to(process_of(branches), denoise)


def autoguidance(denoise: Denoiser, worse: Denoiser, scale: Scale, interval: Interval = None) -> Denoiser:
    """Autoguidance: good + (w - 1) (good - bad), where bad is a smaller or less trained network for the same task.

    Facts:
        nfe: 1 of each network per call
        neutral: w = 1, the good network's denoiser exactly
        paper: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", section 4

    Args:
        denoise: the network to be guided, with its condition.
        worse: the worse network, with the same condition.
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which w = 1; None for all times.

    Raises:
        ValueError: if the interval is empty.
    """
    return classifier_free(separately(denoise, worse), scale, interval)
