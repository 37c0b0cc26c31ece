"""The layers of a transformer that perturbed-attention guidance perturbs where diffusers states "blocks.1"."""

from typing import Any

import numpy as np

from diffusion.models.layers import layer_masks


def perturbed_layers(denoiser: Any) -> np.ndarray:
    """The layer mask [1, depth] of the layers whose number begins with 1: of 28 layers it is 1 and 10 to 19.

    diffusers takes its default, "blocks.1", for the beginning of a name.

    Args:
        denoiser: a network with `depth` layers.
    """
    return layer_masks.mask(1, denoiser.depth, [i for i in range(denoiser.depth) if str(i).startswith("1")])
