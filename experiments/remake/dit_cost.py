"""Peebles and Xie's table 4: Gflops and parameters of the twelve DiTs, by the budget and by the networks themselves."""

from collections.abc import Mapping

from diffusion.experiments.remake.claims import Remake
from diffusion.experiments.remake.network_costs import XLA, cost_figures, parameters, published_costs, xla_gflops
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


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"DiT-...: Gflops", "DiT-...: parameters, millions"} of one network, without making an array."""
    del quick
    network = dit_preset(part.removeprefix("DiT-"), num_classes=1000, learn_sigma=True)
    figures = cost_figures(part, flops(network, LATENTS) / 2e9, parameters(network, LATENTS))
    return figures | {XLA.format(part): xla_gflops(network, LATENTS)}


REMAKE = Remake(
    name="dit_cost",
    title="Gflops and parameters of DiT-S, B, L and XL with patches of 2, 4 and 8",
    paper='Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", arXiv 2212.09748',
    place="table 4",
    source="the paper's text",
    published=published_costs(TABLE, half_width=0.005),
    parts=list(TABLE),
    measure=measure,
    minutes=0.3,
    unstated=[
        "What is counted. Here these are products of matrices, without the fixed positions; a multiply and an add are "
        "one flop."
    ],
    differs=(
        "The budget counts products of matrices alone. With one more operation for each value that a layer norm "
        "normalises (16.8 million in XL/2, 4.2 in XL/4, 12.8 in L/2), XL/2, XL/4 and L/2 have the paper's digits. B/4 "
        "has 5.5652 without these operations, and the paper prints 5.56. XLA also counts additions, which are 0.2 to "
        "0.8 % more."
    ),
    beside=[XLA.format(part) for part in TABLE],
)
