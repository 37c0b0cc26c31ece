"""Li and He's tables 5, 7 and 8: Gflops and parameters of JiT-B, L and H at 256 and 512 pixels, and of B at 1,024."""

from collections.abc import Mapping

from diffusion.experiments.remake.claims import Remake
from diffusion.experiments.remake.network_costs import XLA, measured_cost, published_costs
from diffusion.models.jit import PRESETS, JiT

TABLE = {  # Gflops, millions of parameters; a patch is a sixteenth of a side
    "JiT-B/16": (25, 131),
    "JiT-L/16": (88, 459),
    "JiT-H/16": (182, 953),
    "JiT-B/32": (26, 133),
    "JiT-L/32": (89, 462),
    "JiT-H/32": (183, 956),
    "JiT-B/64": (30, 141),
}


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"JiT-...: Gflops", "JiT-...: parameters, millions"} of one network."""
    del quick
    size, patch = part.removeprefix("JiT-").split("/")
    network = JiT(num_classes=1000, **{**PRESETS[f"{size}/16"], "patch": int(patch)})
    return measured_cost(part, network, (16 * int(patch), 16 * int(patch), 3))


REMAKE = Remake(
    name="jit_cost",
    title="Gflops and parameters of JiT-B, L and H at 256 and 512 pixels, and of B at 1,024",
    paper='Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720',
    place="tables 5, 7 and 8",
    source="the paper's text",
    published=published_costs(TABLE, half_width=0.5),
    parts=list(TABLE),
    beside=[XLA.format(part) for part in TABLE],
    measure=measure,
    minutes=0.3,
    unstated=["What is counted. Here these are products and convolutions; a multiply and an add are one flop."],
    differs="JiT-B/64 has 7 % fewer Gflops here, for a reason that we do not know; its parameters are equal.",
    left_out="JiT-G, since the project has no preset of it.",
)
