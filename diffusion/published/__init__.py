"""The families of published models, a room each; a new one is its folder and one line here. See docs/extend.md."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published import (
        auraflow as auraflow,
        chroma as chroma,
        cogvideox as cogvideox,
        flux as flux,
        flux2 as flux2,
        hidream as hidream,
        hunyuan_image as hunyuan_image,
        hunyuan_video as hunyuan_video,
        hunyuan_video_15 as hunyuan_video_15,
        kolors as kolors,
        krea2 as krea2,
        llava as llava,
        ltx2 as ltx2,
        ltx_video as ltx_video,
        lumina2 as lumina2,
        pipeline_kinds as pipeline_kinds,
        pixart as pixart,
        qwen_image as qwen_image,
        qwen_image_21 as qwen_image_21,
        qwen_vl as qwen_vl,
        sana as sana,
        stable_cascade as stable_cascade,
        stable_diffusion as stable_diffusion,
        stable_diffusion_3 as stable_diffusion_3,
        wan as wan,
        z_image as z_image,
    )

public.declare(__name__)
public.moved(
    {
        f"{__name__}.{room}.{old}": f"{__name__}.{room}.pipeline"
        for room, names in {
            "cogvideox": ("dynamic_guidance",),
            "hunyuan_video_15": ("clip_sizes", "quoted_words"),
            "ltx2": ("sound_latents",),
            "pixart": ("perturbed_layers",),
        }.items()
        for old in names
    }
)
