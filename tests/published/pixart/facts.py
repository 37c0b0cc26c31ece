"""Facts of PixArt for the tests of all families."""

from diffusion.published.pixart import PixArt
from tests.models.backbone import TEXT, TOKENS, Backbone, drawn, residuals, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts


def adapter_entries(batch, scale):
    pair = (drawn(batch, 3, 24), scale * drawn(batch, 3, 24))
    return {**residuals(2, 16, 24)(batch, scale), "extra": ((pair, pair),)}


def pixart_control_net(net, a):
    residuals = net(a["tokens"], a["seen"], a["c"], a["text"], None)
    return {f"residual_{i}": residual for i, residual in enumerate(residuals)}


CALLS = {
    "pixart": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "pixart_sized": Call(denoised, 2e-5, layouts=OWN, longer=True),
    "pixart_original": Call(denoised, 3e-5),
    "pixart_control_net": Call(pixart_control_net, 4e-5),
}
LISTINGS = {
    **dict.fromkeys(("pixart_xl_2_512", "pixart_xl_2_1024"), "PixArtTransformer2DModel"),
    "pixart_control_net_full": "PixArtControlNetAdapterModel",
}
KINDS = {
    "PixArtAlphaPipeline": KindFacts((20, 4.5), 7, readers=[("", {"masked": True}, 120)]),
    "PixArtSigmaPipeline": KindFacts((20, 4.5), 7, readers=[("", {"masked": True}, 300)]),
    "PixArtSigmaPAGPipeline": KindFacts((20, 4.5), 7, perturbed=3.0),
}
TRAJECTORIES = {"pixart": {"dpmpp_2m": 6e-5}, "alpha": {"dpmpp_2m": 5e-5}}
BACKBONES = {
    "pixart": Backbone(
        PixArt((8, 8, 4), **TOKENS, text_width=TEXT, learn_sigma=False, sized=True),
        (8, 8, 4),
        words("text_mask", "size"),
        adapter_entries,
        r"key/bias$",
    )
}
