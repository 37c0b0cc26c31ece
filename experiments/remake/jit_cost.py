"""Li and He's tables 5, 7 and 8: Gflops and parameters of JiT-B, L and H at 256 and 512 pixels, and of B at 1,024."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake
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


def network(part: str) -> tuple[Any, tuple[int, ...]]:
    """The JiT of a row, and the shape of one example."""
    size, patch = part.removeprefix("JiT-").split("/")
    module = JiT(num_classes=1000, **{**PRESETS[f"{size}/16"], "patch": int(patch)})
    return module, (16 * int(patch), 16 * int(patch), 3)


REMAKE = cost_remake(
    TABLE,
    network,
    name="jit_cost",
    title="Gflops and parameters of JiT-B, L and H at 256 and 512 pixels, and of B at 1,024",
    paper='Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720',
    place="tables 5, 7 and 8",
    minutes=0.3,
    differs="JiT-B/64 has 7 % fewer Gflops here, for a reason that we do not know; its parameters are equal.",
    left_out="JiT-G, since the project has no preset of it.",
)
