"""Facts of SANA for the tests of all families."""

from diffusion.published.sana import Sana
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

SMALL = Sana(8, 4, 1, 24, 2, 3, 2, TEXT)

CALLS = {
    "sana": Call(denoised, 8e-6, layouts=OWN, slow=True, longer=True),
    "sana_normed": Call(denoised, 8e-6, layouts=OWN, slow=True, longer=True),
    "sana_sprint": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "sana_original": Call(denoised, 2e-5, longer=True),
}
LISTINGS = {"sana_full": "SanaTransformer2DModel"}
KINDS = {
    "SanaPipeline": KindFacts((20, 4.5), 7, "Sana", {"instructed"}, [("", {"masked": True}, 300)], left=False),
    "SanaPAGPipeline": KindFacts((20, 4.5), 7, "Sana", {"instructed"}, perturbed=3.0),
    "SanaSprintPipeline": KindFacts((2, 4.5), 7, "Sana", {"instructed", "unit_clock", "strength"}),
}
SAME = {"SanaSprintImg2ImgPipeline": "SanaSprintPipeline"}
TRAJECTORIES = {"sprint": {"lcm": 2e-5, "lcm, two steps": 2e-5}, "sana": {"dpmpp_2m": 3e-5}}
LORA_LAYERS = {
    "sana": [
        (SMALL, "diffusers", "transformer_blocks.1.attn1.to_k"),
        (SMALL, "diffusers", "transformer_blocks.0.attn2.to_v"),
        (SMALL, "original", "blocks.1.attn.qkv"),
    ]
}
BACKBONES = {
    "sana": Backbone(
        Sana(8, 4, 1, 24, 2, 6, 2, TEXT, qk_norm=True), (8, 8, 4), words("text_mask"), divides=1, untrained=r"key/bias$"
    )
}
