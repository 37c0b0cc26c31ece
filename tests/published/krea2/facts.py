"""Facts of Krea 2 for the tests of all families."""

from diffusion.published.krea2 import Krea2
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

SMALL = Krea2(4, 24, 2, 2, 1, 16, TEXT, 3, 2, 1, 8, 1, 1, (4, 4, 4))

CALLS = {"krea2": Call(denoised, 4e-5, layouts=OWN, longer=True), "krea2_original": Call(denoised, 2e-5, longer=True)}
LISTINGS = {"krea2_full": "Krea2Transformer2DModel"}
KINDS = {
    "Krea2Pipeline": KindFacts(
        (28, 5.5),
        2,
        "Krea2",
        {"unit_clock", "even"},
        [("", {"masked": True, "layers": (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)}, 546)],
        left=False,
    )
}
TRAJECTORIES = {"krea2": {"euler": 4e-5}}
LORA_LAYERS = {
    "krea2": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.to_k"),
        (SMALL, "diffusers", "transformer_blocks.0.attn.to_gate"),
        (SMALL, "diffusers", "text_fusion.refiner_blocks.0.ff.up"),
        (SMALL, "original", "blocks.1.attn.wv"),
    ]
}
BACKBONES = {"krea2": Backbone(SMALL, (8, 8, 4), words("text_mask"))}
