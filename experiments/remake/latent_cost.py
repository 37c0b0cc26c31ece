"""Ai et al.'s table of ImageNet at 256 pixels: Gflops and parameters of U-ViT-L and H and of SiT-XL."""

from collections.abc import Mapping

from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.network_costs import XLA, cost_figures, measured_cost
from diffusion.models.dit import dit_preset
from diffusion.models.u_vit import SIZES, UViT

LATENTS = (32, 32, 4)
TABLE = {  # Gflops, half a unit of their last digit, millions of parameters
    "U-ViT-L/2": (77, 0.5, 287),
    "U-ViT-H/2": (133.3, 0.05, 501),
    "SiT-XL/2": (118.7, 0.05, 675),
}


def network(part: str):
    """The network of a row; SiT is DiT with the same outputs."""
    if part == "SiT-XL/2":
        return dit_preset("XL/2", num_classes=1000, learn_sigma=True)
    width, depth, heads = SIZES[part[len("U-ViT-")]]
    return UViT(LATENTS, 2, width, depth, heads, num_classes=1000)


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"...: Gflops", "...: parameters, millions"} of one network."""
    del quick
    return measured_cost(part, network(part), LATENTS)


def published() -> list[Published]:
    """The figures of the table, whose Gflops have digits of two kinds."""
    figures = []
    for name, (gflops, width, millions) in TABLE.items():
        cost, size = cost_figures(name, gflops, millions).items()
        figures += [Published(*cost, width), Published(*size, 0.5)]
    return figures


REMAKE = Remake(
    name="latent_cost",
    title="Gflops and parameters of U-ViT-L and H and of SiT-XL",
    paper='Ai et al. 2025, "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling", '
    "arXiv 2505.11196",
    place="the table of ImageNet at 256 pixels",
    source="the paper's text",
    published=published(),
    parts=list(TABLE),
    beside=[XLA.format(part) for part in TABLE],
    measure=measure,
    minutes=0.3,
    unstated=["What is counted. Here these are products and convolutions; a multiply and an add are one flop."],
    differs="U-ViT's Gflops are 0.7 and 0.08 % lower here. XLA also counts norms and activations.",
    left_out=(
        "U-ViT-S and M and SiT-S, B and L, whose Gflops and parameters could not be read in their papers' own text; "
        "the table of DiT above has SiT's sizes."
    ),
)
