"""Facts of Chroma for the tests of all families."""

from tests.models.interchange.calls import OWN, Call, denoised
from tests.published.family_facts import KindFacts

CALLS = {
    "chroma": Call(denoised, 5e-6, layouts=OWN, longer=True),
    "chroma_original": Call(denoised, 6e-6, slow=True, longer=True),
}
LISTINGS = {"chroma_full": "ChromaTransformer2DModel"}
KINDS = {
    "ChromaPipeline": KindFacts((35, 5.0), 2, "", {"unit_clock", "even", "approximated"}, [("", {"masked": True}, 512)])
}
SAME = {"ChromaImg2ImgPipeline": "ChromaPipeline", "ChromaInpaintPipeline": "ChromaPipeline"}
TRAJECTORIES = {"chroma": {"euler": 4e-5}}
