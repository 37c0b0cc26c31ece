"""Text as the condition of a network: tokens, their embeddings by any number of encoders, weighted and in windows.

The condition of Stable Diffusion, for example:

    clip = text.Encoder.of(text.Tokenizer.open("sd/tokenizer"), *interchange.load("sd/text_encoder"))
    condition = text.stable_diffusion(["a cat", ""], clip)               # {"text": [2, 77, 768]}
"""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.published.chroma.conditions import chroma as chroma
    from diffusion.published.cogvideox.conditions import cogvideox as cogvideox
    from diffusion.published.flux.conditions import flux as flux
    from diffusion.published.flux2.conditions import flux2 as flux2, flux2_klein as flux2_klein
    from diffusion.published.hunyuan_video.conditions import hunyuan_video as hunyuan_video
    from diffusion.published.ltx_video.conditions import ltx_video as ltx_video
    from diffusion.published.lumina2.conditions import lumina2 as lumina2
    from diffusion.published.pixart.conditions import pixart as pixart
    from diffusion.published.qwen_image.conditions import qwen_image as qwen_image
    from diffusion.published.sana.conditions import sana as sana
    from diffusion.published.stable_diffusion.conditions import (
        stable_diffusion as stable_diffusion,
        stable_diffusion_xl as stable_diffusion_xl,
    )
    from diffusion.published.stable_diffusion_3.conditions import stable_diffusion_3 as stable_diffusion_3
    from diffusion.published.wan.conditions import wan as wan
    from diffusion.published.z_image.conditions import z_image as z_image
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

public.declare(__name__)
