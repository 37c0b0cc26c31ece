"""Facts of HunyuanVideo 1.5 for the tests of all families."""

import numpy as np

from diffusion.published.hunyuan_video_15 import HunyuanVideo15
from tests.models.backbone import TEXT, Backbone, drawn, words
from tests.models.interchange.calls import Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = HunyuanVideo15(4, 24, 2, 1, 2, TEXT, 10, 8, (4, 4, 4))
CLIP = (121, (480, 848), 24.0)


def quoted(batch):
    """A prompt, and words in quotes."""
    shown = np.arange(3) < np.arange(batch)[:, None] % 4
    return words("text_mask")(batch) | {"glyphs": drawn(batch, 3, 10), "glyph_mask": shown}


CALLS = {
    "hunyuan_video_15": Call(denoised, 1e-4, longer=True),
    "hunyuan_video_15_pictured": Call(denoised, 1e-4, longer=True),
    "hunyuan_video_15_autoencoder": Call(autoencoder_kl, 3e-5, longer=True),
}
LISTINGS = {
    "hunyuan_video_15_full": "HunyuanVideo15Transformer3DModel",
    "hunyuan_video_15_autoencoder_full": "AutoencoderKLHunyuanVideo15",
}
KINDS = {
    "HunyuanVideo15Pipeline": KindFacts(
        (50, 6.0),
        1,
        "HunyuanVideo15",
        {"unit_clock", "even"},
        [("", {"masked": True, "layers": (-3,)}, 1108), ("_2", {"masked": True}, 256)],
        clip=(*CLIP, {}),
    ),
    "HunyuanVideo15ImageToVideoPipeline": KindFacts(
        (50, 6.0),
        1,
        "HunyuanVideo15",
        {"unit_clock", "even"},
        clip=(*CLIP, {"begins": True, "masked": False, "one_mask": True}),
    ),
}
CLIP_TRAJECTORIES = {name: {"euler": 6e-6} for name in ("hunyuan_video_15", "hunyuan_video_15_from_image")}
LORA_LAYERS = {
    "hunyuan_video_15": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.add_k_proj"),
        (SMALL, "diffusers", "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"),
    ]
}
BACKBONES = {"hunyuan_video_15": Backbone(SMALL, (3, 4, 4, 4), quoted, untrained="^picture_embedding/", divides=1)}
