"""The blocks of a network as a value, for a caller that decides which of them run: what `diffusion.caching` reads.

    output, more = network.apply(variables, x, t, condition, through=through)

A transformer calls `through(blocks)` in place of its stack. It returns (the features after the last block, anything
else), and the call returns (output, that anything). A U-Net returns its deep features, or starts from them; see
`Deep`. Without these arguments a program has no trace of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from diffusion.models.layers.scan import turn


class Segment(NamedTuple):
    """Equal layers of a network, one after the other.

    Attributes:
        block: a layer as an unbound module (parent=None), called with the carry and the arguments; it returns
            (carry, None).
        params: its parameters, with the layers as first axis unless `length` is 0.
        length: number of layers; 0 for a single one whose parameters have no such axis.
        arguments: arguments of each layer, beside the carry.
        axes: axis of the layers in each argument: 0 if its first axis counts them, `nn.broadcast` if all layers share
            it.
        enter: function from the carry of the segment before to this one's.
    """

    block: nn.Module
    params: Any
    length: int
    arguments: tuple[Any, ...]
    axes: tuple[Any, ...]
    enter: Callable[[Any], Any] = lambda carry: carry

    def layer(self, carry: Any, index: Any, **how: Any) -> Any:
        """The carry after layer `index`, which may be traced."""
        at_index = lambda tree: jax.tree.map(lambda leaf: leaf[index], tree)
        params = at_index(self.params) if self.length else self.params
        layer_arguments = [
            at_index(argument) if axis == 0 else argument for argument, axis in zip(self.arguments, self.axes)
        ]
        return self.block.apply({"params": params}, carry, *layer_arguments, **how)[0]

    def run(self, carry: Any, first: int, last: int) -> Any:
        """The layers first .. last - 1. No parameters are copied: each turn of the loop reads its own layer's."""
        if first == 0:
            carry = self.enter(carry)
        if last - first <= turn(last - first):
            for index in range(first, last):
                carry = self.layer(carry, index)
            return carry
        return jax.lax.fori_loop(first, last, lambda index, carry: self.layer(carry, index), carry)


class Blocks:
    """The stack of a network at one input: pure functions of its blocks.

    Attributes:
        start: the carry before the first block.
        length: number of blocks.
    """

    def __init__(
        self, start: Any, segments: Sequence[Segment], features: Callable[[Any], jax.Array] = lambda carry: carry
    ):
        """The segments in their order, and carry -> the features `[B, N, D]` of the picture."""
        self.start = start
        self.segments = tuple(segments)
        self.features = features
        self.length = sum(max(segment.length, 1) for segment in self.segments)

    def run(self, carry: Any, first: int, last: int) -> Any:
        """The carry after block `last`, from that after block `first`; 0 is the start."""
        at = 0
        for segment in self.segments:
            length = max(segment.length, 1)
            begin, end = max(first - at, 0), min(last - at, length)
            if begin < end:
                carry = segment.run(carry, begin, end)
            at += length
        return carry

    def attended(self) -> jax.Array:
        """The input of the first block's attention: the picture's normalised, shifted and scaled features."""
        first = self.segments[0]
        return first.layer(first.enter(self.start), 0, entering=True)


class Deep(NamedTuple):
    """The deep features of a U-Net's call, and how many of its blocks it has run.

    Attributes:
        features: `[B, H', W', C']` that enter the last blocks of the way up.
        run: blocks that this call has run.
        length: blocks of the network.
    """

    features: jax.Array
    run: int
    length: int


def params_of(module: nn.Module) -> Mapping[str, Any]:
    """The parameters of a module that is being applied.

    Raises:
        ValueError: while it makes its parameters.
    """
    if module.is_initializing():
        raise ValueError("through=... cannot be passed while the parameters are initialised; pass it to apply only")
    return module.variables["params"]


def taken_by(branch: int | None, deep: jax.Array | None, length: int) -> int:
    """The index of the block of a U-Net's way up that receives a skip connection.

    Args:
        branch: index of the skip connection, or None.
        deep: features that enter at this skip connection, or None.
        length: number of blocks of the way up.

    Returns:
        length - 1 - branch; 0 if `branch` is None.

    Raises:
        ValueError: if there is no such skip connection, or for deep features without a branch.
    """
    if branch is None and deep is not None:
        raise ValueError("deep=... holds features that enter at a skip connection, so pass branch=... too")
    if branch is not None and not 0 <= branch < length:
        raise ValueError(f"branch={branch}: there is no such skip connection. Valid: 0 .. {length - 1}")
    return 0 if branch is None else length - 1 - branch
