"""AutoencoderTiny (TAESD) by diffusers' names.

All layers are in one list with one count: convolutions, activations, blocks and upsampling.
"""

__all__ = []

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, Row, linear, within

NAME = "AutoencoderTiny"
BLOCKS = schema.several(DEPTH, 1, 16)


def _block(theirs: str, ours: str) -> list[Row]:
    """Three convolutions with an activation after each of the first two."""
    return [row for k in range(3) for row in linear(f"{theirs}.conv.{2 * k}", f"{ours}/conv_{k + 1}", CONV)]


def _encoder(module: AutoencoderTiny) -> Iterator[list[Row]]:
    """The rows of each layer of the list."""
    for i, number in enumerate(module.encoder_layers):
        yield linear("", f"down_{i - 1}", CONV, bias=False) if i else linear("", "conv_in", CONV)
        yield from (_block("", f"level_{i}_block_{j}") for j in range(number))
    yield linear("", "conv_out", CONV)


def _decoder(module: AutoencoderTiny) -> Iterator[list[Row]]:
    yield linear("", "conv_in", CONV)
    yield []  # an activation
    for i, number in reversed(list(enumerate(module.decoder_layers))):
        yield from (_block("", f"level_{i}_block_{j}") for j in range(number))
        if i:
            yield []  # twice the side
            yield linear("", f"up_{i}", CONV, bias=False)
    yield linear("", "conv_out", CONV)


def _rows(module: AutoencoderTiny) -> list[Row]:
    table = []
    for side, layers in (("encoder", _encoder(module)), ("decoder", _decoder(module))):
        for number, rows in enumerate(layers):
            table += within(rows, f"{side}.layers.{number}", f"{side}/")
    return table


def _build(config: Mapping[str, Any]) -> AutoencoderTiny:
    # The magnitude and its shift determine how latents become bytes; block_out_channels repeats the decoder's.
    fields = Fields(NAME, config, ("force_upcast", "latent_magnitude", "latent_shift", "block_out_channels"))
    sides = ("encoder", "decoder")
    widths = [fields.take(f"{side}_block_out_channels", (64,) * 4, SIZES) for side in sides]
    encoder, decoder = (
        fields.take(f"num_{side}_blocks", blocks, BLOCKS) for side, blocks in zip(sides, ((1, 3, 3, 3), (3, 3, 3, 1)))
    )
    if len({*widths[0], *widths[1]}) != 1 or not len(widths[0]) == len(encoder) == len(decoder) == len(widths[1]):
        raise Refusal(
            f"{NAME}: encoder_block_out_channels = {widths[0]} and decoder_block_out_channels = {widths[1]} "
            f"are not supported for {len(encoder)} and {len(decoder)} levels; one number for all levels is."
        )
    fields.only("act_fn", "relu")
    fields.only("upsample_fn", "nearest")
    fields.only("upsampling_scaling_factor", 2)
    channels = fields.take("in_channels", 3)
    fields.only("out_channels", channels)
    module = AutoencoderTiny(
        widths[0][0],
        encoder,
        decoder[::-1],
        fields.take("latent_channels", 4),
        channels,
        scale=fields.take("scaling_factor", 1.0),
        shift=fields.take("shift_factor", None, MAYBE_NUMBER) or 0.0,
    )
    fields.end()
    return module


def _describe(module: AutoencoderTiny) -> dict[str, Any]:
    if isinstance(module.scale, tuple) or isinstance(module.shift, tuple):
        raise Refusal(
            f"{NAME}: diffusers has one scaling_factor and one shift_factor here; this network has "
            f"scale={module.scale}, shift={module.shift}."
        )
    levels = len(module.encoder_layers)
    return {
        "in_channels": module.picture_channels,
        "out_channels": module.picture_channels,
        "act_fn": "relu",
        "encoder_block_out_channels": [module.width] * levels,
        "decoder_block_out_channels": [module.width] * levels,
        "num_encoder_blocks": list(module.encoder_layers),
        "num_decoder_blocks": list(module.decoder_layers[::-1]),
        "latent_channels": module.latent_channels,
        "upsampling_scaling_factor": 2,
        "upsample_fn": "nearest",
        "scaling_factor": module.scale,
        "shift_factor": module.shift,
    }


def _picture(module: AutoencoderTiny) -> tuple[jax.ShapeDtypeStruct]:
    return (jax.ShapeDtypeStruct((1, module.factor, module.factor, module.picture_channels), np.float32),)


FAMILY = Family(
    NAME,
    AutoencoderTiny,
    _build,
    _describe,
    _picture,
    {"diffusers": _rows},
    published={"TAESD, Stable Diffusion": {}, "TAESD, Stable Diffusion 3 and FLUX.1": {"latent_channels": 16}},
)
