"""CFG++: guidance of only the clean estimate."""

from diffusion.guidance.branches import Branches, evaluate
from diffusion.guidance.memory import Unpaired
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Prediction
from diffusion.parameterizations.sampled_process import belonging_to, process_of


def classifier_free_plus_plus(branches: Branches, scale: Scale, interval: Interval = None) -> Unpaired:
    """CFG++: guides x0 = x0_u + lambda (x0_c - x0_u), and renoises with the unconditional eps = eps_u.

        x_s = alpha_s x0 + sigma_s eps_u

    Facts:
        nfe: 2 branches per call
        neutral: lambda = 0, the unconditional denoiser exactly
        paper: Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", algorithm
            2

    Args:
        branches: evaluates (condition, null condition).
        scale: guidance scale lambda, in [0, 1] in the paper: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which lambda = 0; None for all times.

    Returns:
        An `Unpaired` denoiser, since alpha x0 + sigma eps differs from x_t by design. `samplers.sample` accepts it with
        samplers that use both fields, such as ddim, and refuses all others.

    Raises:
        ValueError: if the interval is empty; when called, if there are not two branches.
    """
    check_interval(interval, process_of(branches))

    def denoise(x_t, t):
        cond, uncond = evaluate(branches, x_t, t, (2,), "(condition, null condition)")
        x0 = uncond.x0 + strength(scale, 0, interval, t, x_t) * (cond.x0 - uncond.x0)
        return Prediction(x0, uncond.eps, uncond.variance)

    return Unpaired(belonging_to(process_of(branches), denoise))
