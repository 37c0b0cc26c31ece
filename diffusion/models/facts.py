"""The facts of a network that a run needs, as attributes of its class; a class without one has the default.

| attribute        | default    | meaning                                                                     |
|------------------|------------|-----------------------------------------------------------------------------|
| `kind`           | "backbone" | how objectives call it; or "autoencoder", or "towers" of images and texts   |
| `text_inputs`    | None       | its inputs from a text, e.g. `conditions.TOKENS`                            |
| `one_size`       | False      | whether it takes pictures of only one size                                  |
| `layer_masks`    | ()         | the masks of `depth` layers that its condition may have, e.g. "skip"        |
| `ranks`          | None       | of one example that it takes, 3 for pictures (H, W, C); None: any; (): none |
| `takes_arrays`   | False      | whether it takes no pytrees; one with a rank takes none either              |
| `takes_frames`   | False      | whether the first axis counts frames, which neither patches nor levels part |
| `takes_symbols`  | False      | whether it takes symbols, whole numbers, and puts out a number for each      |
| `hollow`         | False      | whether what it puts out at a position depends only on the other positions  |
| `last_layer`     | False      | whether a call with `states=True` returns what its last layer reads         |
| `causal`         | 0          | symbols or frames of a block that sees no later one; 0: it sees all         |
| `feature_blocks` | 0          | N; the outputs of blocks 1 .. N a call with `features=` can return too      |
| `reuses`         | ()         | parts of a call that another may reuse: "blocks", "deep"; for `caching`     |
| `halved_by`      | ""         | its field of levels, each with half the sides of the one before             |
| `masks`          | 0          | side of the patches that "keep" of its condition leaves out; 0: it has none |
| `masks_vary`     | False      | whether "keep" may have -1, where an example has fewer patches than others  |
| `sees_kept`      | False      | whether an autoencoder decodes with the kept part of a picture and a mask   |
| `times`          | 1          | times that it receives, a tuple of them if more than one                    |
| `strength`       | False      | whether its condition may be (condition, guidance scale - 1 [B])            |
| `interval`       | False      | whether that may have a third entry, the times that are guided [B, 2]       |
| `augmentations`  | 0          | numbers that describe an example's augmentation, "augment" of its condition |
| `takes_dropout`  | False      | whether a call takes `dropout_keys` [B], by which it draws its `dropout`    |
"""

__all__ = [
    "causal",
    "changed",
    "dropout",
    "feature_blocks",
    "halved_by",
    "kind",
    "layer_masks",
    "one_size",
    "reuses",
    "sees_kept",
    "takes_frames",
    "takes_pytrees",
    "takes_rank",
    "takes_symbols",
    "text_inputs",
]

import dataclasses
from typing import Any

from diffusion.models.layers.conditions import TextInputs
from diffusion.package import public


def changed(network: Any, **fields: Any) -> Any:
    """A copy of a network with other fields: of a Linen module by its `clone`, or of another dataclass.

    Raises:
        ValueError: if the network is neither.
    """
    if hasattr(network, "clone"):
        return network.clone(**fields)
    if dataclasses.is_dataclass(network) and not isinstance(network, type):
        return dataclasses.replace(network, **fields)
    values = ", ".join(f"{name} = {value!r}" for name, value in fields.items())
    raise ValueError(
        f"the run needs a copy of the network {type(network).__name__} with {values}, which cannot be copied. Valid: "
        "a Linen module, a dataclass, or a network with the method clone(**fields)"
    )


def kind(network: Any) -> str:
    """The kind of a module or of its class."""
    return getattr(network, "kind", "backbone")


def causal(network: Any) -> int:
    """The positions of a block, of symbols or frames, where a module sees no later block; 0: it sees all."""
    return getattr(network, "causal", 0)


def dropout(network: Any) -> float:
    """The rate of the dropout that a module draws where a call has `dropout_keys`; 0 if it takes none."""
    return network.dropout if getattr(network, "takes_dropout", False) else 0.0


def text_inputs(network: Any, text_width: int | None = None) -> TextInputs | None:
    """The inputs of a module or of its class from a text; None without text.

    Args:
        network: a module or a class of such.
        text_width: the field of the modules of a class; None: its default. A network of text_width=0 receives no text.
    """
    width = getattr(network, "text_width", None) if text_width is None else text_width
    return None if width == 0 else getattr(network, "text_inputs", None)


def layer_masks(network: Any) -> tuple[str, ...]:
    """The masks of layers that the condition of a module, or of one of its class, may have."""
    return getattr(network, "layer_masks", ())


def one_size(network: Any) -> bool:
    """Whether a module or its class takes pictures of only one size."""
    return getattr(network, "one_size", False)


def takes_frames(network: Any) -> bool:
    """Whether the first axis of the examples of a module, or of one of its class, counts frames."""
    return _fact(network, "frames")


def takes_symbols(network: Any) -> bool:
    """Whether a module, or one of its class, takes symbols, int [B, ...], and puts out [B, ..., K]."""
    return _fact(network, "symbols")


def takes_rank(network: Any, shape: tuple[int, ...]) -> bool:
    """Whether a module, or one of its class, takes examples with the number of axes of `shape`."""
    ranks = getattr(network, "ranks", None)
    return ranks is None or len(shape) in ranks


def takes_pytrees(network: Any) -> bool:
    """Whether a module, or one of its class, may take examples that are pytrees."""
    return not getattr(network, "ranks", None) and not _fact(network, "arrays")


def feature_blocks(network: Any) -> int:
    """Number of blocks of a module whose outputs it returns when it is called with `features`; 0 if with none."""
    return getattr(network, "feature_blocks", 0)


def halved_by(network: Any) -> str:
    """The field of a module, or of its class, whose entries are levels, each of half the sides; "" without."""
    return getattr(network, "halved_by", "")


def reuses(network: Any) -> tuple[str, ...]:
    """The parts of a module's call, or of one of its class, that a later call may reuse, see `layers.block_reuse`."""
    return getattr(network, "reuses", ())


def sees_kept(network: Any) -> bool:
    """Whether an autoencoder's `decode` takes a picture and the mask outside which the picture is kept."""
    return getattr(network, "sees_kept", False)


def _fact(network: Any, what: str) -> bool:
    """Whether a network takes frames, symbols or arrays; the attributes began with "of" until 0.2."""
    return getattr(network, f"takes_{what}", getattr(network, f"of_{what}", False))


public.declare(__name__, renamed={"of_frames": "takes_frames", "of_symbols": "takes_symbols"})
