"""Facts of AuraFlow for the tests of all families."""

from diffusion.published.auraflow import AuraFlow
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

SMALL = AuraFlow(4, 2, 24, 2, 2, 2, TEXT, 4)

CALLS = {"auraflow": Call(denoised, 3e-5, layouts=OWN, longer=True), "auraflow_original": Call(denoised, 3e-5)}
LISTINGS = {"auraflow_full": "AuraFlowTransformer2DModel"}
KINDS = {"AuraFlowPipeline": KindFacts((50, 3.5), 7, "AuraFlow", {"unit_clock"}, [("", {"masked": True}, 256)])}
TRAJECTORIES = {"auraflow": {"euler": 7e-6}}
LORA_LAYERS = {
    "auraflow": [
        (SMALL, "diffusers", "joint_transformer_blocks.1.attn.add_q_proj"),
        (SMALL, "diffusers", "single_transformer_blocks.1.ff.linear_2"),
        (SMALL, "original", "double_layers.0.mlpC.c_fc1"),
    ]
}
BACKBONES = {
    "auraflow": Backbone(
        AuraFlow(4, 2, 24, 2, 1, 2, TEXT, 4),
        (8, 8, 4),
        words(),
        untrained="text/attention/out",  # which reaches the picture through a product of small gates
        blocks="(?:single_)?blocks",
    )
}
