"""FLUX.2's autoencoder by diffusers' names: AutoencoderKL with packed latents, which a batch norm centres and scales.

The norm's statistics are the scale and the shift of our module: its config lacks them, and its files have them.
"""

__all__ = ["build", "describe"]

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.interchange import autoencoder_tables
from diffusion.models.interchange.autoencoder_tables import DIFFUSERS, ORIGINAL
from diffusion.models.interchange.family import Computed, Family, Fields, Refusal
from diffusion.models.interchange.tensor_files import Tensors

NAME = "AutoencoderKLFlux2"
PACKED = 2
EPSILON = 1e-4  # of the batch norm


def build(config: Mapping[str, Any]) -> AutoencoderKL:
    """Our module for a config.json of AutoencoderKLFlux2; its scale and shift are in the file, see `_varied`."""
    fields = Fields(NAME, config, ("sample_size", "force_upcast", "batch_norm_momentum"))
    fields.only("patch_size", (PACKED, PACKED))
    fields.only("batch_norm_eps", EPSILON)
    fields.only("decoder_block_out_channels", None)
    body = autoencoder_tables.body_fields(fields)
    fields.only("out_channels", body["picture_channels"])
    module = AutoencoderKL(
        **body,
        latent_channels=PACKED**2 * fields.take("latent_channels", 32, schema.whole(1)),
        quantization_convs=fields.take("use_quant_conv", True),
        decoder_conv=fields.take("use_post_quant_conv", True),
        scale=1.0,
        packed=PACKED,
    )
    fields.end()
    same = module.decoder_conv == module.quantization_convs
    return module.clone(decoder_conv=None) if same else module


def describe(module: AutoencoderKL) -> dict[str, Any]:
    """The config.json of one of our modules.

    Raises:
        Refusal: for one whose latents are not packed, or that decodes other channels.
    """
    if module.packed != PACKED:
        raise Refusal(f"{NAME}: its latents are packed by {PACKED}, and this network has packed={module.packed}.")
    if module.decoded_channels not in (None, module.picture_channels):
        raise Refusal(f"{NAME}: it decodes as many channels as it encodes.")
    behind, before = module.convs
    config = autoencoder_tables.body_config(module)
    return {
        **config,
        "latent_channels": module.latent_channels // PACKED**2,
        "use_quant_conv": behind,
        "use_post_quant_conv": before,
        "batch_norm_eps": EPSILON,
        "patch_size": [PACKED, PACKED],
    }


def _varied(module: AutoencoderKL, tensors: Tensors) -> AutoencoderKL:
    """With the scale 1 / sqrt(variance + epsilon) and the mean of each channel, as the file has them."""
    if not {"bn.running_mean", "bn.running_var"} <= tensors.shapes.keys():
        return module
    mean, variance = (np.asarray(tensors.read(f"bn.running_{name}"), np.float64) for name in ("mean", "var"))
    scale = 1 / np.sqrt(variance + EPSILON)
    return module.clone(scale=tuple(map(float, scale)), shift=tuple(map(float, mean)))


def _statistics(module: AutoencoderKL) -> dict[str, Computed]:
    per_channel = lambda factor: np.broadcast_to(np.asarray(factor, np.float64), module.latent_channels)
    channels = (module.latent_channels,)
    return {
        "bn.running_mean": Computed(channels, lambda: per_channel(module.shift).astype(np.float32)),
        "bn.running_var": Computed(channels, lambda: (1 / per_channel(module.scale) ** 2 - EPSILON).astype(np.float32)),
    }


FAMILY = Family(
    NAME,
    AutoencoderKL,
    build,
    describe,
    autoencoder_tables.picture,
    {name: partial(lambda names, module: autoencoder_tables.kl_rows(module, names), names)
     for name, names in (("diffusers", DIFFUSERS), ("original", ORIGINAL))},
    ignored=(r"bn\.num_batches_tracked",),  # of the training
    computed=_statistics,
    varied=_varied,
)  # fmt: skip
FAMILIES = {FAMILY.name: FAMILY}
