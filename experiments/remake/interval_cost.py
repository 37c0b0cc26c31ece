"""Kynkaanniemi et al.'s table 1: Gflops and parameters of the networks of ImageNet at 512 pixels."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake
from diffusion.models.dit import dit_preset
from diffusion.models.edm2_unet import edm2_preset

NETWORKS = {
    "EDM2-S": lambda: edm2_preset("S/512"),
    "EDM2-XXL": lambda: edm2_preset("XXL/512"),
    "DiT-XL/2": lambda: dit_preset("XL/2", num_classes=1000, learn_sigma=True),
}
TABLE = {"EDM2-S": (102, 280), "EDM2-XXL": (552, 1523), "DiT-XL/2": (525, 675)}  # Gflops, millions of parameters


def network(part: str) -> tuple[Any, tuple[int, ...]]:
    """The network of a row, and the shape of one example."""
    return NETWORKS[part](), (64, 64, 4)


REMAKE = cost_remake(
    TABLE,
    network,
    name="interval_cost",
    title="Gflops and parameters of EDM2-S, EDM2-XXL and DiT-XL/2 at 512 pixels",
    paper='Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality '
    'in Diffusion Models", arXiv 2404.07724',
    place="table 1, model size",
    minutes=0.5,
    differs=(
        "EDM2's Gflops are 1 % lower here, and its parameters are equal. Norms, activations and resampling by means "
        "are not counted here; whether the paper counts them is not known."
    ),
)
