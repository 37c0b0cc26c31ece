"""Facts of LTX-2 for the tests of all families."""

import numpy as np

from diffusion.published.ltx2 import LTX2
from tests.models.interchange.calls import OWN, Call, autoencoder_kl
from tests.published.family_facts import KindFacts

SMALL = LTX2(6, 5, 24, 16, 2, 2, 12, halves=True)


def ltx2(net, a, **more):
    """With a time for each frame, and another for the sound."""
    condition = {name: a[name] for name in ("text", "sound_text", "text_mask", "rate")}
    x = {"video": a["video"], "sound": a["sound"]}
    t = {"video": a["t_of_frames"], "sound": a["t_of_sound"]}
    return net(x, t, condition | more)


def ltx2_of_guidance(net, a):
    """And with the second layer perturbed, and with both modalities apart."""
    batch = len(a["sound"])
    outputs = {
        "": ltx2(net, a),
        "perturbed_": ltx2(net, a, identity=np.tile([False, True], (batch, 1))),
        "apart_": ltx2(net, a, apart=np.ones(batch, bool)),
    }
    return {f"{name}{leaf}": array for name, output in outputs.items() for leaf, array in output.items()}


def connected(net, a):
    return dict(zip(("text", "sound_text"), net(a["states"], a["mask"])))


def sounds(apply, inputs):
    """And what a diffusion model's tokens are of latents."""
    moments = apply(inputs["x"], method="encode")
    latents = apply(inputs["tokens"], method="latents")
    decoded, tokens = apply(latents, method="decode"), apply(moments.mean, method="tokens")
    return {**moments._asdict(), "latents": latents, "decoded": decoded, "tokens": tokens}


KINDS = {
    "LTX2Pipeline": KindFacts(
        (30, 3.0),
        1,
        "LTX2",
        {"even"},
        [("", {"masked": True, "layers": None}, 1024)],
        left=True,
        perturbed=1.0,
        clip=(121, (512, 768), 24.0, {"clean": True, "rated": True}),
        sound=(7.0, 3.0),
    )
}
SAME = {"LTX2ImageToVideoPipeline": "LTX2Pipeline"}
SOUND_TRAJECTORIES = {"ltx2": {"euler": 6e-5}, "ltx2_from_image": {"euler": 6e-5}}
CALLS = {
    "ltx2": Call(ltx2, 3e-5, layouts=OWN, longer=True),
    "ltx2_neighbours": Call(ltx2, 3e-5, longer=True),
    "ltx2_gated": Call(ltx2_of_guidance, 4e-5, longer=True),
    "ltx2_original": Call(ltx2, 2e-5, longer=True),
    "ltx2_autoencoder": Call(autoencoder_kl, 1e-5, longer=True),
    "ltx2_autoencoder_axes": Call(autoencoder_kl, 1e-5, longer=True),
    "ltx2_sound_autoencoder": Call(sounds, 6e-6, longer=True),
    "ltx2_vocoder": Call(lambda net, a: {"waveform": net(a["x"])}, 2e-6, longer=True),
    "ltx2_wide_vocoder": Call(lambda net, a: {"waveform": net(a["x"])}, 4e-5, longer=True),
    "ltx2_connectors": Call(connected, 5e-6, longer=True),
    "ltx2_connectors_separate": Call(connected, 5e-6, longer=True),
}
LISTINGS = {
    **dict.fromkeys(("ltx2_full", "ltx2_full_2_3"), "LTX2VideoTransformer3DModel"),
    "ltx2_autoencoder_full": "AutoencoderKLLTX2Video",
    "ltx2_sound_autoencoder_full": "AutoencoderKLLTX2Audio",
    "ltx2_vocoder_full": "LTX2Vocoder",
    "ltx2_wide_vocoder_full": "LTX2VocoderWithBWE",
    **dict.fromkeys(("ltx2_connectors_full", "ltx2_connectors_full_2_3"), "LTX2TextConnectors"),
}
LORA_LAYERS = {
    "ltx2": [
        (SMALL, "diffusers", "transformer_blocks.1.audio_to_video_attn.to_v"),
        (SMALL, "diffusers", "transformer_blocks.0.audio_ff.net.0.proj"),
        (SMALL, "diffusers", "av_cross_attn_audio_v2a_gate.linear"),
        (SMALL, "original", "audio_adaln_single.linear"),
        (SMALL, "original", "patchify_proj"),
    ]
}
