"""Facts of Lumina-Image 2 for the tests of all families."""

from diffusion.published.lumina2 import Lumina2
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

SMALL = Lumina2(4, 24, 2, 1, 4, 2, 16, TEXT, (2, 2, 2))
READERS = [("", {"masked": True, "layers": (-2,)}, 256)]

CALLS = {"lumina2": Call(denoised, 5e-6, layouts=OWN, longer=True)}
LISTINGS = dict.fromkeys(("lumina2_full", "lumina2_full_original"), "Lumina2Transformer2DModel")
KINDS = {
    "Lumina2Pipeline": KindFacts((30, 4.0), 2, "Lumina2", {"unit_clock", "even", "instructed"}, READERS, left=False)
}
SAME = {"Lumina2Text2ImgPipeline": "Lumina2Pipeline"}
TRAJECTORIES = {"lumina2": {"euler": 5e-6}}
LORA_LAYERS = {
    "lumina2": [
        (SMALL, "diffusers", "layers.1.attn.to_v"),
        (SMALL, "diffusers", "context_refiner.0.feed_forward.linear_3"),
    ]
}
BACKBONES = {"lumina2": Backbone(SMALL, (8, 8, 4), words("text_mask"))}
