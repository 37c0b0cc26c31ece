"""A network whose layers are one stack of equal ones: what its call returns, whoever runs the layers."""

__all__ = ["single_stack"]

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from diffusion.models.layers.block_features import Features
from diffusion.models.layers.block_reuse import Blocks, Segment, params_of
from diffusion.models.layers.scan import scanned


def single_stack(
    network: Any,
    block: type[nn.Module],
    fields: tuple,
    carry: Any,
    arguments: tuple,
    axes: tuple,
    output: Callable[[jax.Array], jax.Array],
    features: Sequence[int] | None,
    through: Callable[[Blocks], tuple[jax.Array, Any]] | None,
    picture: Callable[[Any], jax.Array] = lambda carry: carry,
    unroll: int = 0,
) -> Any:
    """Runs the layers of a network, "blocks" among its parameters, and makes its output.

        carry <- block(carry, *arguments), depth times;    output(picture(carry))

    Args:
        network: module with `depth` and `remat`, in whose compact call this runs.
        block: a layer, see `scan.scanned`.
        fields: fields of the layer, in their order.
        carry: tokens before the first layer.
        arguments: arguments of each layer, beside the carry.
        axes: axis of the layers in each argument: 0 if its first axis counts them, `nn.broadcast` if all layers share
            it.
        output: function from the picture's tokens [B, N, D] to the network's output; may make parameters.
        features: indices 1 .. depth of layers whose picture's tokens the call returns too; None: none.
        through: evaluates the layers in the network's place, see `block_reuse`; None: all of them run.
        picture: carry -> the picture's tokens.
        unroll: number of layers in one turn of the scan, see `scan.scanned`.

    Returns:
        The output; with `features`: (that, a tuple of the features); with `through`: (that, what it returns beside).

    Raises:
        ValueError: for a layer that is not there.
    """
    depth = network.depth
    recorded = Features(features, depth)
    if through is not None:
        segment = Segment(block(*fields, parent=None), params_of(network)["blocks"], depth, arguments, axes)
        tokens, more = through(Blocks(carry, (segment,), picture))
        return output(tokens), more
    stack = scanned(
        block, depth, network.remat, network.is_initializing(), axes, unroll, kept=recorded.among(depth), pick=picture
    )
    carry, states = stack(*fields, name="blocks")(carry, *arguments)
    recorded.stack(depth, states or ())
    return recorded.beside(output(picture(carry)))
