"""Facts of HunyuanVideo for the tests of all families."""

from diffusion.models.autoencoders import clip_parts
from diffusion.published.hunyuan_video import HunyuanVideo
from tests.models.backbone import POOLED, TEXT, Backbone, words
from tests.models.interchange.calls import Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = HunyuanVideo(4, 24, 2, 2, 1, 2, TEXT, 8, (4, 4, 4))
READERS = [("", {"masked": True, "layers": (-3,)}, 351), ("_2", {}, 0)]  # 95 tokens of the template go


def in_blended_parts(apply, inputs):
    class Coded:
        time_factor = 4
        apply = staticmethod(lambda variables, x, method: apply(x, method=method))

    moments = clip_parts.blended(Coded, {}, "encode")(inputs["x"])
    return {**moments._asdict(), "decoded": clip_parts.blended(Coded, {}, "decode")(inputs["z"])}


CALLS = {
    "hunyuan_video": Call(denoised, 1e-4),
    "hunyuan_video_original": Call(denoised, 1e-4, slow=True),
    "hunyuan_autoencoder": Call(autoencoder_kl, 3e-5, slow=True),
    "hunyuan_autoencoder_parts": Call(in_blended_parts, 3e-5, slow=True),
}
LISTINGS = {
    "hunyuan_video_full": "HunyuanVideoTransformer3DModel",
    "hunyuan_autoencoder_full": "AutoencoderKLHunyuanVideo",
}
KINDS = {
    "HunyuanVideoPipeline": KindFacts(
        (50, 6.0), 2, "HunyuanVideo", {"unit_clock", "even"}, READERS, clip=(129, (720, 1280), 24.0, {})
    )
}
CLIP_TRAJECTORIES = {"hunyuan_video": {"euler": 1e-4}}
LORA_LAYERS = {
    "hunyuan_video": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.add_k_proj"),
        (SMALL, "diffusers", "single_transformer_blocks.0.proj_mlp"),
        (SMALL, "diffusers", "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"),
        (SMALL, "original", "double_blocks.0.img_attn_qkv"),
        (SMALL, "original", "double_blocks.1.txt_mlp.fc2"),
        (SMALL, "original", "single_blocks.1.linear1"),
        (SMALL, "original", "txt_in.individual_token_refiner.blocks.0.self_attn_qkv"),
    ]
}
BACKBONES = {
    "hunyuan_video": Backbone(
        HunyuanVideo(4, 24, 2, 2, 1, 2, TEXT, POOLED, (4, 4, 4)),
        (3, 4, 4, 4),
        words("text_mask", "pooled", "strength"),
        divides=1,
        blocks="(?:single_)?blocks",
    )
}
