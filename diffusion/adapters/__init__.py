"""Adapters: small pytrees that change a network's parameters, and functions that merge them into the parameters."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.adapters import (
        control as control,
        custom_diffusion as custom_diffusion,
        custom_diffusion_files as custom_diffusion_files,
        erasure as erasure,
        full_tuning as full_tuning,
        image_projection_rows as image_projection_rows,
        image_prompt as image_prompt,
        inpainting as inpainting,
        instruct_pix2pix as instruct_pix2pix,
        ip_adapter as ip_adapter,
        ip_adapter_files as ip_adapter_files,
        layer_axes as layer_axes,
        lora as lora,
        lora_files as lora_files,
        lora_kinds as lora_kinds,
        lora_layers as lora_layers,
        lora_names as lora_names,
        lora_updates as lora_updates,
        low_rank as low_rank,
        module_folder as module_folder,
        textual_inversion as textual_inversion,
        tuning as tuning,
        wider_unet as wider_unet,
        word_embeddings as word_embeddings,
    )

public.declare(__name__)
public.moved(
    {
        f"{__name__}.prompt_features": "diffusion.models.image_encoders.prompt_features",
        f"{__name__}.redux_prompt": "diffusion.published.flux.redux_prompt",
        f"{__name__}.separation": f"{__name__}.layer_axes",
    }
)
