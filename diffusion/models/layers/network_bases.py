"""The base of the backbones: the fields that say how they compute, the checks of fields, and the types of a call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from diffusion.models.layers import network_checks
from diffusion.models.layers.attention import IMPLEMENTATIONS
from diffusion.models.layers.block_reuse import Blocks
from diffusion.models.layers.scan import REMAT

Clock = jax.Array | tuple
"""The time that a network receives, or several."""
Condition = jax.Array | dict | None
"""What a network receives beside x_t and the time: labels, the dict of `layers.conditions`, or nothing."""
Entries = Mapping[str, Any]
"""A condition of several entries, see `layers.conditions`."""
Numbers = Sequence[int] | None
"""The blocks whose features a call returns too, 1 for the first, see `layers.block_features`; None: none."""
Through = Callable[[Blocks], tuple[jax.Array, Any]] | None
"""What evaluates the blocks in a network's place, see `layers.block_reuse`; None: all of them run."""


CHOICES = {"attention": ("auto", *IMPLEMENTATIONS), "dtype": ("float32", "bfloat16")}


class CheckedNetwork(nn.Module, kw_only=True):
    """A network whose fields are checked when it is constructed.

    A class states its `positive` fields, numbers above 0, and the `choices` of each field that is a name.

    Attributes:
        attention: implementation of attention, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.

    Raises:
        ValueError: from the constructor, for a field out of range or an unknown name.
    """

    attention: str = "auto"
    dtype: str = "float32"
    positive = ()
    choices = CHOICES
    halved_by = "widths"  # a network without such a field has no levels

    def __post_init__(self):
        network_checks.positive(self, self.positive)
        network_checks.known(self, self.choices)
        self.check_fields()
        super().__post_init__()

    def check_fields(self) -> None:
        """Refuses fields that do not fit each other; a network's own checks, before it is a module."""


class Backbone(CheckedNetwork, kw_only=True):
    """A network whose layers may compute parts again in the backward pass, and can be seen one by one.

        network.apply(variables, x, t, condition, features=(8,))    # (output, (features of block 8,)), all float32

    A call takes `features` if it has the argument: the blocks, 1 for the first that runs, whose tokens of x
    [B, N, width] it returns too, see `layers.block_features`. A block of a U-Net is a residual block with its
    attention on the way down, the middle as one, or on the way up, and its features are [B, H', W', width]. It takes
    `through` if it has the argument: what evaluates the blocks in the network's place, see `layers.block_reuse`;
    the call returns (output, what that returns beside the features). A ValueError names a shape that does not fit,
    and an entry of the condition that is missing or not expected.

    Attributes:
        remat: the parts to compute again, see `DiT`.
    """

    remat: str = "none"
    choices = CheckedNetwork.choices | {"remat": REMAT}
