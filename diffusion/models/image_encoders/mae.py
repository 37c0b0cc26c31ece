"""MAE's encoder: a plain vision transformer that was trained to reconstruct masked patches."""

from typing import Any

from diffusion.models.image_encoders.plain_vit import PlainViT
from diffusion.models.layers.choices import sizes


class MAE(PlainViT):
    """MAE's encoder on complete images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the class token.

    The encoder reads every patch, as in use after the training; there is no decoder. MAE's loss does not train the
    class token directly, so fine-tuned networks usually pool by the mean of the patches. The fields are those of
    `PlainViT`; the epsilon of the norms is 1e-12 in transformers' configs and 1e-6 in the authors' code.

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
