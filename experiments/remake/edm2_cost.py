"""Karras et al.'s tables 2 and 3: Gflops and parameters of EDM2-XS to XXL at 512 pixels, and of S to XL at 64."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake
from diffusion.models.edm2_unet import edm2_preset

TABLE = {  # Gflops, millions of parameters
    "EDM2-XS, 512": (46, 125),
    "EDM2-S, 512": (102, 280),
    "EDM2-M, 512": (181, 498),
    "EDM2-L, 512": (282, 777),
    "EDM2-XL, 512": (406, 1119),
    "EDM2-XXL, 512": (552, 1523),
    "EDM2-S, 64": (102, 280),
    "EDM2-M, 64": (181, 498),
    "EDM2-L, 64": (282, 777),
    "EDM2-XL, 64": (406, 1119),
}


def network(part: str) -> tuple[Any, tuple[int, ...]]:
    """The network of a row, and the shape of one example."""
    size, side = part.removeprefix("EDM2-").split(", ")
    return edm2_preset(f"{size}/{side}"), (64, 64, {"512": 4, "64": 3}[side])


REMAKE = cost_remake(
    TABLE,
    network,
    name="edm2_cost",
    title="Gflops and parameters of EDM2-XS to XXL at 512 pixels, and of S to XL at 64",
    paper='Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696',
    place="tables 2 and 3, model size",
    minutes=1,
    differs=(
        "Every count of parameters is equal. The Gflops are 0.9 to 2.3 % lower here, by 3.4 to 4.2 operations for "
        "each parameter of S to XXL. The normalisation of the weights in each pass would take as many; it is not "
        "counted here, and whether the paper counts it is not known. XLA counts 4 % less than we do, since it leaves "
        "out a convolution's products with padding."
    ),
)
