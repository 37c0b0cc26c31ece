"""Stacks of equal layers as one scan, which compiles once whatever their number, and their rematerialisation."""

__all__ = ["scanned", "turn"]

from typing import Any

import flax.linen as nn
import jax

UNROLLED = 12  # layers that CPU takes in one turn of the scan, where the stack has no more
# Names of primitives; the last is cuDNN's fused attention.
PRODUCTS = ("dot_general", "conv_general_dilated", "dot_product_attention_fwd")
REMAT = {  # what the forward pass keeps for the backward pass, layer by layer; the rest is computed again
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "elementwise": lambda primitive, *_, **__: primitive.name.startswith(PRODUCTS),  # keeps every product
}


def scanned(
    block: type[nn.Module], length: int, remat: str, in_axes: Any = (nn.broadcast, nn.broadcast, 0), unroll: int = 0
) -> Any:
    """The stack of `length` layers, as a scan; the parameters of all layers are stacked along a first axis.

    Args:
        block: a layer, called with the carry and further arguments; it returns (carry, None or an output).
        length: number of layers.
        remat: a name in `REMAT`.
        in_axes: for each further argument: `nn.broadcast` if all layers share it, 0 if its first axis counts the
            layers. The default is for (c, angles, the layer's entries of the condition).
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
    """Returns the default number of layers in one turn of the scan: all of up to UNROLLED on CPU, otherwise 1.

    On CPU a scan copies each layer's residuals of the backward pass into one array of all layers and out again, which
    takes a third of the step of DiT-S/2; its compilation takes 17 s scanned and 20 s unrolled. Deeper stacks are
    scanned on CPU too: DiT-XL, which nobody trains on a CPU, would compile for minutes unrolled.
    """
    return length if jax.default_backend() == "cpu" and length <= UNROLLED else 1
