"""Text as the condition of a network: tokens, their embeddings by any number of encoders, weighted and in windows.

The condition of Stable Diffusion, for example:

    clip = text.Encoder.of(text.Tokenizer.open("sd/tokenizer"), *interchange.load("sd/text_encoder"))
    condition = text.stable_diffusion(["a cat", ""], clip)               # {"text": [2, 77, 768]}
"""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.text import byte_pairs, tokenizer, weighting
    from diffusion.text.cache import cached, fingerprint
    from diffusion.text.encoding import Embeddings, Encoder, encode, one_after_other, side_by_side
    from diffusion.text.published_conditions import (
        chroma,
        cogvideox,
        flux,
        flux2,
        flux2_klein,
        hunyuan_video,
        ltx_video,
        lumina2,
        pixart,
        qwen_image,
        sana,
        stable_diffusion,
        stable_diffusion_3,
        stable_diffusion_xl,
        wan,
        z_image,
    )
    from diffusion.text.tokenizer import Tokenizer, Tokens
    from diffusion.text.weighting import parse

__all__ = [
    "Embeddings", "Encoder", "Tokenizer", "Tokens", "byte_pairs", "cached", "chroma", "cogvideox", "encode",
    "fingerprint", "flux", "flux2", "flux2_klein", "hunyuan_video", "ltx_video", "lumina2", "one_after_other", "parse",
    "pixart", "qwen_image", "sana", "side_by_side", "stable_diffusion", "stable_diffusion_3", "stable_diffusion_xl",
    "tokenizer", "wan", "weighting", "z_image",
]  # fmt: skip

public.declare(
    __name__,
    {
        "cache": ("cached", "fingerprint"),
        "encoding": ("Embeddings", "Encoder", "encode", "one_after_other", "side_by_side"),
        "published_conditions": (
            "chroma",
            "cogvideox",
            "flux",
            "flux2",
            "flux2_klein",
            "hunyuan_video",
            "ltx_video",
            "lumina2",
            "pixart",
            "qwen_image",
            "sana",
            "stable_diffusion",
            "stable_diffusion_3",
            "stable_diffusion_xl",
            "wan",
            "z_image",
        ),
        "tokenizer": ("Tokenizer", "Tokens"),
        "weighting": ("parse",),
    },
)
