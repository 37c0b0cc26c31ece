"""Guidance by several conditions at once."""

from collections.abc import Sequence

from diffusion.guidance.branches import Branches, class_conditions, evaluate, with_conditions
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Scale, strength
from diffusion.parameterizations import Denoiser
from diffusion.parameterizations.sampled_process import belonging_to, process_of


@with_conditions(class_conditions)
def composed(branches: Branches, scales: Sequence[Scale]) -> Denoiser:
    """Guidance by several conditions with weights, which may be negative: uncond + sum_k w_k (cond_k - uncond).

    If the scores belong to densities, the guided score belongs to p_u prod_k (p_k / p_u)^(w_k). For a condition and a
    negative condition, use the branches (condition, negative condition, null condition) with the scales (w, -v).

    Facts:
        nfe: 1 + the number of conditions, branches per call
        neutral: every w_k = 0, the unconditional denoiser exactly
        paper: Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", section 4

    Args:
        branches: evaluates (condition 1, ..., condition K, null condition).
        scales: weights w_1 .. w_K, each a number, `[B]` or a function of t.

    Returns:
        A denoiser. If the network predicts a variance, the null branch provides it.

    Raises:
        ValueError: if there are no scales; when called, if the number of branches is not the number of scales plus 1.
    """
    if not scales:
        raise ValueError("composed: scales is empty; give one for each condition")

    def denoise(x_t, t):
        *conds, uncond = evaluate(
            branches, x_t, t, (len(scales) + 1,), f"(condition 1, ..., condition {len(scales)}, null condition)"
        )
        return extrapolate(uncond, conds, [-strength(scale, 0, None, t, x_t) for scale in scales])

    return belonging_to(process_of(branches), denoise)
