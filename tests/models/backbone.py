"""A tiny network for the tests that run over all backbones, and its conditions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

CLASSES, TEXT, POOLED, VECTOR = 3, 12, 10, 6
TOKENS = {"patch": 2, "width": 24, "depth": 2, "heads": 2}


class Backbone(NamedTuple):
    """A tiny network.

    Attributes:
        module: the network, in float32.
        shape: the shape of one example, (H, W, C) for images.
        condition: a function batch size -> the condition, as numpy arrays; all examples differ.
        adapter_entries: a function (batch size, scale) -> entries of the condition for adapters, which change nothing
            at scale 0; None for a network without adapters.
        untrained: a regular expression of the parameters whose gradient is zero up to rounding, such as the bias of
            keys, which adds the same number to all scores of a query.
        tensor: the number of devices over which test_sharded_backbones.py divides the heads; 1 for a single head.
        divides: the number of which the sides must be multiples.
        blocks: a regular expression of the paths of the modules that end a block whose features are returned; of
            consecutive modules with the same first group, the last one ends the block.
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
    """Random numbers of variance 1, float32, which depend only on the shape."""
    return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape).astype(np.float32)


def labels(batch):
    return np.arange(batch, dtype=np.int32) % (CLASSES + 1)


def words(*entries, length=5):
    """A function batch size -> the condition of a prompt, with further entries."""
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
    """A function (batch size, scale) -> {"residuals": an array [B, *tokens] for each layer}."""
    return lambda batch, scale: {"residuals": (scale * drawn(batch, *tokens),) * layers}
