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
