"""Facts of Qwen-Image for the tests of all families."""

from diffusion.published.qwen_image import QwenImage
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = QwenImage(4, 24, 2, 2, TEXT, (4, 4, 4))

CALLS = {
    "qwen_image": Call(denoised, 4e-5, layouts=OWN),
    "qwen_image_autoencoder": Call(autoencoder_kl, 1e-5, slow=True),
}
LISTINGS = {"qwen_image_full": "QwenImageTransformer2DModel"}
KINDS = {
    "QwenImagePipeline": KindFacts((50, 4.0), 2, "QwenImage", {"unit_clock", "even"}, [("", {"masked": True}, 546)])
}
SAME = {"QwenImageImg2ImgPipeline": "QwenImagePipeline", "QwenImageInpaintPipeline": "QwenImagePipeline"}
TRAJECTORIES = {"qwen_image": {"euler": 4e-5}}
LORA_LAYERS = {
    "qwen_image": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.add_q_proj"),
        (SMALL, "diffusers", "transformer_blocks.0.img_mlp.net.0.proj"),
        (SMALL, "diffusers", "transformer_blocks.0.txt_mod.1"),
    ]
}
BACKBONES = {"qwen_image": Backbone(SMALL, (8, 8, 4), words("text_mask"))}
