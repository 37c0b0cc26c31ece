"""FLUX.2's autoencoder by diffusers' names: AutoencoderKL with packed latents, which a batch norm centres and scales.

The norm's statistics are the scale and the shift of our module. They are in its files, not in its config.
"""

from functools import partial

import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.interchange import autoencoder_tables
from diffusion.models.interchange.autoencoder_tables import CONVS, DIFFUSERS, ORIGINAL, body, per_channel
from diffusion.models.interchange.family import Computed
from diffusion.models.interchange.field_table import FieldTable, Follows, Group
from diffusion.models.interchange.tensor_files import Tensors

PACKED = 2
EPSILON = 1e-4  # epsilon of the batch norm


def _decoded_channels(module: AutoencoderKL) -> int:
    if module.decoded_channels not in (None, module.picture_channels):
        raise ValueError("this class decodes as many channels as it encodes; this network decodes another number.")
    return module.picture_channels


CONFIG = FieldTable(
    "AutoencoderKLFlux2",
    AutoencoderKL,
    (
        Follows("patch_size", (PACKED, PACKED)),
        Follows("batch_norm_eps", EPSILON),
        Follows("decoder_block_out_channels", None, silent=True),
        *body((128, 256, 512, 512), 2),
        Follows("out_channels", _decoded_channels),
        Group(
            {"latent_channels": (32, schema.integer(1))},
            # The scale of the latents is in the file, see `_varied`.
            lambda values, _: {"latent_channels": PACKED**2 * values["latent_channels"], "scale": 1.0},
            lambda module: {"latent_channels": module.latent_channels // PACKED**2},
        ),
        CONVS,
    ),
    unread={"sample_size": None, "force_upcast": None, "batch_norm_momentum": None},
    required={"packed": PACKED},
)


def _varied(module: AutoencoderKL, tensors: Tensors) -> AutoencoderKL:
    """The module, with the file's mean and scale 1 / sqrt(variance + epsilon) of each channel."""
    if not {"bn.running_mean", "bn.running_var"} <= tensors.shapes.keys():
        return module
    mean, variance = (np.asarray(tensors.read(f"bn.running_{name}"), np.float64) for name in ("mean", "var"))
    scale = 1 / np.sqrt(variance + EPSILON)
    return module.clone(scale=tuple(map(float, scale)), shift=tuple(map(float, mean)))


def _statistics(module: AutoencoderKL) -> dict[str, Computed]:
    mean = lambda: per_channel(module, module.shift).astype(np.float32)
    variance = lambda: (1 / per_channel(module, module.scale) ** 2 - EPSILON).astype(np.float32)
    channels = (module.latent_channels,)
    return {"bn.running_mean": Computed(channels, mean), "bn.running_var": Computed(channels, variance)}


FAMILY = CONFIG.family(
    autoencoder_tables.picture,
    {name: partial(lambda names, module: autoencoder_tables.kl_rows(module, names), names)
     for name, names in (("diffusers", DIFFUSERS), ("original", ORIGINAL))},
    ignored=(r"bn\.num_batches_tracked",),  # a counter of the training
    computed=_statistics,
    varied=_varied,
)  # fmt: skip
FAMILIES = {FAMILY.name: FAMILY}
