"""Facts of FLUX.1 for the tests of all families."""

import jax.numpy as jnp

from diffusion.published.flux import Flux
from tests.models.backbone import POOLED, TEXT, Backbone, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts


def flux_kontext(net, a):
    plain = {name: a[name] for name in ("text", "pooled", "strength", "picture")}
    residuals = tuple((a[f"{kind}_0"], a[f"{kind}_1"]) for kind in ("joint", "single"))
    controlled = net(a["x"], a["t"], {**plain, "residuals": residuals})
    return {"output": net(a["x"], a["t"], plain), "controlled": controlled}


def flux_dev(net, a):
    plain = {"text": a["text"], "pooled": a["pooled"], "strength": a["strength"]}
    residuals = tuple((a[f"{kind}_0"], a[f"{kind}_1"]) for kind in ("joint", "single"))
    parts = jnp.split(a["extra"], 4, axis=-1)
    extra = (((parts[0], parts[1]), (parts[2], parts[3])),)
    return {
        "output": net(a["x"], a["t"], plain),
        "controlled": net(a["x"], a["t"], {**plain, "residuals": residuals}),
        "adapted": net(a["x"], a["t"], {**plain, "extra": extra}),
    }


def flux_control_net(net, a):
    condition = {name: a[name] for name in ("text", "pooled", "strength") if name in a}
    kinds = dict(zip(("joint", "single"), net(a["x"], a["t"], condition, a["hint"], a.get("mode"))))
    return {f"{kind}_{i}": residual for kind, each in kinds.items() for i, residual in enumerate(each)}


CALLS = {
    "flux_schnell": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "flux_original": Call(denoised, 8e-5, longer=True),
    "flux_dev": Call(flux_dev, 7e-5, layouts=OWN, longer=True),
    "flux_kontext": Call(flux_kontext, 6e-5, layouts=OWN, slow=True, longer=True),
    "flux_control_net": Call(flux_control_net, 4e-5, layouts=OWN, longer=True),
    "flux_control_net_union": Call(flux_control_net, 8e-6, layouts=OWN, slow=True, longer=True),
    "flux_control_net_pixels": Call(flux_control_net, 6e-6, layouts=OWN, longer=True),
    "redux": Call(lambda net, a: {"output": net(a["x"])}, 6e-6),
}
LISTINGS = {
    "flux_full_dev": "FluxTransformer2DModel",
    "flux_control_net_full_union": "FluxControlNetModel",
    "redux_full": "ReduxImageEncoder",
}
KINDS = {
    "FluxPipeline": KindFacts((28, 3.5), 2, "", {"unit_clock", "even"}, [("", {}, 0), ("_2", {}, 512)]),
    "FluxFillPipeline": KindFacts((50, 30.0), 2, "", {"unit_clock", "even", "fills"}),
    "FluxControlPipeline": KindFacts((28, 3.5), 2, "", {"unit_clock", "even", "controlled", "strength"}),
    "FluxKontextPipeline": KindFacts((28, 3.5), 2, "", {"unit_clock", "even", "appends", "strength"}),
    "FluxControlNetPipeline": KindFacts((28, 7.0), 2, "", {"unit_clock", "even"}, attaches="controlnet"),
}
SAME = {
    "FluxImg2ImgPipeline": "FluxPipeline",
    "FluxInpaintPipeline": "FluxPipeline",
    "FluxKontextInpaintPipeline": "FluxKontextPipeline",
    "FluxControlNetImg2ImgPipeline": "FluxControlNetPipeline",
    "FluxControlNetInpaintPipeline": "FluxControlNetPipeline",
}
TRAJECTORIES = {
    "flux": {"euler": 3e-5},
    "fill": {"euler": 4e-5},
    "control": {"euler": 3e-5},
    "kontext": {"euler": 4e-5},
}
BACKBONES = {
    "flux": Backbone(
        Flux(4, 4, 24, 2, 2, 2, TEXT, POOLED, (4, 4, 4), strength=True),
        (8, 8, 4),
        words("pooled", "strength"),
        blocks="(?:single_)?blocks",
    ),
    "flux, approximator": Backbone(
        Flux(4, 4, 24, 2, 2, 2, TEXT, 0, (4, 4, 4), approximator=(8, 12, 2)),
        (8, 8, 4),
        words("text_mask"),
        blocks="(?:single_)?blocks",
    ),
}
