"""Paella's autoencoder by the names of diffusers' PaellaVQModel, whose blocks stand in one list with the resizing."""

from diffusion.io import schema
from diffusion.models.interchange.autoencoder_tables import picture
from diffusion.models.interchange.family import BLOCKS
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import POINT, Row, conv, linear, norm, within
from diffusion.published.stable_cascade.paella import PaellaVQ
from diffusion.published.stable_cascade.table import TRANSPOSED

NAME = "PaellaVQModel"
BLOCK = [
    Row("gammas", "gates"),
    *conv("depthwise.1", "depthwise"),
    *linear("channelwise.0", "hidden"),
    *linear("channelwise.2", "out"),
]


def _encoder(module: PaellaVQ) -> list[Row]:
    rows = linear("in_block.1", "conv_in", POINT)
    for i in range(module.levels):
        rows += conv(f"down_blocks.{2 * i - 1}", f"down_{i - 1}") if i else []
        rows += within(BLOCK, f"down_blocks.{2 * i}.", f"level_{i}/")
    last = f"down_blocks.{2 * module.levels - 1}"
    rows += [*linear(f"{last}.0", "conv_out", POINT, bias=False), *norm(f"{last}.1", "norm_out")]
    return rows + [Row(f"{last}.1.running_{name}", f"norm_out/{name}") for name in ("mean", "var")]


def _decoder(module: PaellaVQ) -> list[Row]:
    rows, number = linear("up_blocks.0.0", "conv_in", POINT), 1
    for i in reversed(range(module.levels)):
        for j in range(module.layers if i == module.levels - 1 else 1):
            rows += within(BLOCK, f"up_blocks.{number}.", f"level_{i}_block_{j}/")
            number += 1
        if i:
            rows += linear(f"up_blocks.{number}", f"up_{i}", TRANSPOSED)
            number += 1
    return rows + linear("out_block.0", "conv_out", POINT)


def table(module: PaellaVQ) -> list[Row]:
    """The rows of the autoencoder."""
    return [
        *within(_encoder(module), ours="encoder/"),
        *within(_decoder(module), ours="decoder/"),
        Row("vquantizer.embedding.weight", "codebook"),
    ]


CONFIG = FieldTable(
    NAME,
    PaellaVQ,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Follows("up_down_scale_factor", 2),
        Field("levels", "levels", 2, schema.integer(1, 8)),
        Field("bottleneck_blocks", "layers", 12, BLOCKS),
        Field("embed_dim", "width", 384),
        Field("latent_channels", "latent_channels", 4),
        Field("num_vq_embeddings", "codes", 8192),
        Field(  # theirs multiplies the latents of the denoiser, and ours those of the autoencoder
            "scale_factor",
            "scale",
            0.3764,
            schema.number(1e-6, 1e6),
            read=lambda factor, _: 1 / factor,
            write=lambda module: 1 / module.scale,
        ),
    ),
)
FAMILY = CONFIG.family(
    picture, {"diffusers": table}, ignored=(r"down_blocks\.\d+\.1\.num_batches_tracked",), published={"Paella": {}}
)
FAMILIES = {FAMILY.name: FAMILY}
