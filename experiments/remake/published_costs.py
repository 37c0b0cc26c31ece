"""Published tables of Gflops and parameters, counted again from the networks themselves."""

from typing import Any

from diffusion.experiments.remake.network_costs import cost_remake, parameters
from diffusion.models.budget.flops import flops
from diffusion.models.dit import dit_preset
from diffusion.models.edm2_unet import edm2_preset
from diffusion.models.jit import PRESETS, JiT
from diffusion.models.u_vit import SIZES, UViT

Called = tuple[Any, tuple[int, ...]]
"""(network, shape of one example)."""


def _dit(part: str) -> Called:
    return dit_preset(part.removeprefix("DiT-"), num_classes=1000, learn_sigma=True), (32, 32, 4)


def _budget(network: Any, shape: Any) -> tuple[float, float]:
    """The multiply-adds of the matrix products, in units of 10^9, and the parameters, in units of 10^6."""
    return flops(network, shape) / 2e9, parameters(network, shape)


DIT_TABLE = {  # Gflops (multiply-adds of a forward pass), millions of parameters
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
DIT = cost_remake(
    DIT_TABLE,
    _dit,
    dict.fromkeys(DIT_TABLE, 0.005),
    _budget,
    "what is counted. We count matrix products, without the fixed positions; a multiply and an add are one flop.",
    name="dit_cost",
    title="Gflops and parameters of DiT-S, B, L and XL with patches of 2, 4 and 8",
    paper='Peebles and Xie 2023, "Scalable Diffusion Models with Transformers", arXiv 2212.09748',
    place="table 4",
    minutes=0.3,
    differs=(
        "We count only matrix products. With one more operation for each value that a layer norm normalises (16.8 "
        "million in XL/2, 4.2 in XL/4, 12.8 in L/2), the results for XL/2, XL/4 and L/2 have the digits of the "
        "paper. B/4 has 5.5652 without these operations, and the paper prints 5.56. XLA also counts additions, "
        "which are 0.2 to 0.8 % more."
    ),
)


def _jit(part: str) -> Called:
    size, patch = part.removeprefix("JiT-").split("/")
    module = JiT(num_classes=1000, **{**PRESETS[f"{size}/16"], "patch": int(patch)})
    return module, (16 * int(patch), 16 * int(patch), 3)


JIT = cost_remake(
    {  # a picture's side has 16 patches
        "JiT-B/16": (25, 131),
        "JiT-L/16": (88, 459),
        "JiT-H/16": (182, 953),
        "JiT-B/32": (26, 133),
        "JiT-L/32": (89, 462),
        "JiT-H/32": (183, 956),
        "JiT-B/64": (30, 141),
    },
    _jit,
    name="jit_cost",
    title="Gflops and parameters of JiT-B, L and H at 256 and 512 pixels, and of B at 1,024",
    paper='Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", arXiv 2511.13720',
    place="tables 5, 7 and 8",
    minutes=0.3,
    differs="JiT-B/64 has 7 % fewer Gflops in our count, for a reason that we do not know; its parameters are equal.",
    left_out="JiT-G, because the project has no preset for it.",
)


def _interval(part: str) -> Called:
    kind, _, size = part.partition("-")
    network = edm2_preset(f"{size}/512") if kind == "EDM2" else _dit(part)[0]
    return network, (64, 64, 4)


INTERVAL = cost_remake(
    {"EDM2-S": (102, 280), "EDM2-XXL": (552, 1523), "DiT-XL/2": (525, 675)},
    _interval,
    name="interval_cost",
    title="Gflops and parameters of EDM2-S, EDM2-XXL and DiT-XL/2 at 512 pixels",
    paper='Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality '
    'in Diffusion Models", arXiv 2404.07724',
    place="table 1, model size",
    minutes=0.5,
    differs=(
        "Our Gflops for EDM2 are 1 % lower, and the parameters are equal. We do not count norms, activations and "
        "resampling by averages; we do not know whether the paper counts them."
    ),
)


def _edm2(part: str) -> Called:
    size, side = part.removeprefix("EDM2-").split(", ")
    return edm2_preset(f"{size}/{side}"), (64, 64, {"512": 4, "64": 3}[side])


EDM2 = cost_remake(
    {
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
    },
    _edm2,
    name="edm2_cost",
    title="Gflops and parameters of EDM2-XS to XXL at 512 pixels, and of S to XL at 64",
    paper='Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696',
    place="tables 2 and 3, model size",
    minutes=1,
    differs=(
        "All parameter counts are equal. Our Gflops are 0.9 to 2.3 % lower, which is 3.4 to 4.3 operations per "
        "parameter for S to XXL. Normalising the weights in each pass would need this number of operations. We do "
        "not count them, and do not know whether the paper does. XLA counts 4 % less than we do, because it omits "
        "the products of a convolution with padding."
    ),
)


def _latent(part: str) -> Called:
    """A network on latents; SiT has the network of DiT, with as many outputs."""
    shape = (32, 32, 4)
    if part == "SiT-XL/2":
        return dit_preset("XL/2", num_classes=1000, learn_sigma=True), shape
    width, depth, heads = SIZES[part[len("U-ViT-")]]
    return UViT(shape, 2, width, depth, heads, num_classes=1000), shape


LATENT = cost_remake(
    {"U-ViT-L/2": (77, 287), "U-ViT-H/2": (133.3, 501), "SiT-XL/2": (118.7, 675)},
    _latent,
    {"U-ViT-H/2": 0.05, "SiT-XL/2": 0.05},
    name="latent_cost",
    title="Gflops and parameters of U-ViT-L and H and of SiT-XL",
    paper='Ai et al. 2025, "DiCo: Revitalizing ConvNets for Scalable and Efficient Diffusion Modeling", '
    "arXiv 2505.11196",
    place="the table of ImageNet at 256 pixels",
    minutes=0.3,
    differs="Our Gflops for U-ViT are 0.7 and 0.08 % lower. XLA also counts norms and activations.",
    left_out=(
        "U-ViT-S and M and SiT-S, B and L, because we could not read their Gflops and parameters in the text of "
        "their papers; the table of DiT above has the sizes of SiT."
    ),
)
COSTS = (DIT, JIT, INTERVAL, EDM2, LATENT)
"""The remakes of costs, in the order of the page."""
