"""The architectures whose files this library reads and writes, by the names that their libraries use."""

__all__ = ["FAMILIES", "describing", "family_of", "find"]

import difflib
import re
from collections.abc import MutableMapping

import flax.linen as nn

from diffusion.io import limits
from diffusion.models import rooms
from diffusion.models.interchange import (
    adm_tables,
    autoencoder_asymmetric_tables,
    autoencoder_tables,
    autoencoder_tiny_tables,
    blip_captioner_tables,
    clip_tables,
    convnext_tables,
    ddt_tables,
    decoder_tables,
    deep_compression_tables,
    dinov2_tables,
    dinov3_tables,
    dit_tables,
    drifting_tables,
    edm2_tables,
    edm_tables,
    image_reward_tables,
    jit_tables,
    lightning_dit_tables,
    lpips_tables,
    mask_dit_tables,
    mdt_tables,
    mean_flow_tables,
    pixnerd_tables,
    rae_tables,
    siglip_tables,
    t5_tables,
    u_vit_tables,
    unet_2d_tables,
    videomae_tables,
    vit_tables,
)
from diffusion.models.interchange.family import Family, Refusal
from diffusion.package import public

IN_MODELS: dict[str, Family] = {
    family.name: family
    for family in (
        autoencoder_asymmetric_tables.FAMILY,
        *autoencoder_tables.FAMILIES,
        autoencoder_tiny_tables.FAMILY,
        blip_captioner_tables.FAMILY,
        *clip_tables.FAMILIES,
        *convnext_tables.FAMILIES,
        *ddt_tables.FAMILIES,
        *decoder_tables.FAMILIES,
        deep_compression_tables.FAMILY,
        *dinov2_tables.FAMILIES,
        dinov3_tables.FAMILY,
        *dit_tables.FAMILIES,
        drifting_tables.FAMILY,
        image_reward_tables.FAMILY,
        jit_tables.FAMILY,
        lightning_dit_tables.FAMILY,
        lpips_tables.FAMILY,
        mask_dit_tables.FAMILY,
        mdt_tables.FAMILY,
        *mean_flow_tables.FAMILIES,
        pixnerd_tables.FAMILY,
        *rae_tables.FAMILIES,
        *siglip_tables.FAMILIES,
        *t5_tables.FAMILIES,
        u_vit_tables.FAMILY,
        unet_2d_tables.FAMILY,
        *videomae_tables.FAMILIES,
        *vit_tables.FAMILIES,
        adm_tables.FAMILY,
        *edm_tables.FAMILIES,
        edm2_tables.FAMILY,
    )
}
FAMILIES: MutableMapping[str, Family] = rooms.Entries("table", "FAMILIES", IN_MODELS)
"""The families of networks whose checkpoints this library reads and writes, by name."""


# The parts that most names of classes share, as in FluxTransformer2DModel and WanTransformer3DModel.
SHARED = re.compile("Transformer|Autoencoder|KL|Model|[23]D")


def find(name: str) -> Family:
    """The family with a name.

    Raises:
        ValueError: if the name is unknown; the message has similar names, and says where all names are listed.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    intended = public.nearest(name, FAMILIES, alike=1 - 2 / max(len(name), 2))
    near = _alike(name) if intended is None else [intended]
    listed = f"the {len(FAMILIES)} names in docs/models.md, models.interchange.FAMILIES"
    valid = f"{', '.join(map(repr, near))}, or another of {listed}" if near else f"one of {listed}"
    raise ValueError(f"architecture={limits.short(name)} is not known. Valid: {valid}")


def _alike(name: str) -> list[str]:
    """At most six names of families that resemble a name apart from the parts that most names share, best first."""
    parts: dict[str, list[str]] = {}
    for family in FAMILIES:
        parts.setdefault(_distinctive(family), []).append(family)
    close = difflib.get_close_matches(_distinctive(name), parts, n=6, cutoff=0.7)
    return [family for part in close for family in parts[part]][:6]


def _distinctive(name: str) -> str:
    return (SHARED.sub("", name[:100]) or name[:100]).lower()


def describing(module: nn.Module) -> list[Family]:
    """All families that describe a module; several if its class serves several libraries, none if none describes it."""
    matches = []
    for family in _of_class(module):
        try:
            family.describe(module)
        except Refusal:
            continue
        matches.append(family)
    return matches


def family_of(module: nn.Module) -> Family:
    """The first family that describes a module.

    Raises:
        ValueError: if no family has the module's class.
        Refusal: if families have its class, but none can express the module; it is the first family's refusal.
    """
    if matches := describing(module):
        return matches[0]
    for family in _of_class(module):
        family.describe(module)  # raises its refusal
    known = ", ".join(sorted({family.module.__name__ for family in FAMILIES.values()}))
    raise ValueError(f"no family describes a {type(module).__name__}. Valid: {known}")


def _of_class(module: nn.Module) -> list[Family]:
    return [family for family in FAMILIES.values() if type(module) in (family.module, family.other)]


public.declare(__name__, renamed={"of": "family_of"})
