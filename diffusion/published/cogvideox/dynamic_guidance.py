"""CogVideoX's guidance scale, which changes with every step: `use_dynamic_cfg` of its pipelines in diffusers."""

import numpy as np

POWER = 5


def dynamic_scales(scale: float, times: np.ndarray, steps: int) -> np.ndarray:
    """The scale of the guidance at each step.

        w_i = 1 + w (1 - cos(pi ((N - tau_i) / N)^5)) / 2

    tau_i counts the steps of the training process, 0 .. T - 1, and N those of the sampler. If T is much larger than N,
    the cosine has many periods between two steps, so the scale jumps within [1, 1 + w]. This is what diffusers 0.42
    computes; with the index i in place of tau_i, the cosine would be smooth.

    Args:
        scale: w, the scale of the request.
        times: tau_i, whole numbers, `[N]`.
        steps: N, the number of steps of the sampler.

    Returns:
        w_i, float64 `[N]`: float32 would not resolve the power.

    Reference: Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024, whose code has
    it as DynamicCFG.
    """
    share = (steps - np.asarray(times, np.float64)) / steps
    return 1 + scale * (1 - np.cos(np.pi * share**POWER)) / 2
