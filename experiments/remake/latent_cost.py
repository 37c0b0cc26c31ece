"""Ai et al.'s table of ImageNet at 256 pixels: Gflops and parameters of U-ViT-L and H and of SiT-XL."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake
from diffusion.models.dit import dit_preset
from diffusion.models.u_vit import SIZES, UViT

LATENTS = (32, 32, 4)
TABLE = {  # Gflops, millions of parameters
    "U-ViT-L/2": (77, 287),
    "U-ViT-H/2": (133.3, 501),
    "SiT-XL/2": (118.7, 675),
}


def network(part: str) -> tuple[Any, tuple[int, ...]]:
    """The network of a row, and the shape of one example; SiT is DiT with the same outputs."""
    if part == "SiT-XL/2":
        return dit_preset("XL/2", num_classes=1000, learn_sigma=True), LATENTS
    width, depth, heads = SIZES[part[len("U-ViT-")]]
    return UViT(LATENTS, 2, width, depth, heads, num_classes=1000), LATENTS


REMAKE = cost_remake(
    TABLE,
    network,
    {"U-ViT-H/2": 0.05, "SiT-XL/2": 0.05},
    name="latent_cost",
    title="Gflops and parameters of U-ViT-L and H and of SiT-XL",
    paper='Ai et al. 2025, "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling", '
    "arXiv 2505.11196",
    place="the table of ImageNet at 256 pixels",
    minutes=0.3,
    differs="U-ViT's Gflops are 0.7 and 0.08 % lower here. XLA also counts norms and activations.",
    left_out=(
        "U-ViT-S and M and SiT-S, B and L, whose Gflops and parameters could not be read in their papers' own text; "
        "the table of DiT above has SiT's sizes."
    ),
)
