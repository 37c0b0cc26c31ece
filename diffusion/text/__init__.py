"""Text as the condition of a network: tokens, their embeddings by any number of encoders, weighted and in windows.

The condition of Stable Diffusion, for example, by `diffusion.published.stable_diffusion`:

    clip = text.Encoder.from_module(text.Tokenizer.open("sd/tokenizer"), *interchange.load("sd/text_encoder"))
    condition = stable_diffusion.pipeline.stable_diffusion(["a cat", ""], clip)    # {"text": [2, 77, 768]}
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.text import byte_pairs as byte_pairs, tokenizer as tokenizer, weighting as weighting
    from diffusion.text.cache import cached as cached, fingerprint as fingerprint
    from diffusion.text.encoding import (
        Embeddings as Embeddings,
        Encoder as Encoder,
        encode as encode,
        one_after_other as one_after_other,
        side_by_side as side_by_side,
    )
    from diffusion.text.tokenizer import Tokenizer as Tokenizer, Tokens as Tokens
    from diffusion.text.weighting import parse as parse

public.declare(
    __name__,
    elsewhere={
        "chroma": "diffusion.published.chroma.pipeline",
        "cogvideox": "diffusion.published.cogvideox.pipeline",
        "flux": "diffusion.published.flux.pipeline",
        "flux2": "diffusion.published.flux2.pipeline",
        "flux2_klein": "diffusion.published.flux2.pipeline",
        "hunyuan_video": "diffusion.published.hunyuan_video.pipeline",
        "ltx_video": "diffusion.published.ltx_video.pipeline",
        "lumina2": "diffusion.published.lumina2.pipeline",
        "pixart": "diffusion.published.pixart.pipeline",
        "qwen_image": "diffusion.published.qwen_image.pipeline",
        "sana": "diffusion.published.sana.pipeline",
        "stable_diffusion": "diffusion.published.stable_diffusion.pipeline",
        "stable_diffusion_xl": "diffusion.published.stable_diffusion.pipeline",
        "stable_diffusion_3": "diffusion.published.stable_diffusion_3.pipeline",
        "wan": "diffusion.published.wan.pipeline",
        "z_image": "diffusion.published.z_image.pipeline",
    },
)
