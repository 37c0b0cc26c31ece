"""Several conditions at once."""

from collections.abc import Sequence

from diffusion.guidance.branches import Branches, class_conditions, evaluate, with_conditions
from diffusion.guidance.prediction_changes import extrapolate
from diffusion.guidance.strength import Scale, strength
from diffusion.parameterizations import Denoiser


@with_conditions(class_conditions)
def composed(branches: Branches, scales: Sequence[Scale]) -> Denoiser:
    """Several conditions, each with a weight that may be negative: uncond + sum_k w_k (cond_k - uncond).

    Where the scores belong to densities, the guided score belongs to p_u prod_k (p_k / p_u)^(w_k). A condition and a
    negative one are composed((cond, negative, null), (w, -v)).

    Facts:
        nfe: 1 + the number of conditions, branches a call
        neutral: every w_k = 0, the unconditional denoiser exactly
        paper: Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", section 4

    Args:
        branches: evaluates (condition 1, ..., condition K, null condition).
        scales: weights w_1 .. w_K, each a number, `[B]` or a function of t.

    Returns:
        A denoiser. The variance, where the network predicts one, is the null branch's.

    Raises:
        ValueError: if there are no scales; when called, if there is not one branch more than there are scales.
    """
    if not scales:
        raise ValueError("composed: scales is empty; give one for each condition")

    def denoise(x_t, t):
        *conds, uncond = evaluate(
            branches, x_t, t, (len(scales) + 1,), f"(condition 1, ..., condition {len(scales)}, null condition)"
        )
        return extrapolate(uncond, conds, [-strength(scale, 0, None, t, x_t) for scale in scales])

    return denoise
