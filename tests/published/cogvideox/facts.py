"""Facts of CogVideoX for the tests of all families."""

from diffusion.published.cogvideox import CogVideoX
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import Call, autoencoder_kl, denoised
from tests.published.family_facts import KindFacts

SMALL = CogVideoX(channels=4, in_channels=4, width=32, depth=2, heads=2, text_width=TEXT, time_width=16, grid=(4, 4))
CLIP = (49, (480, 720), 8.0)

CALLS = {
    "cogvideox_sincos": Call(denoised, 1e-5, slow=True, longer=True),
    "cogvideox_rope": Call(denoised, 1e-5, slow=True, longer=True),
    "cogvideox_frames": Call(denoised, 1e-5, longer=True),
    "cogvideox_picture": Call(denoised, 1e-5, longer=True),
    "cogvideox_frames_picture": Call(denoised, 1e-5, slow=True, longer=True),
    "cogvideox_autoencoder": Call(autoencoder_kl, 1e-5, longer=True),
}
LISTINGS = {
    **dict.fromkeys(
        (
            "cogvideox_full_2b",
            "cogvideox_full_5b",
            "cogvideox_full_1_5",
            "cogvideox_full_5b_picture",
            "cogvideox_full_1_5_picture",
        ),
        "CogVideoXTransformer3DModel",
    ),
    "cogvideox_autoencoder_full": "AutoencoderKLCogVideoX",
}
KINDS = {
    "CogVideoXPipeline": KindFacts((50, 6.0), 7, "CogVideoX", readers=[("", {}, 226)], clip=(*CLIP, {"masked": False})),
    "CogVideoXImageToVideoPipeline": KindFacts(
        (50, 6.0), 7, "CogVideoX", clip=(*CLIP, {"masked": False, "begins": True})
    ),
}
CLIP_TRAJECTORIES = {
    "cogvideox": {"ddim": 3e-5, "dpmpp_2m_sde": 3e-5},
    "cogvideox_dynamic": {"ddim": 3e-5},
    "cogvideox_from_image": {"ddim": 3e-5},
    "cogvideox_frames": {"ddim": 3e-5},
    "cogvideox_frames_from_image": {"ddim": 3e-5},
}
LORA_LAYERS = {
    "cogvideox": [
        (SMALL, "diffusers", "transformer_blocks.1.attn1.to_k"),
        (SMALL, "diffusers", "transformer_blocks.0.attn1.to_out.0"),
        (SMALL, "diffusers", "transformer_blocks.1.norm1.linear"),
        (SMALL, "diffusers", "patch_embed.text_proj"),
    ]
}
BACKBONES = {
    "cogvideox": Backbone(
        CogVideoX(4, 4, 32, 2, 2, TEXT, 12, frames=2, positions="rope", grid=(8, 8)),
        (4, 4, 4, 4),
        words(),
        untrained="key_norm/bias$",
        divides=1,
    )
}
