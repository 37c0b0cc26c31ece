"""Common parts of the tables of several image encoders: rows of patches, layers and norms, and the fields of sizes."""

__all__ = ["as_published", "attention", "described_sizes", "layers", "norm", "patch_rows", "sizes"]

from typing import Any

from diffusion.models.interchange.family import DEPTH, Fields, Refusal
from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, linear, patches, stacked, within
from diffusion.models.layers.vision_layers import PROJECTIONS

# Tokens or positions: theirs [1, N, D], ours [N, D].
LEADING = Layout(lambda a, shape: a.reshape(shape), lambda a: a[None])


def norm(theirs: str, ours: str, affine: bool = True) -> list[Row]:
    """The rows of a layer norm; none for one without parameters."""
    return affine * [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def patch_rows(theirs: str, side: int) -> list[Row]:
    """The rows of the patch embedding, a strided convolution of theirs.

    Args:
        theirs: its name.
        side: side of a patch in pixels.
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
        layer: rows of one layer, by its own names.
        depth: number of layers.
        theirs: prefix before the number of a layer, "encoder.layer.".
    """
    return [row for i in range(depth) for row in within(stacked(layer, i), f"{theirs}{i}.", "encoder/layers/")]


def sizes(fields: Fields, patch: int = 16) -> dict[str, Any]:
    """The sizes of a vision transformer, by our fields, out of a config of transformers.

    Args:
        fields: fields of the config.
        patch: the class's default patch.
    """
    return {
        "size": fields.take("image_size", 224),
        "patch": fields.take("patch_size", patch),
        "width": fields.take("hidden_size", 768),
        "depth": fields.take("num_hidden_layers", 12, DEPTH),
        "heads": fields.take("num_attention_heads", 12),
        "hidden": fields.take("intermediate_size", 3072),
    }


def as_published(name: str, module: Any) -> None:
    """Refuses to write an encoder with options of a representation autoencoder's, which the published form lacks.

    Raises:
        Refusal: naming the field.
    """
    if not module.affine or getattr(module, "fused", ()):
        field = "affine = False" if not module.affine else f"fused = {module.fused}"
        raise Refusal(f"{name}: {field} cannot be written to it; an AutoencoderRAE holds such an encoder.")


def described_sizes(module: Any) -> dict[str, int]:
    """The fields that `sizes` takes, of a module that has them."""
    return {
        "image_size": module.size,
        "patch_size": module.patch,
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "intermediate_size": module.hidden,
    }
