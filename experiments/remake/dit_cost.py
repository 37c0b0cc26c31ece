"""Peebles and Xie's table 4: Gflops and parameters of the twelve DiTs, by the budget and by the networks themselves."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake, parameters
from diffusion.models.budget.flops import flops
from diffusion.models.dit import dit_preset

LATENTS = (32, 32, 4)  # latents of pictures of 256 x 256 pixels
TABLE = {  # Gflops (multiply-adds of a forward pass), millions of parameters
    "DiT-S/8": (0.36, 33),
    "DiT-S/4": (1.41, 33),
    "DiT-S/2": (6.06, 33),
    "DiT-B/8": (1.42, 131),
    "DiT-B/4": (5.56, 130),
    "DiT-B/2": (23.01, 130),
    "DiT-L/8": (5.01, 459),
    "DiT-L/4": (19.70, 458),
    "DiT-L/2": (80.71, 458),
    "DiT-XL/8": (7.39, 676),
    "DiT-XL/4": (29.05, 675),
    "DiT-XL/2": (118.64, 675),
}


def network(part: str) -> tuple[Any, tuple[int, ...]]:
    """The DiT of a row, and the shape of one example."""
    return dit_preset(part.removeprefix("DiT-"), num_classes=1000, learn_sigma=True), LATENTS


def budget(network: Any, shape: Any) -> tuple[float, float]:
    """10^9 multiply-adds of the products of matrices, and 10^6 parameters."""
    return flops(network, shape) / 2e9, parameters(network, shape)


REMAKE = cost_remake(
    TABLE,
    network,
    dict.fromkeys(TABLE, 0.005),
    budget,
    "What is counted. Here these are products of matrices, without the fixed positions; a multiply and an add are one "
    "flop.",
    name="dit_cost",
    title="Gflops and parameters of DiT-S, B, L and XL with patches of 2, 4 and 8",
    paper='Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", arXiv 2212.09748',
    place="table 4",
    minutes=0.3,
    differs=(
        "The budget counts products of matrices alone. With one more operation for each value that a layer norm "
        "normalises (16.8 million in XL/2, 4.2 in XL/4, 12.8 in L/2), XL/2, XL/4 and L/2 have the paper's digits. B/4 "
        "has 5.5652 without these operations, and the paper prints 5.56. XLA also counts additions, which are 0.2 to "
        "0.8 % more."
    ),
)
