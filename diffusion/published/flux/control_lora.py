"""FLUX.1's control LoRAs (Depth, Canny): LoRA files whose first layer reads a picture's latents beside x_t.

    module, params = control_lora.widened(module, params)    # then the file is a LoRA of the module

Their A of the first layer has inputs for twice the latents' channels. The kernel of the base gets zeros for the new
ones, which leaves its output as it was.

Reference: Black Forest Labs, 2024, "FLUX.1 Tools"; the code of diffusers' FluxControlPipeline.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffusion.published.flux.network import PATCH, Flux

FIRST = ("img_in", "x_embedder")  # the first layer by both names
DOWN = ("lora_A.weight", "lora_down.weight")
KERNEL = "patch_embedding"


def is_control(shapes: Mapping[str, tuple[int, ...]], module: Any) -> bool:
    """Whether the LoRA file of these tensors needs twice the channels of a network.

    Args:
        shapes: the shapes of the file's tensors, by name.
        module: the network that the file is for.
    """
    ends = tuple(f"{layer}.{end}" for layer in FIRST for end in DOWN)
    wide = 2 * PATCH**2 * getattr(module, "channels", 0)
    return isinstance(module, Flux) and any(
        name.endswith(ends) and len(shape) == 2 and shape[1] == wide for name, shape in shapes.items()
    )


def widened(module: Flux, params: Any) -> tuple[Flux, Any]:
    """The network with as many channels again, and its parameters, with zeros for the new inputs.

    Args:
        module: the network.
        params: its parameters, or None, which stay None.
    """
    wide = module.clone(channels=2 * module.channels)
    if params is None:
        return wide, None
    layer = params[KERNEL]
    by_pixel = layer["kernel"].reshape(PATCH**2, module.channels, -1)
    kernel = jnp.pad(by_pixel, ((0, 0), (0, module.channels), (0, 0))).reshape(-1, by_pixel.shape[-1])
    return wide, {**params, KERNEL: {**layer, "kernel": kernel}}
