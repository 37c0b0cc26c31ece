"""Facts of FLUX.2 for the tests of all families."""

from diffusion.published.flux2 import Flux2
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, autoencoder_kl
from tests.published.family_facts import KindFacts

KLEIN = Flux2(4, 24, 2, 2, 3, TEXT, (2, 2, 2, 2))
MASKED, FLAGS = {"masked": True}, {"unit_clock", "even", "by_steps", "several"}


def flux2(net, a):
    plain = {name: a[name] for name in ("text", "strength") if name in a}
    pictures = {"pictures": (a["picture_0"], a["picture_1"])}
    return {"output": net(a["x"], a["t"], plain), "edited": net(a["x"], a["t"], plain | pictures)}


CALLS = {
    "flux2_klein": Call(flux2, 6e-6, layouts=OWN, longer=True),
    "flux2_dev": Call(flux2, 1e-4, layouts=OWN, slow=True, longer=True),
    "flux2_autoencoder": Call(autoencoder_kl, 6e-6, layouts=OWN, longer=True),
}
LISTINGS = {"flux2_full_klein": "Flux2Transformer2DModel", "flux2_autoencoder_full": "AutoencoderKLFlux2"}
KINDS = {
    "Flux2Pipeline": KindFacts(
        (50, 4.0), 1, "Flux2", FLAGS | {"strength"}, [("", MASKED | {"layers": (10, 20, 30)}, 512)]
    ),
    "Flux2KleinPipeline": KindFacts((50, 4.0), 1, "Flux2", FLAGS, [("", MASKED | {"layers": (9, 18, 27)}, 512)]),
    "Flux2KleinInpaintPipeline": KindFacts((50, 8.0), 1, "Flux2", FLAGS),
}
TRAJECTORIES = {name: {"euler": 4e-5} for name in ("flux2", "klein", "flux2_edits", "klein_edits")}
LORA_LAYERS = {
    "flux2": [
        (KLEIN, "diffusers", "transformer_blocks.1.attn.add_q_proj"),
        (KLEIN, "diffusers", "single_transformer_blocks.1.attn.to_qkv_mlp_proj"),
        (KLEIN, "diffusers", "double_stream_modulation_img.linear"),
        (KLEIN, "original", "double_blocks.0.img_attn.qkv"),
        (KLEIN, "original", "single_blocks.1.linear2"),
    ]
}
BACKBONES = {
    "flux2": Backbone(
        Flux2(4, 24, 2, 2, 2, TEXT, (2, 4, 4, 2), strength=True),
        (8, 8, 4),
        words("strength"),
        divides=1,
        blocks="(?:single_)?blocks",
    )
}
