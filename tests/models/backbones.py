"""The backbones that the conformance suite and the tests on several devices run over: one line each, here or in the
facts of its family (tests/published)."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.ddt import DDT
from diffusion.models.diffwave import DiffWave
from diffusion.models.dit import DiT
from diffusion.models.edm2_unet import EDM2UNet
from diffusion.models.jit import JiT
from diffusion.models.mask_dit import MaskDiT
from diffusion.models.mdt import MDT
from diffusion.models.mit import MiT
from diffusion.models.mlp import MLP
from diffusion.models.pixnerd import PixNerd
from diffusion.models.residual_u_vit import ResidualUViT
from diffusion.models.sequence_transformer import SequenceTransformer
from diffusion.models.set_transformer import SetTransformer
from diffusion.models.song_unet import SongUNet
from diffusion.models.u_vit import UViT
from diffusion.models.unet import UNet
from diffusion.models.video_dit import VideoDiT
from tests.models.backbone import (
    CLASSES,
    TEXT,
    TOKENS,
    U_NET_BLOCKS,
    VECTOR,
    Backbone,
    drawn,
    labels,
    labels_and_vectors,
    parts_of_series,
    residuals,
    vectors,
    words,
)
from tests.published.family_facts import stated

BACKBONES = {
    "dit": Backbone(DiT(**TOKENS, num_classes=CLASSES), (8, 8, 4), labels),
    "dit, rotary": Backbone(
        DiT(**TOKENS | {"heads": 6}, num_classes=0, norm="rmsnorm", mlp="swiglu", positions="rope", qk_norm=True),
        (8, 8, 4),
        lambda batch: None,
    ),
    "lightning_dit": Backbone(
        DiT(**TOKENS | {"heads": 6}, num_classes=CLASSES, norm="scaled_rmsnorm", mlp="swiglu", positions="sincos_rope"),
        (8, 8, 4),
        labels,
    ),
    "ddt": Backbone(
        DDT(
            **TOKENS | {"heads": 6},
            decoder_width=48,
            decoder_depth=2,
            decoder_heads=4,
            num_classes=CLASSES,
            positions="sincos_rope",
            clock="fourier",
        ),
        (8, 8, 4),
        labels,
        untrained="frequencies$",
        blocks="(?:decoder_)?blocks",
    ),
    "u_vit, class": Backbone(
        UViT((8, 8, 4), **TOKENS, num_classes=CLASSES, time_mlp=True),
        (8, 8, 4),
        labels,
        residuals(3, 18, 24),
        blocks="(in|middle|out)_blocks?",
    ),
    "u_vit, text": Backbone(
        UViT((8, 8, 4), **TOKENS, text_width=TEXT, text_tokens=5), (8, 8, 4), words(), blocks="(in|middle|out)_blocks?"
    ),
    "jit": Backbone(
        JiT(**TOKENS | {"depth": 3}, num_classes=CLASSES, bottleneck=8, class_tokens=4, class_start=1),
        (8, 8, 3),
        labels,
        blocks="(?:early_)?blocks",
    ),
    "pixnerd": Backbone(
        PixNerd(**TOKENS, num_classes=CLASSES, field_width=8, field_depth=2, frequencies=3), (8, 8, 3), labels
    ),
    "mask_dit": Backbone(
        MaskDiT(**TOKENS, num_classes=CLASSES, decoder_width=16, decoder_depth=2, decoder_heads=2),
        (8, 8, 4),
        labels,
        untrained="^mask_token",  # which has no place where all patches are seen
        blocks="(?:decoder_)?blocks",
    ),
    "mdt": Backbone(
        MDT((8, 8, 4), **TOKENS | {"depth": 4}, num_classes=CLASSES, decoder_depth=2),
        (8, 8, 4),
        labels,
        untrained="^mask_token|^side_block",  # which have no place where all patches are seen
        blocks="(?:in|out|decoder)_blocks",
    ),
    "residual_u_vit": Backbone(
        ResidualUViT((8, 16, 32), (1, 2), 2, 2, 8, CLASSES, 1, 16, 4),
        (8, 8, 3),
        labels,
        blocks="middle_layers",
        divides=4,
    ),
    "unet, ddpm": Backbone(
        UNet((8, 16), 1, (1,), heads=2, groups=4, frequency_shift=1, padding="end"),
        (8, 8, 3),
        lambda batch: None,
        blocks=U_NET_BLOCKS,
    ),
    "unet, adm": Backbone(
        UNet(
            (8, 16), 1, (1,), num_classes=CLASSES, heads=None, head_size=8, groups=4, scale_shift=True, resample="block"
        ),
        (8, 8, 3),
        labels,
        blocks=U_NET_BLOCKS,
    ),
    "ddpm++": Backbone(
        SongUNet(8, 8, (1, 2), 1, (4,), num_classes=CLASSES, augmentations=2),
        (8, 8, 3),
        lambda batch: {"label": labels(batch), "augment": drawn(batch, 2)},
        tensor=1,
        blocks=U_NET_BLOCKS,
    ),
    "ncsn++": Backbone(
        SongUNet(8, 8, (1, 2), 1, (4,), clock="fourier", encoder="residual", taps=(1, 3, 3, 1)),
        (8, 8, 3),
        lambda batch: None,
        untrained="^frequencies",
        tensor=1,
        blocks=U_NET_BLOCKS,
    ),
    "edm2": Backbone(
        EDM2UNet(8, 8, (1, 2), 1, (4,), num_classes=CLASSES, head_size=8),
        (8, 8, 3),
        labels,
        untrained="^fourier/",
        blocks=U_NET_BLOCKS,
    ),
    "unet, series": Backbone(
        UNet((8, 16), 1, (1,), CLASSES, 4, 4, heads=2, groups=4, axes=1, vector_width=VECTOR),
        (16, 4),
        labels_and_vectors,
        blocks=U_NET_BLOCKS,
    ),
    "unet, volumes": Backbone(
        UNet((8, 16), 1, (1,), CLASSES, 1, 1, heads=2, groups=4, axes=3, resample="block"),
        (8, 8, 8, 1),
        labels,
        blocks=U_NET_BLOCKS,
    ),
    "mit": Backbone(  # the velocity at one time, by which the picture is read
        MiT(**TOKENS | {"heads": 6}, num_classes=CLASSES, bottleneck=8, clean=True), (8, 8, 4), labels
    ),
    "mlp": Backbone(MLP(32, 2, CLASSES, VECTOR, shape=(2,)), (2,), labels_and_vectors, tensor=1, divides=1),
    "mlp, volumes": Backbone(
        MLP(32, 2, mlp="swiglu", norm="rmsnorm"), (4, 4, 4, 1), lambda batch: None, tensor=1, divides=1
    ),
    "sequence_transformer": Backbone(
        SequenceTransformer(24, 2, 2, 2, CLASSES, VECTOR, shape=(16, 4)), (16, 4), labels_and_vectors
    ),
    "sequence_transformer, vector": Backbone(
        SequenceTransformer(
            24, 2, 2, vector_width=VECTOR, norm="rmsnorm", mlp="swiglu", positions="rope", qk_norm=True
        ),
        (16, 4),
        vectors,
        divides=1,
    ),
    "sequence_transformer, gain": Backbone(
        SequenceTransformer(24, 2, 2, 2, CLASSES, input_gain=True, shape=(16, 4)), (16, 4), labels
    ),
    "sequence_transformer, given": Backbone(
        SequenceTransformer(24, 2, 2, 2, vector_width=VECTOR, given=True), (16, 4), parts_of_series
    ),
    "diffwave": Backbone(
        DiffWave(8, 3, 2, clock="level", shape=(16, 1)),
        (16, 1),
        lambda batch: None,
        tensor=1,
        divides=1,
        blocks=r"layer_\d",
    ),
    "diffwave, vocoder": Backbone(
        DiffWave(8, 2, 2, 4, 4, shape=(16, 2)),
        (16, 2),
        lambda batch: {"spectrogram": drawn(batch, 4, 4)},
        tensor=1,
        divides=4,
        blocks=r"layer_\d",
    ),
    "set_transformer": Backbone(
        SetTransformer(24, 2, 2, 0, CLASSES, VECTOR, shape=(10, 3)), (10, 3), labels_and_vectors, divides=1
    ),
    "set_transformer, summaries": Backbone(
        SetTransformer(24, 2, 2, 4, CLASSES, shape=(10, 3)), (10, 3), labels, divides=1
    ),
    "video_dit, factorised": Backbone(
        VideoDiT(**TOKENS, text_width=TEXT, vector_width=VECTOR),
        (3, 8, 8, 4),
        lambda batch: {**words("text_mask")(batch), **vectors(batch)},
        untrained="key/bias$",
        divides=1,
    ),
    "video_dit, full": Backbone(
        VideoDiT(**TOKENS, num_classes=CLASSES, mixing="full", norm="scaled_rmsnorm", mlp="swiglu", qk_norm=True),
        (3, 8, 8, 4),
        labels,
        divides=1,
    ),
    **stated("BACKBONES"),
}


def inputs(backbone, batch=2):
    """(x, t, condition)."""
    return drawn(batch, *backbone.shape), np.linspace(0.3, 0.7, batch, dtype=np.float32), backbone.condition(batch)


def parameters(backbone):
    """Parameters that are nowhere zero, and move every layer's tokens about as much as they are long."""
    shapes = jax.eval_shape(backbone.module.init, jax.random.key(0), *inputs(backbone))["params"]
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        noise = rng.normal(size=shape.shape)
        scale = path[-1].key == "scale"
        return jnp.asarray(1 + 0.2 * noise if scale else noise / max(np.prod(shape.shape[:-1]), 4) ** 0.5, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
