"""Facts of HiDream-I1 for the tests of all families."""

from diffusion.published.hidream import HiDream
from tests.models.backbone import POOLED, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

# A token of the text has four features of T5 and as many of each of two of Llama's layers.
SMALL = HiDream(4, 2, 24, 2, 2, 2, 3, 2, 4, 4, (0, 2, 2, 0), POOLED, (4, 4, 4), (8, 8))

CALLS = {
    "hidream": Call(denoised, 3e-5, layouts=OWN, longer=True),
    "hidream_no_square": Call(denoised, 3e-5, longer=True),
}
LISTINGS = {"hidream_full": "HiDreamImageTransformer2DModel"}
KINDS = {
    "HiDreamImagePipeline": KindFacts(
        (50, 5.0),
        7,
        "HiDream",
        readers=[
            ("", {}, 128),
            ("_2", {}, 128),
            ("_3", {"masked": True}, 128),
            ("_4", {"masked": True, "layers": tuple(range(1, 33))}, 128),
        ],
    )
}
TRAJECTORIES = {"hidream": {"euler": 5e-5, "unipc": 4e-5, "lcm": 7e-5}}
LORA_LAYERS = {
    "hidream": [
        (SMALL, "diffusers", "double_stream_blocks.1.block.attn1.to_k_t"),
        (SMALL, "diffusers", "double_stream_blocks.0.block.ff_i.experts.2.w3"),
        (SMALL, "diffusers", "single_stream_blocks.1.block.ff_i.shared_experts.w2"),
        (SMALL, "diffusers", "caption_projection.3.linear"),
    ]
}
BACKBONES = {"hidream": Backbone(SMALL, (8, 8, 4), words("pooled"), blocks="(?:single_)?blocks")}
