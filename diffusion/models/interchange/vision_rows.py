"""Rows that the tables of several image encoders share: patches, tokens before them, layers, norms."""

__all__ = ["attention", "layers", "norm", "patch_rows"]

from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, linear, patches, stacked, within
from diffusion.models.layers.vision_layers import PROJECTIONS

# Tokens or positions: theirs [1, N, D], ours [N, D].
LEADING = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None])


def norm(theirs: str, ours: str) -> list[Row]:
    """The rows of a layer norm."""
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def patch_rows(theirs: str, side: int) -> list[Row]:
    """The rows of the patch embedding, a strided convolution of theirs.

    Args:
        theirs: its name.
        side: of a patch in pixels.
    """
    return [Row(f"{theirs}.weight", "patches/dense/kernel", patches(side)), Row(f"{theirs}.bias", "patches/dense/bias")]


def attention(projection: str, out: str, biased: tuple[str, ...] = PROJECTIONS) -> list[Row]:
    """The rows of attention.

    Args:
        projection: their name of a projection, with {0} for "query", "key" or "value", or {1} for its first letter.
        out: their name of the projection after the heads.
        biased: the projections with a bias.
    """
    rows = []
    for name in PROJECTIONS:
        rows += linear(projection.format(name, name[0]), f"attention/{name}", bias=name in biased)
    return rows + linear(out, "attention/out", DENSE_OUT)


def layers(layer: list[Row], depth: int, theirs: str) -> list[Row]:
    """The rows of a stack of equal layers.

    Args:
        layer: of one, by its own names.
        depth: layers.
        theirs: before the number of a layer, "encoder.layer.".
    """
    return [row for i in range(depth) for row in within(stacked(layer, i), f"{theirs}{i}.", "encoder/layers/")]
