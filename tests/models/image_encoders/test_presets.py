"""The published networks: every field of each, as the `config.json` of its repository has it."""

import dataclasses

import pytest

from diffusion.models.image_encoders import convnext, dinov2, dinov3, ijepa, mae, siglip, videomae
from diffusion.models.image_encoders.blip import BLIP

LAYERS = {  # width, depth, heads, hidden
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
    "so400m": (1152, 27, 16, 4304),
}
DINOV2 = {"size": 518, "patch": 14, "gated": False, "registers": 0, "offset": 0.0, "epsilon": 1e-6}
DINOV3 = {"patch": 16, "gated": False, "registers": 4, "biased": ("query", "value"), "theta": 100.0, "epsilon": 1e-5}
DINOV3 |= {"fused": ()}
MAE = {"size": 224, "patch": 16, "epsilon": 1e-12}
IJEPA = {"size": 224, "patch": 14, "epsilon": 1e-6}
VIDEOMAE = {"size": 224, "patch": 16, "frames": 16, "tubelet": 2, "last": "mean", "biased": True}
VIDEOMAE |= {"epsilon": 1e-12, "last_epsilon": 1e-12}
SIGLIP = {"epsilon": 1e-6}
PRESETS = {
    dinov2: {
        "ViT-S/14": ("small", DINOV2),
        "ViT-B/14": ("base", DINOV2),
        "ViT-L/14": ("large", DINOV2),
        "ViT-g/14": ((1536, 40, 24, 4096), DINOV2 | {"gated": True}),
    },
    dinov3: {
        "ViT-S/16": ("small", DINOV3),
        "ViT-S+/16": ("small", DINOV3 | {"gated": True}),
        "ViT-B/16": ("base", DINOV3),
        "ViT-L/16": ("large", DINOV3),
        "ViT-H+/16": ((1280, 32, 20, 5120), DINOV3 | {"gated": True}),
        "ViT-7B/16": ((4096, 40, 32, 8192), DINOV3 | {"gated": True, "biased": ()}),
    },
    mae: {"ViT-B/16": ("base", MAE), "ViT-L/16": ("large", MAE), "ViT-H/14": ("huge", MAE | {"patch": 14})},
    ijepa: {
        "ViT-H/14": ("huge", IJEPA),
        "ViT-H/16@448": ("huge", IJEPA | {"patch": 16, "size": 448}),
        "ViT-g/16": ((1408, 40, 16, 6144), IJEPA | {"patch": 16}),
    },
    videomae: {
        "ViT-S/16": ("small", VIDEOMAE),
        "ViT-B/16": ("base", VIDEOMAE),
        "ViT-L/16": ("large", VIDEOMAE),
        "ViT-H/16": ("huge", VIDEOMAE),
        "ViT-g/14": ((1408, 40, 16, 6144), VIDEOMAE | {"patch": 14}),
    },
    siglip: {
        f"{name}/{patch}@{size}": (layers, SIGLIP | {"patch": patch, "size": size})
        for name, layers, patch, sizes in (
            ("ViT-B", "base", 32, (256,)),
            ("ViT-B", "base", 16, (224, 256, 384, 512)),
            ("ViT-L", "large", 16, (256, 384, 512)),
            ("So400m", "so400m", 14, (224, 384)),
            ("So400m", "so400m", 16, (256, 384, 512)),
            ("g-opt", (1536, 40, 16, 6144), 16, (256, 384)),
        )
        for size in sizes
    },
}
CONVNEXT = {  # version, widths, depths
    "V1-T": (1, (96, 192, 384, 768), (3, 3, 9, 3)),
    "V1-S": (1, (96, 192, 384, 768), (3, 3, 27, 3)),
    "V1-B": (1, (128, 256, 512, 1024), (3, 3, 27, 3)),
    "V1-L": (1, (192, 384, 768, 1536), (3, 3, 27, 3)),
    "V2-T": (2, (96, 192, 384, 768), (3, 3, 9, 3)),
    "V2-B": (2, (128, 256, 512, 1024), (3, 3, 27, 3)),
    "V2-L": (2, (192, 384, 768, 1536), (3, 3, 27, 3)),
    "V2-H": (2, (352, 704, 1408, 2816), (3, 3, 27, 3)),
}
COMMON = {"attention": "auto", "dtype": "float32", "affine": True}  # how they run, the same of all


@pytest.mark.parametrize("encoder", PRESETS, ids=lambda encoder: encoder.__name__.rpartition(".")[2])
def test_every_preset_is_its_published_network(encoder):
    assert set(encoder.PRESETS) == set(PRESETS[encoder])
    for name, (layers, others) in PRESETS[encoder].items():
        layers = dict(zip(("width", "depth", "heads", "hidden"), LAYERS.get(layers, layers)))
        module = encoder.preset(name)
        expected = layers | others | {field: value for field, value in COMMON.items() if hasattr(module, field)}
        names = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
        assert {field: getattr(module, field) for field in names} == expected, name


def test_every_convnext_is_its_published_network():
    assert set(convnext.PRESETS) == set(CONVNEXT)
    for name, expected in CONVNEXT.items():
        module = convnext.preset(name)
        assert (module.version, module.widths, module.depths) == expected, name
        assert module.epsilon == 1e-12 and module.dtype == "float32"  # of the norm in transformers' configs
        assert (module.patch, module.width) == (32, expected[1][-1])


def test_blip_has_the_fields_of_its_authors_code():
    module = BLIP(*LAYERS["base"])
    assert (module.size, module.patch, module.epsilon) == (224, 16, 1e-6)
    assert (module.attention, module.dtype) == ("auto", "float32")


def test_a_preset_takes_further_fields():
    for encoder, sizes in PRESETS.items():
        assert encoder.preset(next(iter(sizes)), dtype="bfloat16").dtype == "bfloat16"
    assert convnext.preset("V1-T", depths=(1, 1, 1, 1)).depths == (1, 1, 1, 1)
