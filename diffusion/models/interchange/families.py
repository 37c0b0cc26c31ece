"""The architectures whose files this library reads and writes, by their library's name, one line each."""

__all__ = ["FAMILIES", "describing", "find", "of"]

import flax.linen as nn

from diffusion.models.interchange import (
    adm_tables,
    autoencoder_tables,
    autoencoder_tiny_tables,
    chroma_tables,
    clip_tables,
    cogvideox_autoencoder_tables,
    cogvideox_tables,
    conditional_unet_tables,
    control_net_tables,
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
    flux2_autoencoder_tables,
    flux2_tables,
    flux_control_net_tables,
    flux_tables,
    hunyuan_autoencoder_tables,
    hunyuan_video_tables,
    image_reward_tables,
    jit_tables,
    lightning_dit_tables,
    lpips_tables,
    ltx_autoencoder_tables,
    ltx_video_tables,
    lumina2_tables,
    mask_dit_tables,
    mdt_tables,
    mean_flow_tables,
    mmdit_control_net_tables,
    mmdit_tables,
    pixart_control_net_tables,
    pixart_tables,
    pixnerd_tables,
    qwen_image_tables,
    rae_tables,
    redux_tables,
    sana_tables,
    siglip_tables,
    t2i_adapter_tables,
    t5_tables,
    u_vit_tables,
    unet_2d_tables,
    videomae_tables,
    vit_tables,
    wan_autoencoder_tables,
    wan_tables,
    z_image_tables,
)
from diffusion.models.interchange.family import Family, Refusal
from diffusion.models.layers.choices import look_up

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *autoencoder_tables.FAMILIES,
        autoencoder_tiny_tables.FAMILY,
        *clip_tables.FAMILIES,
        chroma_tables.FAMILY,
        cogvideox_autoencoder_tables.FAMILY,
        cogvideox_tables.FAMILY,
        conditional_unet_tables.FAMILY,
        *control_net_tables.FAMILIES,
        *convnext_tables.FAMILIES,
        *ddt_tables.FAMILIES,
        *decoder_tables.FAMILIES,
        deep_compression_tables.FAMILY,
        *dinov2_tables.FAMILIES,
        dinov3_tables.FAMILY,
        *dit_tables.FAMILIES,
        drifting_tables.FAMILY,
        flux_control_net_tables.FAMILY,
        flux_tables.FAMILY,
        flux2_autoencoder_tables.FAMILY,
        flux2_tables.FAMILY,
        hunyuan_autoencoder_tables.FAMILY,
        hunyuan_video_tables.FAMILY,
        image_reward_tables.FAMILY,
        jit_tables.FAMILY,
        lightning_dit_tables.FAMILY,
        lpips_tables.FAMILY,
        ltx_autoencoder_tables.FAMILY,
        ltx_video_tables.FAMILY,
        lumina2_tables.FAMILY,
        mask_dit_tables.FAMILY,
        mdt_tables.FAMILY,
        *mean_flow_tables.FAMILIES,
        mmdit_control_net_tables.FAMILY,
        mmdit_tables.FAMILY,
        pixart_control_net_tables.FAMILY,
        pixart_tables.FAMILY,
        pixnerd_tables.FAMILY,
        qwen_image_tables.FAMILY,
        *rae_tables.FAMILIES,
        redux_tables.FAMILY,
        sana_tables.FAMILY,
        *siglip_tables.FAMILIES,
        t2i_adapter_tables.FAMILY,
        *t5_tables.FAMILIES,
        u_vit_tables.FAMILY,
        unet_2d_tables.FAMILY,
        *videomae_tables.FAMILIES,
        *vit_tables.FAMILIES,
        *wan_autoencoder_tables.FAMILIES,
        wan_tables.FAMILY,
        z_image_tables.FAMILY,
        adm_tables.FAMILY,
        *edm_tables.FAMILIES,
        edm2_tables.FAMILY,
    )
}
"""The families of networks whose checkpoints this library reads and writes, by name."""


def find(name: str) -> Family:
    """The family of that name.

    Raises:
        ValueError: for an unknown name; lists the valid ones, and the intended one if two letters are wrong.
    """
    # Names of classes share most of their letters: FluxTransformer2DModel, WanTransformer3DModel.
    return look_up(FAMILIES, name, "architecture", alike=1 - 2 / max(len(name), 2))


def describing(module: nn.Module) -> list[Family]:
    """All families that describe a module: several where one class serves several libraries, none if none does."""
    matches = []
    for family in _of_class(module):
        try:
            family.describe(module)
        except Refusal:
            continue
        matches.append(family)
    return matches


def of(module: nn.Module) -> Family:
    """The first family that describes a module.

    Raises:
        ValueError: if none has its class.
        Refusal: if no family of its class can express it; the first family's refusal.
    """
    if matches := describing(module):
        return matches[0]
    for family in _of_class(module):
        family.describe(module)  # raises its refusal
    known = ", ".join(sorted({family.module.__name__ for family in FAMILIES.values()}))
    raise ValueError(f"no family describes a {type(module).__name__}; valid ones are {known}")


def _of_class(module: nn.Module) -> list[Family]:
    return [family for family in FAMILIES.values() if type(module) in (family.module, family.other)]
