"""Adapters: small pytrees beside a network's parameters, and functions that merge them."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.adapters import (
        control,
        custom_diffusion,
        custom_diffusion_files,
        erasure,
        full_tuning,
        image_projection_rows,
        image_prompt,
        inpainting,
        instruct_pix2pix,
        ip_adapter,
        ip_adapter_files,
        lora,
        lora_files,
        lora_kinds,
        lora_layers,
        lora_names,
        lora_updates,
        low_rank,
        module_folder,
        prompt_features,
        redux_prompt,
        separation,
        textual_inversion,
        tuning,
        wider_unet,
        word_embeddings,
    )

__all__ = [
    "control",
    "custom_diffusion",
    "custom_diffusion_files",
    "erasure",
    "full_tuning",
    "image_projection_rows",
    "image_prompt",
    "inpainting",
    "instruct_pix2pix",
    "ip_adapter",
    "ip_adapter_files",
    "lora",
    "lora_files",
    "lora_kinds",
    "lora_layers",
    "lora_names",
    "lora_updates",
    "low_rank",
    "module_folder",
    "prompt_features",
    "redux_prompt",
    "separation",
    "textual_inversion",
    "tuning",
    "wider_unet",
    "word_embeddings",
]

public.declare(__name__)
