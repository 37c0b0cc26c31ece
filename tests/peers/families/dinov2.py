"""DINOv2's encoder, small, by transformers; and its positions as the authors' code interpolates them."""

import torch
import transformers

from tests.peers.cases import Case, first
from tests.peers.made_weights import drawn

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# The size of the positions; one that interpolates them to a finer grid, not square; one to a coarser.
IMAGES = {
    "same": drawn("images", 2, 28, 28, 3),
    "fine": drawn("fine", 1, 42, 35, 3),
    "coarse": drawn("c", 1, 21, 14, 3),
}


def prepared(images):
    """As the library's preprocessing leaves pictures of [0, 1]."""
    return first(((images + 1) / 2 - torch.tensor(MEAN)) / torch.tensor(STD))


def run(model, inputs):
    outputs = {}
    before = 1 + getattr(model.config, "num_register_tokens", 0)
    for name in ("same", "fine", "coarse"):
        out = model(pixel_values=prepared(inputs[name]))
        outputs |= {f"{name}_patches": out.last_hidden_state[:, before:], f"{name}_pooled": out.pooler_output}
    masked = model(pixel_values=prepared(inputs["same"]), bool_masked_pos=inputs["masked"])
    return {**outputs, "masked": masked.last_hidden_state[:, before:]}


def run_with_offset(model, inputs):
    """The authors' code passes a scale factor with an offset of 0.1 to the interpolation."""
    interpolate = torch.nn.functional.interpolate

    def with_offset(x, size, **options):
        factors = tuple((side + 0.1) / old for side, old in zip(size, x.shape[2:]))
        return interpolate(x, scale_factor=factors, **options)

    torch.nn.functional.interpolate = with_offset
    try:
        out = model(pixel_values=prepared(inputs["coarse"]))
        finer = model(pixel_values=prepared(inputs["fine"]))
    finally:
        torch.nn.functional.interpolate = interpolate
    identity = lambda side: torch.eye(side)[None, None]  # of which the matrix is the image
    matrix = lambda side, **options: interpolate(identity(side), mode="bicubic", **options)[0, 0]
    return {
        "coarse": out.pooler_output,
        "fine": finer.last_hidden_state[:, 1:],
        "finer": matrix(4, size=(6, 4)),
        "coarser": matrix(37, size=(16, 37)),
        "coarser_offset": matrix(37, scale_factor=(16.1 / 37, 1.0)),
        "finer_antialiased": matrix(4, size=(6, 4), antialias=True),
        "coarser_antialiased": matrix(37, size=(16, 37), antialias=True),
    }


MASKED = {"masked": (drawn("masked", 2, 16) > 0.5)}
PLAIN = transformers.Dinov2Config
REGISTERS = transformers.Dinov2WithRegistersConfig


def case(config, model, run=run):
    return Case(lambda: model(config), {**IMAGES, **MASKED}, run, by_file=True)


CASES = {
    "dinov2_plain": case(PLAIN(**SMALL), transformers.Dinov2Model),
    "dinov2_offset": case(PLAIN(**SMALL), transformers.Dinov2Model, run_with_offset),
    "dinov2_gated": case(PLAIN(**SMALL, use_swiglu_ffn=True), transformers.Dinov2Model),
    "dinov2_registers": case(REGISTERS(**SMALL), transformers.Dinov2WithRegistersModel),
}
SIZES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
    "large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
    "giant": {"hidden_size": 1536, "num_attention_heads": 24, "num_hidden_layers": 40, "use_swiglu_ffn": True},
}
LISTINGS = {
    **{
        f"dinov2_full_{size}": lambda config=config: transformers.Dinov2Model(PLAIN(image_size=518, **config))
        for size, config in SIZES.items()
    },
    "dinov2_full_registers_large": lambda: transformers.Dinov2WithRegistersModel(
        REGISTERS(image_size=518, patch_size=14, **SIZES["large"])
    ),
}
