"""Facts of Qwen-Image 2.1 for the tests of all families."""

from diffusion.published.qwen_image_21 import QwenImage21
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = QwenImage21(4, 24, 2, 2, TEXT, 2, (4, 4, 4))

CALLS = {
    "qwen_image_21": Call(denoised, 3e-5, layouts=OWN, longer=True),
    "qwen_image_21_of_time": Call(denoised, 3e-5, slow=True, longer=True),
    "qwen_image_21_autoencoder": Call(autoencoder_kl, 1e-5, layouts=OWN, slow=True, longer=True),
}
LISTINGS = {
    "qwen_image_21_full": "QwenImage21Transformer2DModel",
    "qwen_image_21_autoencoder_full": "AutoencoderKLQwenImage21",
}
KINDS = {
    "QwenImage21Pipeline": KindFacts(
        (40, 1.0), 1, "QwenImage21", {"unit_clock", "even"}, [("", {"masked": True, "norm": False}, 1038)], left=False
    )
}
TRAJECTORIES = {"qwen_image_21": {"euler": 7e-6}}
LORA_LAYERS = {
    "qwen_image_21": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.to_k"),
        (SMALL, "diffusers", "transformer_blocks.0.img_mlp.gate_layer"),
        (SMALL, "diffusers", "txt_in.out_layer"),
    ]
}
BACKBONES = {"qwen_image_21": Backbone(SMALL, (4, 6, 4), words("text_mask"), divides=1)}
