"""Facts of Stable Cascade for the tests of all families."""

from diffusion.published.stable_cascade import StableCascade
from tests.models.backbone import POOLED, TEXT, Backbone, drawn, words
from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

TINY = StableCascade(
    channels=4, widths=(8, 16), layers=(1, 2), up_layers=(2, 1), heads=(2, 2), condition_width=12, pooled_width=POOLED,
    tokens=2, text_width=TEXT, image_width=5, times=2, time_width=8,
)  # fmt: skip
FINER = TINY.clone(
    patch=2, heads=(0, 2), resizing=("convolution",), up_repeats=(2, 1), text_width=0, image_width=0, coarse_channels=3
)


BLOCKS = r"(?:down|up)_\d(?:_first)?"


def coarse(batch):
    return {"pooled": drawn(batch, POOLED), "coarse": drawn(batch, 3, 3, 3)}


def paella(apply, inputs):
    codes, _ = apply(inputs["z"], method="quantize")
    return {
        "encoded": apply(inputs["x"], method="encode"),
        "decoded": apply(inputs["z"], method="decode"),
        "of_codes": apply(codes, method="decode"),
    }


CALLS = {
    "stable_cascade_c": Call(denoised, 5e-6, layouts=OWN, longer=True),
    "stable_cascade_c_images": Call(denoised, 5e-6, slow=True, longer=True),
    "stable_cascade_c_halved": Call(denoised, 5e-6, longer=True),
    "stable_cascade_b": Call(denoised, 9e-6, layouts=OWN, longer=True),
    "paella": Call(paella, 5e-6, longer=True),
}
READERS = [("", {"masked": True, "norm": False}, 0)]
KINDS = {
    f"StableCascade{half}Pipeline": KindFacts((steps, 4.0), 3, "StableCascade", readers=READERS, denoiser="prior")
    for half, steps in (("Combined", 60), ("Prior", 20), ("Decoder", 20))
}
STAGED_TRAJECTORIES = {"stable_cascade": {"ddpm": 2e-5}}  # the larger bound, of stage C
LISTINGS = {
    "stable_cascade_c_full": "StableCascadeUNet",
    "stable_cascade_b_full": "StableCascadeUNet",
    "paella_full": "PaellaVQModel",
}
BACKBONES = {
    "stable_cascade": Backbone(
        TINY, (6, 6, 4), words("pooled"), divides=1, untrained=r".*(key/bias|image.*)", blocks=BLOCKS
    ),
    "stable_cascade, coarse": Backbone(FINER, (8, 8, 4), coarse, untrained=r".*key/bias", blocks=BLOCKS),
}
