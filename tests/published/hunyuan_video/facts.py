"""Facts of HunyuanVideo for the tests of all families."""

import numpy as np

from diffusion.models.autoencoders import clip_parts
from diffusion.published.hunyuan_video import HunyuanVideo
from tests.models.backbone import POOLED, TEXT, Backbone, words
from tests.models.interchange.calls import Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = HunyuanVideo(4, 24, 2, 2, 1, 2, TEXT, 8, (4, 4, 4))
READERS = [("", {"masked": True, "layers": (-3,)}, 351), ("_2", {}, 0)]  # 95 tokens of the template go


def by_frame(net, a):
    """At one time for all frames but the first, which has none, and at a time for each."""
    condition = {name: a[name] for name in a if name not in ("x", "t")}
    times = a["t"][:, None] * np.float32([0, 1, 1])
    return {"output": net(a["x"], a["t"], condition), "by_frame": net(a["x"], times, condition)}


def in_blended_parts(apply, inputs):
    class Coded:
        time_factor = 4
        apply = staticmethod(lambda variables, x, method: apply(x, method=method))

    moments = clip_parts.blended(Coded, {}, "encode")(inputs["x"])
    return {**moments._asdict(), "decoded": clip_parts.blended(Coded, {}, "decode")(inputs["z"])}


CALLS = {
    "hunyuan_video": Call(denoised, 1e-4, longer=True),
    "hunyuan_video_original": Call(denoised, 1e-4, slow=True, longer=True),
    "hunyuan_video_token_replace": Call(by_frame, 1e-4, longer=True),
    "hunyuan_video_latent_concat": Call(denoised, 1e-4, longer=True),
    "hunyuan_autoencoder": Call(autoencoder_kl, 3e-5, slow=True, longer=True),
    "hunyuan_autoencoder_parts": Call(in_blended_parts, 3e-5, slow=True, longer=True),
}
LISTINGS = {
    **{
        f"hunyuan_video_full{image}": "HunyuanVideoTransformer3DModel"
        for image in ("", "_token_replace", "_latent_concat")
    },
    "hunyuan_autoencoder_full": "AutoencoderKLHunyuanVideo",
}
KINDS = {
    "HunyuanVideoPipeline": KindFacts(
        (50, 6.0), 2, "HunyuanVideo", {"unit_clock", "even"}, READERS, clip=(129, (720, 1280), 24.0, {})
    ),
    "HunyuanVideoImageToVideoPipeline": KindFacts(
        (50, 1.0),
        2,
        "HunyuanVideo",
        {"unit_clock", "even"},
        [("", {"masked": True, "layers": (-3,)}, 359), ("_2", {}, 0)],
        clip=(
            129,
            (720, 1280),
            24.0,
            {"begins": True, "masked": False, "one_mask": True, "hint": 0.001, "left_out": 1},
        ),
    ),
}
CLIP_TRAJECTORIES = {
    "hunyuan_video": {"euler": 1e-4},
    "hunyuan_video_from_image": {"euler": 4e-5},
    "hunyuan_video_concat_from_image": {"euler": 1e-5},
}
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
