"""MAE's encoder: a plain vision transformer, trained to reconstruct the patches that it does not see."""

from typing import Any

from diffusion.models.image_encoders.plain_vit import PlainViT
from diffusion.models.layers.choices import sizes


class MAE(PlainViT):
    """MAE's encoder on whole images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

    The encoder sees every patch, as it does after its training; the decoder is left out. (The class token is not
    trained by the loss directly; the mean of the patches is the usual pooled vector of fine-tuned networks.) Fields as
    `PlainViT`; the epsilon of the norms is 1e-12 in transformers' configs, 1e-6 in the authors' code.

    Reference: He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.
    """

    epsilon: float = 1e-12


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-B/16": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L/16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-H/14": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "patch": 14},
}
"""The published sizes (He et al., 2022, table 3)."""
preset = sizes(MAE, PRESETS)
"""An MAE encoder of a published size. See `layers.choices.sizes`."""
