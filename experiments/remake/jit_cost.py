"""Li and He's table 7: Gflops and parameters of JiT-B, L and H with patches of 16, on pictures of 256 pixels."""

from collections.abc import Mapping

from diffusion.experiments.remake.claims import Remake
from diffusion.experiments.remake.network_costs import cost_figures, network_cost, published_costs
from diffusion.models.jit import jit_preset

TABLE = {"JiT-B/16": (25, 131), "JiT-L/16": (88, 459), "JiT-H/16": (182, 953)}  # Gflops, millions of parameters


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"JiT-...: Gflops", "JiT-...: parameters, millions"} of one network."""
    del quick
    return cost_figures(part, *network_cost(jit_preset(part.removeprefix("JiT-")), (256, 256, 3)))


REMAKE = Remake(
    name="jit_cost",
    title="Gflops and parameters of JiT-B, L and H",
    paper='Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720',
    place="the table of ImageNet at 256 pixels",
    source="a public summary of the paper that repeats the table",
    published=published_costs(TABLE, half_width=0.5),
    parts=list(TABLE),
    measure=measure,
    minutes=0.3,
    unstated=["What is counted. Here: products and convolutions, one flop for a multiply and an add."],
)
