"""AutoencoderTiny (TAESD) by diffusers' names.

All layers are in one list with one count: convolutions, activations, blocks and upsampling.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusion.models.interchange.autoencoder_tables import picture
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import CONV, Row, linear, within

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


def _read_sides(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our width, and the numbers of blocks at each level of both sides."""
    encoder_widths, decoder_widths, encoder, decoder = values.values()
    levels = {len(encoder_widths), len(encoder), len(decoder), len(decoder_widths)}
    if len({*encoder_widths, *decoder_widths}) != 1 or len(levels) > 1:
        raise ValueError(
            f"encoder_block_out_channels = {encoder_widths} and decoder_block_out_channels = {decoder_widths} are not "
            f"supported for {len(encoder)} and {len(decoder)} levels. Supported: one number for all levels."
        )
    return {"width": encoder_widths[0], "encoder_layers": encoder, "decoder_layers": decoder[::-1]}


def _write_sides(module: AutoencoderTiny) -> dict[str, Any]:
    widths = [module.width] * len(module.encoder_layers)
    return {
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "num_encoder_blocks": list(module.encoder_layers),
        "num_decoder_blocks": list(module.decoder_layers[::-1]),
    }


def _write_scale(module: AutoencoderTiny) -> dict[str, Any]:
    if isinstance(module.scale, tuple) or isinstance(module.shift, tuple):
        raise ValueError(
            f"diffusers has one scaling_factor and one shift_factor here, but this network has scale={module.scale}, "
            f"shift={module.shift}."
        )
    return {"scaling_factor": module.scale, "shift_factor": module.shift}


CONFIG = FieldTable(
    "AutoencoderTiny",
    AutoencoderTiny,
    (
        Group(
            {
                "encoder_block_out_channels": ((64,) * 4, SIZES),
                "decoder_block_out_channels": ((64,) * 4, SIZES),
                "num_encoder_blocks": ((1, 3, 3, 3), BLOCKS),
                "num_decoder_blocks": ((3, 3, 3, 1), BLOCKS),
            },
            _read_sides,
            _write_sides,
        ),
        Follows("act_fn", "relu"),
        Follows("upsample_fn", "nearest"),
        Follows("upsampling_scaling_factor", 2),
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("latent_channels", "latent_channels", 4),
        Group(
            {"scaling_factor": (1.0, None), "shift_factor": (None, MAYBE_NUMBER)},
            lambda values, _: {"scale": values["scaling_factor"], "shift": values["shift_factor"] or 0.0},
            _write_scale,
        ),
    ),
    # The magnitude and its shift determine how latents become bytes; block_out_channels repeats the decoder's.
    unread={"force_upcast": None, "latent_magnitude": None, "latent_shift": None, "block_out_channels": None},
)


FAMILY = CONFIG.family(
    picture,
    {"diffusers": _rows},
    published={"TAESD, Stable Diffusion": {}, "TAESD, Stable Diffusion 3 and FLUX.1": {"latent_channels": 16}},
)
