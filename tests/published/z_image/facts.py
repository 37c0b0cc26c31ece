"""Facts of Z-Image for the tests of all families."""

from diffusion.published.z_image import ZImage
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

SMALL = ZImage(4, 24, 2, 1, 2, TEXT, (4, 4, 4))

CALLS = {"z_image": Call(denoised, 7e-5, layouts=OWN, longer=True)}
LISTINGS = {"z_image_full": "ZImageTransformer2DModel"}
KINDS = {
    "ZImagePipeline": KindFacts(
        (50, 6.0), 2, "ZImage", {"unit_clock", "even"}, [("", {"masked": True, "layers": (-2,)}, 512)]
    )
}
SAME = {"ZImageImg2ImgPipeline": "ZImagePipeline", "ZImageInpaintPipeline": "ZImagePipeline"}
TRAJECTORIES = {"z_image": {"euler": 4e-5}}
LORA_LAYERS = {
    "z_image": [
        (SMALL, "diffusers", "layers.1.attention.to_k"),
        (SMALL, "diffusers", "noise_refiner.0.attention.to_out.0"),
        (SMALL, "diffusers", "layers.0.feed_forward.w3"),
        (SMALL, "diffusers", "layers.0.adaLN_modulation.0"),
        (SMALL, "original", "context_refiner.0.attention.qkv"),
    ]
}
BACKBONES = {"z_image": Backbone(SMALL, (8, 8, 4), words("text_mask"))}
