"""Facts of LTX-Video for the tests of all families."""

from diffusion.published.ltx_video import LTXVideo
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import Call
from tests.published.family_facts import KindFacts

SMALL = LTXVideo(channels=4, width=24, depth=2, heads=2, text_width=TEXT)
CLIP = (161, (512, 704), 25.0)


def ltx_autoencoder(apply, inputs):
    moments = apply(inputs["x"], method="encode")
    decoded = apply(inputs["z"], *((inputs["t"],) if "t" in inputs else ()), method="decode")
    return {**moments._asdict(), "decoded": decoded}


def ltx_video(net, a):
    plain = {"text": a["text"], "text_mask": a["text_mask"]}
    of_frames = net(a["x"], a["t_of_frames"], {**plain, "rate": a["rate"]})
    return {"output": net(a["x"], a["t"], plain), "of_frames": of_frames}


CALLS = {
    "ltx_video": Call(ltx_video, 3e-5, longer=True),
    "ltx_autoencoder": Call(ltx_autoencoder, 1e-5, slow=True, longer=True),
    "ltx_autoencoder_noise": Call(ltx_autoencoder, 1e-5, slow=True, longer=True),
    "ltx_autoencoder_folds": Call(ltx_autoencoder, 1e-5, longer=True),
}
LISTINGS = {
    "ltx_video_full": "LTXVideoTransformer3DModel",
    **dict.fromkeys(
        ("ltx_autoencoder_full_0_9_0", "ltx_autoencoder_full_0_9_1", "ltx_autoencoder_full_0_9_5"),
        "AutoencoderKLLTXVideo",
    ),
}
KINDS = {
    "LTXPipeline": KindFacts((50, 3.0), 1, "LTXVideo", {"even"}, [("", {}, 128)], clip=(*CLIP, {"clean": True})),
    "LTXConditionPipeline": KindFacts(
        (50, 3.0),
        1,
        "LTXVideo",
        {"bent"},
        [("", {"masked": True}, 256)],
        clip=(*CLIP[:3], {"clean": True, "timed": True, "blur": 0.15}),
    ),
}
SAME = {"LTXImageToVideoPipeline": "LTXPipeline"}
CLIP_TRAJECTORIES = {name: {"euler": 3e-5} for name in ("ltx", "ltx_from_image", "ltx_conditions")}
LORA_LAYERS = {
    "ltx_video": [
        (SMALL, "diffusers", "transformer_blocks.1.attn2.to_v"),
        (SMALL, "diffusers", "transformer_blocks.0.ff.net.0.proj"),
        (SMALL, "diffusers", "time_embed.linear"),
        (SMALL, "original", "adaln_single.linear"),
        (SMALL, "original", "patchify_proj"),
    ]
}
BACKBONES = {"ltx_video": Backbone(SMALL, (3, 4, 4, 4), words("text_mask"), untrained="key/bias$", divides=1)}
