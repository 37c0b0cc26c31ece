"""Stacks of equal layers as one scan, compiled once whatever their number, and what their backward pass keeps."""

__all__ = ["scanned", "turn"]

from typing import Any

import flax.linen as nn
import jax

UNROLLED = 12  # layers that CPU takes in one turn of the scan, where the stack has no more
REMAT = {  # what the forward pass keeps for the backward pass, layer by layer; the rest is computed again
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scanned(
    block: type[nn.Module], length: int, remat: str, in_axes: Any = (nn.broadcast, nn.broadcast, 0), unroll: int = 0
) -> Any:
    """The stack of `length` such layers, as a scan: the parameters of all are stacked along a first axis.

    Args:
        block: a layer, called with what it changes and further arguments; returns (what it changed, None or an output).
        length: number of layers.
        remat: a name in `REMAT`.
        in_axes: of each further argument: `nn.broadcast` where all layers have the same, 0 where its first axis counts
            the layers. By default (c, angles, the layer's entries of the condition).
        unroll: layers in one turn of the scan; 0: the number of `turn`.

    Returns:
        A module class with the fields of `block`.
    """
    policy = REMAT[remat]
    return nn.scan(
        nn.remat(block, policy=policy, prevent_cse=False) if policy else block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        unroll=min(unroll, length) or turn(length),
    )


def turn(length: int) -> int:
    """Returns the default number of layers in one turn of the scan: 1, but on CPU all of up to UNROLLED.

    On CPU a scan copies what the backward pass needs of each layer into one array of all layers and out again, which
    takes a third of the step of DiT-S/2; its compilation takes 17 s scanned and 20 s unrolled. Deeper stacks are
    scanned there too, since DiT-XL, which is not trained on a CPU, compiles for minutes when it is unrolled.
    """
    return length if jax.default_backend() == "cpu" and length <= UNROLLED else 1
