"""Runs networks whose layers form one or several stacks of equal layers, and returns outputs and features."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from diffusion.models.layers.block_features import Features
from diffusion.models.layers.block_reuse import Blocks, Segment, params_of
from diffusion.models.layers.scan import scanned


class Layered:
    """A network of layers, each of whose features a call can return; `depths` names the fields that count them."""

    depths = ("depth",)

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return, the first stack's first."""
        return sum(getattr(self, stack) for stack in self.depths)


class Stack(NamedTuple):
    """Layers of a network that are equal except for their parameters, and run one after the other.

    Attributes:
        name: name of the stack among the network's parameters.
        length: number of layers; 0 for a single layer whose parameters have no axis of the layers.
        block: a layer, see `scan.scanned`.
        fields: fields of the layer, in their order.
        arguments: arguments of each layer, beside the carry.
        axes: axis of the layers in each argument: 0 if its first axis counts them, `nn.broadcast` if all layers share
            it. The default is for (c, angles, the layer's entries of the condition).
        enter: carry of the previous stack -> carry of this one.
        picture: carry -> the picture's tokens.
        unroll: number of layers in one turn of the scan, see `scan.scanned`.
    """

    name: str
    length: int
    block: type[nn.Module]
    fields: tuple
    arguments: tuple
    axes: tuple = (nn.broadcast, nn.broadcast, 0)
    enter: Callable[[Any], Any] = lambda carry: carry
    picture: Callable[[Any], jax.Array] = lambda carry: carry
    unroll: int = 0

    def segment(self, params: Any) -> Segment:
        """The stack with the network's parameters, for functions that run the layers outside of the network."""
        block = self.block(*self.fields, parent=None)
        return Segment(block, params[self.name], self.length, self.arguments, self.axes, self.enter)

    def run(self, network: Any, carry: Any, recorded: Features) -> Any:
        """The carry after the stack; the requested features of its layers are added to `recorded`."""
        carry = self.enter(carry)
        if not self.length:
            carry, _ = self.block(*self.fields, name=self.name)(carry, *self.arguments)
            recorded.block(self.picture(carry))
            return carry
        requested = recorded.among(self.length)
        initializing = network.is_initializing()
        layers = scanned(
            self.block, self.length, network.remat, initializing, self.axes, self.unroll, requested, pick=self.picture
        )
        carry, states = layers(*self.fields, name=self.name)(carry, *self.arguments)
        recorded.stack(self.length, states or ())
        return carry


def several_stacks(
    network: Any,
    stacks: Sequence[Stack],
    carry: Any,
    output: Callable[[jax.Array], jax.Array],
    features: Sequence[int] | None,
    through: Callable[[Blocks], tuple[jax.Array, Any]] | None = None,
    picture: Callable[[Any], jax.Array] = lambda carry: carry,
) -> Any:
    """Runs the stacks of a network, and makes its output.

    Args:
        network: module with `remat`, in whose compact call this runs.
        stacks: its stacks, in their order.
        carry: tokens before the first layer.
        output: function from the picture's tokens [B, N, D] to the network's output; may make parameters.
        features: indices, 1 for the first layer, of layers whose picture's tokens the call returns too; None: none.
        through: function that evaluates the layers instead of the network, see `block_reuse`; None: all layers run.
        picture: carry of any of the stacks -> the tokens that `through` reads and returns.

    Returns:
        The output; with `features`: (output, tuple of the features); with `through`: (output, its second value).

    Raises:
        ValueError: if `features` names a layer that does not exist.
    """
    recorded = Features(features, sum(max(stack.length, 1) for stack in stacks))
    if through is not None:
        params = params_of(network)
        tokens, more = through(Blocks(carry, [stack.segment(params) for stack in stacks], picture))
        return output(tokens), more
    for stack in stacks:
        carry = stack.run(network, carry, recorded)
    return recorded.beside(output(stacks[-1].picture(carry)))


def single_stack(
    network: Any,
    block: type[nn.Module],
    fields: tuple,
    carry: Any,
    arguments: tuple,
    axes: tuple,
    output: Callable[[jax.Array], jax.Array],
    features: Sequence[int] | None,
    through: Callable[[Blocks], tuple[jax.Array, Any]] | None = None,
    picture: Callable[[Any], jax.Array] = lambda carry: carry,
    unroll: int = 0,
) -> Any:
    """Runs the `depth` layers of a network, whose parameters are under "blocks", and makes its output:

        carry <- block(carry, *arguments), depth times;    output(picture(carry)).

    Args:
        network: module with `depth` and `remat`, in whose compact call this runs.
        block: class of the layer, see `Stack`.
        fields: fields of the layer, in their order.
        carry: tokens before the first layer.
        arguments: arguments of each layer, beside the carry.
        axes: axis of the layers in each argument, see `Stack`.
        output: function from the picture's tokens to the network's output, see `several_stacks`.
        features: indices of the layers whose tokens are returned too, see `several_stacks`.
        through: function that evaluates the layers instead, see `several_stacks`.
        picture: carry -> the picture's tokens.
        unroll: number of layers in one turn of the scan, see `scan.scanned`.

    Returns:
        What `several_stacks` returns.
    """
    stack = Stack("blocks", network.depth, block, fields, arguments, axes, picture=picture, unroll=unroll)
    return several_stacks(network, (stack,), carry, output, features, through, picture)
