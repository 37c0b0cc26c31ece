"""Kynkaanniemi et al.'s table 1: Gflops and parameters of the networks of ImageNet at 512 pixels."""

from collections.abc import Mapping

from diffusion.experiments.remake.claims import Remake
from diffusion.experiments.remake.network_costs import XLA, measured_cost, published_costs
from diffusion.models.dit import dit_preset
from diffusion.models.edm2_unet import edm2_preset

LATENTS = (64, 64, 4)
NETWORKS = {
    "EDM2-S": lambda: edm2_preset("S/512"),
    "EDM2-XXL": lambda: edm2_preset("XXL/512"),
    "DiT-XL/2": lambda: dit_preset("XL/2", num_classes=1000, learn_sigma=True),
}
TABLE = {"EDM2-S": (102, 280), "EDM2-XXL": (552, 1523), "DiT-XL/2": (525, 675)}  # Gflops, millions of parameters


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"...: Gflops", "...: parameters, millions"} of one network."""
    del quick
    return measured_cost(part, NETWORKS[part](), LATENTS)


REMAKE = Remake(
    name="interval_cost",
    title="Gflops and parameters of EDM2-S, EDM2-XXL and DiT-XL/2 at 512 pixels",
    paper='Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality '
    'in Diffusion Models", arXiv 2404.07724',
    place="table 1, model size",
    source="the paper's text",
    published=published_costs(TABLE, half_width=0.5),
    parts=list(TABLE),
    beside=[XLA.format(part) for part in TABLE],
    measure=measure,
    minutes=0.5,
    unstated=["What is counted. Here these are products and convolutions; a multiply and an add are one flop."],
    differs=(
        "EDM2's Gflops are 1 % lower here, and its parameters are equal. Norms, activations and resampling by means "
        "are not counted here; whether the paper counts them is not known."
    ),
)
