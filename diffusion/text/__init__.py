"""Text as the condition of a network: tokens, their embeddings by any number of encoders, weighted and in windows.

The condition of Stable Diffusion, for example:

    clip = text.Encoder.of(text.Tokenizer.open("sd/tokenizer"), *interchange.load("sd/text_encoder"))
    condition = text.stable_diffusion(["a cat", ""], clip)               # {"text": [2, 77, 768]}
"""

from typing import TYPE_CHECKING

from diffusion import public

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
    from diffusion.text.published_conditions import (
        chroma as chroma,
        cogvideox as cogvideox,
        flux as flux,
        flux2 as flux2,
        flux2_klein as flux2_klein,
        hunyuan_video as hunyuan_video,
        ltx_video as ltx_video,
        lumina2 as lumina2,
        pixart as pixart,
        qwen_image as qwen_image,
        sana as sana,
        stable_diffusion as stable_diffusion,
        stable_diffusion_3 as stable_diffusion_3,
        stable_diffusion_xl as stable_diffusion_xl,
        wan as wan,
        z_image as z_image,
    )
    from diffusion.text.tokenizer import Tokenizer as Tokenizer, Tokens as Tokens
    from diffusion.text.weighting import parse as parse

public.declare(__name__)
