"""The backbones that the conformance suite and the tests on several devices run over: one line each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
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
from diffusion.published.auraflow.network import AuraFlow
from diffusion.published.cogvideox.network import CogVideoX
from diffusion.published.flux.network import Flux
from diffusion.published.flux2.network import Flux2
from diffusion.published.hunyuan_video.network import HunyuanVideo
from diffusion.published.ltx_video.network import LTXVideo
from diffusion.published.lumina2.network import Lumina2
from diffusion.published.pixart.network import PixArt
from diffusion.published.qwen_image.network import QwenImage
from diffusion.published.sana.network import Sana
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.network import MMDiT
from diffusion.published.z_image.network import ZImage

CLASSES, TEXT, POOLED, VECTOR = 3, 12, 10, 6


class Backbone(NamedTuple):
    """A tiny network.

    Attributes:
        module: the network, float32.
        shape: of one example, (H, W, C) of its images.
        condition: batch -> its condition, as numpy arrays, no two examples alike.
        adapter_entries: (batch, scale) -> entries of the condition for adapters; at scale 0 they change nothing.
        untrained: regular expression of the parameters that have no gradient, or one of rounding alone: the bias of
            keys moves all scores of a query alike.
        tensor: devices that its heads are divided over in test_sharded_backbones.py; 1 for one that has but one.
        divides: what the sides are multiples of; 1 where they may be any.
        blocks: regular expression of the paths of modules that end a block whose features it returns; of those with the
            same first group, one after the other, the last does.
    """

    module: nn.Module
    shape: tuple[int, ...]
    condition: Callable[[int], Any]
    adapter_entries: Callable[[int, float], dict] | None = None
    untrained: str = "(?!)"
    tensor: int = 2
    divides: int = 2
    blocks: str = r"blocks"


U_NET_BLOCKS = r"((?:down|up)_\d_block_\d|middle_block_1)(?:_attention)?"


def drawn(*shape):
    """Numbers of variance 1, the same for the same shape."""
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape).astype(np.float32)


def labels(batch):
    return np.arange(batch, dtype=np.int32) % (CLASSES + 1)


def words(*entries, length=5):
    """batch -> a prompt, and further entries."""
    made = {
        "text_mask": lambda batch: np.arange(length) < 2 + np.arange(batch)[:, None] % length,
        "pooled": lambda batch: drawn(batch, POOLED),
        "size": lambda batch: np.float32([512, 480, 8, 0, 512, 256]) + 64 * np.arange(batch, dtype=np.float32)[:, None],
        "strength": lambda batch: 3 + np.arange(batch, dtype=np.float32),
    }
    return lambda batch: {"text": drawn(batch, length, TEXT), **{name: made[name](batch) for name in entries}}


def labels_and_vectors(batch):
    return {"label": labels(batch), "vector": drawn(batch, VECTOR)}


def vectors(batch):
    return {"vector": drawn(batch, VECTOR)}


def parts_of_series(batch):
    mask = drawn(batch, 16, 4) > 0
    return {"vector": drawn(batch, VECTOR), "given": drawn(batch, 16, 4) * mask, "mask": mask, "real": ~mask}


def residuals(layers, *tokens):
    """(batch, scale) -> residuals of that many layers, of tokens [B, *tokens]."""
    return lambda batch, scale: {"residuals": (scale * drawn(batch, *tokens),) * layers}


def pixart_adapter_entries(batch, scale):
    pair = (drawn(batch, 3, 24), scale * drawn(batch, 3, 24))
    return {**residuals(2, 16, 24)(batch, scale), "extra": ((pair, pair),)}


TOKENS = {"patch": 2, "width": 24, "depth": 2, "heads": 2}
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
    "pixart": Backbone(
        PixArt((8, 8, 4), **TOKENS, text_width=TEXT, learn_sigma=False, sized=True),
        (8, 8, 4),
        words("text_mask", "size"),
        pixart_adapter_entries,
        r"key/bias$",
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
    "mmdit": Backbone(
        MMDiT(
            4,
            4,
            **TOKENS | {"depth": 3},
            text_width=TEXT,
            pooled_width=POOLED,
            positions=6,
            sample_size=8,
            dual=1,
            qk_norm=True,
        ),
        (8, 8, 4),
        words("pooled"),
        untrained="positions_table|last_block/text/attention/query_norm",  # a fixed table; queries that nothing uses
        blocks="dual_blocks|blocks|last_block",
    ),
    "flux": Backbone(
        Flux(4, 4, 24, 2, 2, 2, TEXT, POOLED, (4, 4, 4), strength=True),
        (8, 8, 4),
        words("pooled", "strength"),
        blocks="(?:single_)?blocks",
    ),
    "flux, approximator": Backbone(
        Flux(4, 4, 24, 2, 2, 2, TEXT, 0, (4, 4, 4), approximator=(8, 12, 2)),
        (8, 8, 4),
        words("text_mask"),
        blocks="(?:single_)?blocks",
    ),
    "flux2": Backbone(
        Flux2(4, 24, 2, 2, 2, TEXT, (2, 4, 4, 2), strength=True),
        (8, 8, 4),
        words("strength"),
        divides=1,
        blocks="(?:single_)?blocks",
    ),
    "qwen_image": Backbone(QwenImage(4, 24, 2, 2, TEXT, (4, 4, 4)), (8, 8, 4), words("text_mask")),
    "lumina2": Backbone(Lumina2(4, 24, 2, 1, 4, 2, 16, TEXT, (2, 2, 2)), (8, 8, 4), words("text_mask")),
    "auraflow": Backbone(
        AuraFlow(4, 2, 24, 2, 1, 2, TEXT, 4),
        (8, 8, 4),
        words(),
        untrained="text/attention/out",  # which reaches the picture through a product of small gates
        blocks="(?:single_)?blocks",
    ),
    "sana": Backbone(
        Sana(8, 4, 1, 24, 2, 6, 2, TEXT, qk_norm=True), (8, 8, 4), words("text_mask"), divides=1, untrained=r"key/bias$"
    ),
    "z_image": Backbone(ZImage(4, 24, 2, 1, 2, TEXT, (4, 4, 4)), (8, 8, 4), words("text_mask")),
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
    "conditional_unet": Backbone(
        ConditionalUNet(
            (8, 16), (1, 1), (2, 2), TEXT, layers=1, groups=4, linear=True, added_width=POOLED + 6 * 8, size_width=8
        ),
        (8, 8, 4),
        words("text_mask", "pooled", "size"),
        blocks=r"(down|up)_(\d)_(?:resnet|transformer)_(\d)|middle_resnet_1",
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
    "cogvideox": Backbone(
        CogVideoX(4, 4, 32, 2, 2, TEXT, 12, frames=2, positions="rope", grid=(8, 8)),
        (4, 4, 4, 4),
        words(),
        untrained="key_norm/bias$",
        divides=1,
    ),
    "hunyuan_video": Backbone(
        HunyuanVideo(4, 24, 2, 2, 1, 2, TEXT, POOLED, (4, 4, 4)),
        (3, 4, 4, 4),
        words("text_mask", "pooled", "strength"),
        divides=1,
        blocks="(?:single_)?blocks",
    ),
    "ltx_video": Backbone(
        LTXVideo(4, 24, 2, 2, TEXT), (3, 4, 4, 4), words("text_mask"), untrained="key/bias$", divides=1
    ),
    "video_dit, full": Backbone(
        VideoDiT(**TOKENS, num_classes=CLASSES, mixing="full", norm="scaled_rmsnorm", mlp="swiglu", qk_norm=True),
        (3, 8, 8, 4),
        labels,
        divides=1,
    ),
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
