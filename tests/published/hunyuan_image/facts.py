"""Facts of HunyuanImage 2.1 for the tests of all families."""

from diffusion.published.hunyuan_image import HunyuanImage
from tests.models.backbone import TEXT, Backbone
from tests.models.interchange.calls import OWN, Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts
from tests.published.hunyuan_video_15.facts import quoted

SMALL = HunyuanImage(4, 24, 2, 2, 1, 2, TEXT, 10, (4, 8))


def mean_flow(net, a):
    """The output for the begin and the end of a step."""
    return denoised(
        lambda x, t, condition: net(x, (t, a["end"]), condition), {k: v for k, v in a.items() if k != "end"}
    )


CALLS = {
    "hunyuan_image": Call(denoised, 4e-6, layouts=OWN, longer=True),
    "hunyuan_image_strength": Call(denoised, 1e-4, slow=True, longer=True),
    "hunyuan_image_mean_flow": Call(mean_flow, 1e-4, slow=True, longer=True),
    "hunyuan_image_autoencoder": Call(autoencoder_kl, 9e-6, layouts=OWN, longer=True),
}
LISTINGS = {
    "hunyuan_image_full": "HunyuanImageTransformer2DModel",
    "hunyuan_image_autoencoder_full": "AutoencoderKLHunyuanImage",
}
KINDS = {
    "HunyuanImagePipeline": KindFacts(
        (50, 3.25),
        1,
        "HunyuanImage",
        {"unit_clock", "even"},
        [("", {"masked": True, "layers": (-3,)}, 1034), ("_2", {"masked": True}, 128)],
    )
}
TRAJECTORIES = {"hunyuan_image": {"euler": 4e-6}, "hunyuan_image_distilled": {"euler": 3e-5}}
LORA_LAYERS = {
    "hunyuan_image": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.add_k_proj"),
        (SMALL, "diffusers", "single_transformer_blocks.0.proj_mlp"),
        (SMALL, "diffusers", "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"),
    ]
}
BACKBONES = {"hunyuan_image": Backbone(SMALL, (2, 4, 4), quoted, divides=1, blocks="(?:single_)?blocks")}
