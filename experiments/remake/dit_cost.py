"""Peebles and Xie's table 4: Gflops and parameters of the twelve DiTs, by the budget and by the networks themselves."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffusion.experiments.remake.claims import Published, Remake
from diffusion.models.budget.flops import flops
from diffusion.models.dit import dit_preset

LATENTS = (32, 32, 4)  # of pictures of 256 x 256 pixels
TABLE = {  # Gflops (multiply-adds of a forward pass), millions of parameters
    "S/8": (0.36, 33),
    "S/4": (1.41, 33),
    "S/2": (6.06, 33),
    "B/8": (1.42, 131),
    "B/4": (5.56, 130),
    "B/2": (23.01, 130),
    "L/8": (5.01, 459),
    "L/4": (19.70, 458),
    "L/2": (80.71, 458),
    "XL/8": (7.39, 676),
    "XL/4": (29.05, 675),
    "XL/2": (118.64, 675),
}


def measure(part: str, quick: bool) -> Mapping[str, float]:
    """{"DiT-...: Gflops", "DiT-...: parameters, millions"} of one network, of which no array is made."""
    del quick
    network = dit_preset(part, num_classes=1000, learn_sigma=True)
    x = jax.ShapeDtypeStruct((1, *LATENTS), jnp.float32)
    clock = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), x, clock, labels)["params"]
    return {
        f"DiT-{part}: Gflops": flops(network, LATENTS) / 2e9,
        f"DiT-{part}: parameters, millions": sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6,
    }


REMAKE = Remake(
    name="dit_cost",
    title="Gflops and parameters of DiT-S, B, L and XL with patches of 2, 4 and 8",
    paper='Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", arXiv 2212.09748',
    place="table 4",
    source="the paper's text",
    published=[
        row
        for name, (gflops, millions) in TABLE.items()
        for row in (
            Published(f"DiT-{name}: Gflops", gflops, 0.005),
            Published(f"DiT-{name}: parameters, millions", millions, 0.5),
        )
    ],
    parts=list(TABLE),
    measure=measure,
    minutes=0.3,
    unstated=["What is counted. Here: products of matrices, one flop for a multiply and an add; no fixed positions."],
    differs=(
        "The budget counts products of matrices alone. One more operation for each value that a layer norm normalises "
        "(16.8 million in XL/2, 4.2 in XL/4, 12.8 in L/2) brings XL/2, XL/4 and L/2 to the paper's digits. B/4 has "
        "5.5652 without them, and 5.56 is printed."
    ),
)
