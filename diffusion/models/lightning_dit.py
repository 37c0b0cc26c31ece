"""LightningDiT: the sizes of Yao & Wang's DiT, with normalised scales, gated MLPs and rotary positions.

It is `DiT` with norm="scaled_rmsnorm", mlp="swiglu" and positions="sincos_rope". `configs/imagenet256_lightning_dit.py`
is its recipe.
"""

from typing import Any

from diffusion.models.dit import DiT
from diffusion.models.layers.choices import look_up

OPTIONS: dict[str, Any] = {"norm": "scaled_rmsnorm", "mlp": "swiglu", "positions": "sincos_rope"}
SIZES = {  # width, depth, heads, sides of a patch: LightningDiT_models in the authors' models/lightningdit.py
    "B": (768, 12, 12, (1, 2)),
    "L": (1024, 24, 16, (2,)),
    "XL": (1152, 28, 16, (1, 2)),
    "1p0B": (1536, 24, 24, (1, 2)),
    "1p6B": (1792, 28, 28, (1, 2)),
}
PRESETS = {
    f"{size}/{patch}": {"patch": patch, "width": width, "depth": depth, "heads": heads}
    for size, (width, depth, heads, patches) in SIZES.items()
    for patch in patches
}


def lightning_dit_preset(size: str, num_classes: int, **options: Any) -> DiT:
    """Builds a LightningDiT of a published size.

    Args:
        size: "B/1", "B/2", "L/2", "XL/1", "XL/2", "1p0B/1", "1p0B/2", "1p6B/1" or "1p6B/2": the size, then the side of
            a patch. The published network is XL/1, with 675M parameters, for latents (16, 16, 32) of VA-VAE.
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        **options: other fields of `DiT`, or other values of those that make a DiT a LightningDiT.

    Returns:
        The module, without parameters. Its clock is 1 - t (`parameterizations.reversed_time`), as SiT's.

    Raises:
        ValueError: for an unknown size, and as `DiT`.

    Reference: Yao & Wang, "Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models",
    2025, section 4; the sizes as in its repository.
    """
    return DiT(num_classes=num_classes, **look_up(PRESETS, size, "size"), **(OPTIONS | options))
