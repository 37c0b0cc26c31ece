"""Facts of Kolors for the tests of all families."""

from tests.models.interchange.calls import Call
from tests.published.family_facts import KindFacts


def chat_glm(apply, inputs):
    before, pooled = apply(inputs["ids"], inputs["mask"], skip=1, norm=False)
    return {"before": before, "pooled": pooled, "tokens": apply(inputs["ids"]).tokens}


CALLS = {"chat_glm": Call(chat_glm, 6e-6)}
LISTINGS = {"chat_glm_full_6b": "ChatGLMModel"}
KINDS = {
    "KolorsPipeline": KindFacts(
        (50, 5.0), 8, readers=[("", {"masked": True, "skip": 1, "norm": False}, 256)], denoiser="unet"
    ),
    "KolorsPAGPipeline": KindFacts((50, 5.0), 8, denoiser="unet", perturbed=3.0),
}
SAME = {"KolorsImg2ImgPipeline": "KolorsPipeline"}
TRAJECTORIES = {"kolors": {"euler": 7e-5}}
