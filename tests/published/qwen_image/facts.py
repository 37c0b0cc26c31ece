"""Facts of Qwen-Image for the tests of all families."""

from diffusion.published.qwen_image import QwenImage
from tests.models.backbone import TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, autoencoder_kl
from tests.published.family_facts import KindFacts

SMALL = QwenImage(4, 24, 2, 2, TEXT, (4, 4, 4))


def edited(net, a):
    """The output, alone and beside two pictures."""
    inputs = {name: a[name] for name in ("text", "text_mask")}
    pictures = {"pictures": (a["picture_0"], a["picture_1"])}
    return {"output": net(a["x"], a["t"], inputs), "edited": net(a["x"], a["t"], inputs | pictures)}


def of_layers(net, a):
    """The output for layers of a picture, of the usual kind and of others."""
    inputs = {name: a[name] for name in ("text", "text_mask")} | {"pictures": (a["picture_0"],)}
    return {"output": net(a["x"], a["t"], inputs), "of_kind": net(a["x"], a["t"], inputs | {"kind": a["kind"]})}


CALLS = {
    "qwen_image_layered": Call(of_layers, 5e-5, layouts=OWN, slow=True, longer=True),
    "qwen_image": Call(edited, 4e-5, layouts=OWN, longer=True),
    "qwen_image_clean": Call(edited, 4e-5, layouts=OWN, slow=True, longer=True),
    "qwen_image_autoencoder": Call(autoencoder_kl, 1e-5, slow=True, longer=True),
}
LISTINGS = dict.fromkeys(("qwen_image_full", "qwen_image_layered_full"), "QwenImageTransformer2DModel")
FLAGS = {"unit_clock", "even"}
EDIT = KindFacts((50, 4.0), 2, "QwenImage", FLAGS | {"several"}, [("", {"masked": True}, 576)])
KINDS = {
    "QwenImagePipeline": KindFacts((50, 4.0), 2, "QwenImage", FLAGS, [("", {"masked": True}, 546)]),
    "QwenImageLayeredPipeline": KindFacts(
        (50, 4.0), 2, "QwenImage", FLAGS | {"by_root", "layers", "several"}, [("", {"masked": True}, 546)]
    ),
    "QwenImageEditPipeline": EDIT,
    "QwenImageEditPlusPipeline": EDIT,
}
SAME = {
    "QwenImageImg2ImgPipeline": "QwenImagePipeline",
    "QwenImageInpaintPipeline": "QwenImagePipeline",
    "QwenImageEditInpaintPipeline": "QwenImageEditPipeline",
}
TRAJECTORIES = {name: {"euler": 4e-5} for name in ("qwen_image", "qwen_image_edit", "qwen_image_edit_plus")}
LAYERED_TRAJECTORIES = {"qwen_image_layered": {"euler": 8e-6}}
LORA_LAYERS = {
    "qwen_image": [
        (SMALL, "diffusers", "transformer_blocks.1.attn.add_q_proj"),
        (SMALL, "diffusers", "transformer_blocks.0.img_mlp.net.0.proj"),
        (SMALL, "diffusers", "transformer_blocks.0.txt_mod.1"),
    ]
}
BACKBONES = {"qwen_image": Backbone(SMALL, (8, 8, 4), words("text_mask"))}
