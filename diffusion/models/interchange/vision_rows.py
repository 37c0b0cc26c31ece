"""Common parts of the tables of several image encoders: rows of patches and attention, and the fields of sizes."""

from diffusion.models.interchange.field_table import Field
from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, patches
from diffusion.models.interchange.transformers_config import encoder_sizes
from diffusion.models.layers.vision_layers import PROJECTIONS

HEADS = [f"attention/{name}" for name in PROJECTIONS]
"""Our paths of what stands before the heads."""


def patch_rows(theirs: str, side: int) -> list[Row]:
    """The rows of the patch embedding, which is a strided convolution in the other library.

    Args:
        theirs: its name.
        side: side of a patch in pixels.
    """
    return [Row(f"{theirs}.weight", "patches/dense/kernel", patches(side)), Row(f"{theirs}.bias", "patches/dense/bias")]


def attention(projection: str, out: str, biased: tuple[str, ...] = PROJECTIONS, ours: str = "attention") -> list[Row]:
    """The rows of attention.

    Args:
        projection: their name of a projection, with {0} for "query", "key" or "value", or {1} for its first letter.
        out: their name of the projection after the heads.
        biased: the projections with a bias.
        ours: our path of the attention.
    """
    rows = []
    for name in PROJECTIONS:
        rows += linear(projection.format(name, name[0]), f"{ours}/{name}", bias=name in biased)
    return rows + linear(out, f"{ours}/out", DENSE_OUT)


def sizes(patch: int = 16) -> tuple[Field, ...]:
    """The rows of a vision transformer's sizes.

    Args:
        patch: the class's default patch.
    """
    return Field("image_size", "size", 224), Field("patch_size", "patch", patch), *encoder_sizes()
