"""Facts of Stable Diffusion 1, 2 and XL for the tests of all families."""

import jax.numpy as jnp

from diffusion.published.stable_diffusion import ConditionalUNet
from tests.models.backbone import POOLED, TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

HIDDEN = {"skip": 1, "norm": False}
UNET = KindFacts((50, 7.5), 8, denoiser="unet")
XL = UNET._replace(flags={"edits", "inpainting", "zeros"})
XL_ATTACHING = UNET._replace(usual=(50, 5.0), flags={"zeros"})


def levels(net, a):
    condition = {name: a[name] for name in ("text", "pooled", "size") if name in a}
    condition["level_residuals"] = tuple(a[name] for name in sorted(a) if name.startswith("level_"))
    return {"output": net(a["x"], a["t"], condition)}


def t2i_adapter(net, a):
    return {f"level_{i}": feature for i, feature in enumerate(net(a["picture"]))}


def control_net(net, a):
    condition = {name: a[name] for name in ("text", "pooled", "size") if name in a}
    kind = [jnp.full(len(a["x"]), a["mode"])] if "mode" in a else []
    residuals = net(a["x"], a["t"], condition, a["hint"], *kind)
    return {f"residual_{i}": residual for i, residual in enumerate(residuals)}


CALLS = {
    "conditional_unet_sd1": Call(denoised, 8e-6, layouts=OWN, longer=True),
    "conditional_unet_original_sd1": Call(denoised, 1e-5, longer=True),
    "conditional_unet_sd2": Call(denoised, 9e-6, layouts=OWN, slow=True, longer=True),
    "conditional_unet_xl": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "conditional_unet_original_xl": Call(denoised, 2e-5, longer=True),
    "conditional_unet_distilled": Call(denoised, 1e-4, layouts=OWN, slow=True, longer=True),
    "conditional_unet_one_level": Call(denoised, 2e-5, longer=True),
    "conditional_unet_uneven": Call(denoised, 9e-6, slow=True, longer=True),
    "conditional_unet_number": Call(denoised, 8e-6, slow=True, longer=True),
    "conditional_unet_projection": Call(denoised, 1e-5, slow=True, longer=True),
    "conditional_unet_table": Call(denoised, 9e-6, slow=True, longer=True),
    "conditional_unet_levels": Call(levels, 1e-5, slow=True, longer=True),
    "conditional_unet_levels_xl": Call(levels, 2e-5, slow=True, longer=True),
    "control_net": Call(control_net, 8e-6, layouts=OWN, longer=True),
    "control_net_original": Call(control_net, 9e-6, slow=True, longer=True),
    "control_net_union": Call(control_net, 9e-6, layouts=OWN, longer=True),
    "t2i_adapter_full": Call(t2i_adapter, 8e-6, layouts=OWN, longer=True),
    "t2i_adapter_full_xl": Call(t2i_adapter, 8e-6, layouts=OWN, slow=True),
    "t2i_adapter_light": Call(t2i_adapter, 8e-6, layouts=OWN, slow=True, longer=True),
}
LISTINGS = {
    **dict.fromkeys(
        ("conditional_unet_full_sd15", "conditional_unet_original_full_sd15", "conditional_unet_full_sdxl"),
        "UNet2DConditionModel",
    ),
    **dict.fromkeys(("control_net_full_sd15", "control_net_original_full_sd15"), "ControlNetModel"),
    "control_net_union_full_xl": "ControlNetUnionModel",
    **dict.fromkeys(("t2i_adapter_sd15", "t2i_adapter_xl"), "T2IAdapter"),
}
KINDS = {
    "StableDiffusionPipeline": UNET._replace(flags={"edits", "inpainting"}, readers=[("", {}, 0)]),
    "StableDiffusionInstructPix2PixPipeline": UNET._replace(usual=(100, 7.5)),
    "LatentConsistencyModelPipeline": UNET._replace(usual=(4, 8.5)),
    "StableDiffusionXLPipeline": XL._replace(usual=(50, 5.0), readers=[("", HIDDEN, 0), ("_2", HIDDEN, 0)]),
    "StableDiffusionXLInpaintPipeline": XL,
    "StableDiffusionXLInstructPix2PixPipeline": XL._replace(usual=(100, 5.0), flags={"zeros"}),
    "StableDiffusionControlNetPipeline": UNET._replace(attaches="controlnet"),
    "StableDiffusionXLControlNetPipeline": XL_ATTACHING._replace(attaches="controlnet"),
    "StableDiffusionAdapterPipeline": UNET._replace(attaches="adapter"),
    "StableDiffusionXLAdapterPipeline": XL_ATTACHING._replace(attaches="adapter"),
    "StableDiffusionPAGPipeline": UNET._replace(perturbed=3.0),
    "StableDiffusionControlNetPAGPipeline": UNET._replace(attaches="controlnet", perturbed=3.0),
    "StableDiffusionXLPAGPipeline": XL_ATTACHING._replace(perturbed=3.0),
    "StableDiffusionXLPAGInpaintPipeline": XL_ATTACHING._replace(usual=(50, 7.5), perturbed=3.0),
    "StableDiffusionXLControlNetPAGPipeline": XL_ATTACHING._replace(attaches="controlnet", perturbed=3.0),
}
SAME = {  # classes that differ in what they are given, not in their model
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionPipeline",
    "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
    "LatentConsistencyModelImg2ImgPipeline": "LatentConsistencyModelPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionPAGImg2ImgPipeline": "StableDiffusionPAGPipeline",
    "StableDiffusionPAGInpaintPipeline": "StableDiffusionPAGPipeline",
    "StableDiffusionControlNetPAGInpaintPipeline": "StableDiffusionControlNetPAGPipeline",
    "StableDiffusionXLPAGImg2ImgPipeline": "StableDiffusionXLPAGPipeline",
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": "StableDiffusionXLControlNetPAGPipeline",
    "StableDiffusionControlNetImg2ImgPipeline": "StableDiffusionControlNetPipeline",
    "StableDiffusionControlNetInpaintPipeline": "StableDiffusionControlNetPipeline",
    **dict.fromkeys(
        (
            "StableDiffusionXLControlNetImg2ImgPipeline",
            "StableDiffusionXLControlNetInpaintPipeline",
            "StableDiffusionXLControlNetUnionPipeline",
            "StableDiffusionXLControlNetUnionImg2ImgPipeline",
            "StableDiffusionXLControlNetUnionInpaintPipeline",
        ),
        "StableDiffusionXLControlNetPipeline",
    ),
}
TRAJECTORIES = {
    "sd": {
        "plms": 4e-5,
        "pndm": 5e-5,
        "ddpm": 2e-5,
        "ddim": 8e-5,
        "ddim to zero, v": 3e-5,
        "euler": 7e-5,
        "euler, leading": 8e-5,
        "euler, trailing, zero-terminal v": 1e-4,
        "euler, karras": 4e-5,
        "euler_ancestral": 7e-5,
        "heun": 8e-5,
        "dpm_2": 5e-5,
        "dpm_2_ancestral": 4e-5,
        "lms": 8e-5,
        "dpmpp_2m": 5e-5,
        "dpmpp_2m, karras": 5e-5,
        "dpmpp_2m_sde": 3e-5,
        "dpmpp_2m, trailing, sigma_min": 6e-5,
        "unipc": 6e-5,
        "unipc, leading": 5e-5,
        "lcm": 2e-5,
    },
    "inpaint": {"plms": 6e-5, "dpmpp_2m": 6e-5},
    "edit": {"euler_ancestral": 1e-4, "ddim": 1e-4},
    "edit_xl": {"euler_ancestral": 1e-4},
    "xl": {"euler": 6e-5, "euler_ancestral": 4e-5, "dpmpp_2m": 7e-5, "unipc": 6e-5},
    "playground": {"dpmpp_2m": 3e-5, "euler": 3e-5},
    "lcm": {"lcm": 4e-5},
}
BACKBONES = {
    "conditional_unet": Backbone(
        ConditionalUNet(
            (8, 16), (1, 1), (2, 2), TEXT, layers=1, groups=4, linear=True, added_width=POOLED + 6 * 8, size_width=8
        ),
        (8, 8, 4),
        words("text_mask", "pooled", "size"),
        blocks=r"(down|up)_(\d)_(?:resnet|transformer)_(\d)|middle_resnet_1",
    )
}
