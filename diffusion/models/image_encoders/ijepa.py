"""I-JEPA's target encoder: a plain vision transformer without a class token."""

from typing import Any

from diffusion.models.image_encoders.plain_vit import PlainViT
from diffusion.models.layers.choices import sizes


class IJEPA(PlainViT):
    """I-JEPA's encoder: images [B, H, W, 3] in [-1, 1] -> `ImageFeatures`; pooled is the mean of the patches.

    Fields as `PlainViT`.

    Reference: Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    2023; the mean of the patches is what they classify (appendix A).
    """

    patch: int = 14
    leading = False


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-H/14": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120},
    "ViT-H/16@448": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "patch": 16, "size": 448},
    "ViT-g/16": {"width": 1408, "depth": 40, "heads": 16, "hidden": 6144, "patch": 16},
}
"""The published networks (Assran et al., 2023, table 1 and section 7)."""
preset = sizes(IJEPA, PRESETS)
"""An I-JEPA encoder of a published size. See `layers.choices.sizes`."""
