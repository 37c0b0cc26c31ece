"""The base classes of backbones, with common fields and their checks, and the types of a call's arguments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from diffusion.models.layers import network_checks
from diffusion.models.layers.attention import IMPLEMENTATIONS
from diffusion.models.layers.block_reuse import Blocks
from diffusion.models.layers.scan import REMAT

Clock = jax.Array | tuple
"""The time that a network receives, or several times."""
Condition = jax.Array | dict | None
"""The condition that a network receives: labels, a dict as in `layers.conditions`, or None."""
Entries = Mapping[str, Any]
"""A condition of several entries, see `layers.conditions`."""
Numbers = Sequence[int] | None
"""The blocks, from 1, whose features a call also returns, see `layers.block_features`; None for no features."""
Through = Callable[[Blocks], tuple[jax.Array, Any]] | None
"""The function that evaluates a network's blocks, see `layers.block_reuse`; None to run all of them."""


CHOICES = {"attention": ("auto", *IMPLEMENTATIONS), "dtype": ("float32", "bfloat16")}


class CheckedNetwork(nn.Module, kw_only=True):
    """A network whose fields are checked when it is constructed.

    A class lists in `positive` the fields that must be above 0, and in `choices` the valid names of other fields.

    Attributes:
        attention: implementation of attention, see `diffusion.models.layers.attention`.
        dtype: compute type, "float32" or "bfloat16"; parameters and outputs are float32.

    Raises:
        ValueError: from the constructor, if a field is out of range or a name is unknown.
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
        """Refuses fields that do not fit together. Subclasses override it; the constructor calls it."""


class Backbone(CheckedNetwork, kw_only=True):
    """A network that can return the features of its blocks, and can compute parts again in the backward pass.

        network.apply(variables, x, t, condition, features=(8,))    # (output, (features of block 8,)), all float32

    If a call has the argument `features`, it names blocks, 1 for the first that runs, and the call also returns their
    tokens of x, [B, N, width], see `layers.block_features`. The blocks of a U-Net are its residual blocks, each with
    its attention, and the middle as one block; their features are [B, H', W', width]. If a call has the argument
    `through`, it is a function that evaluates the blocks, see `layers.block_reuse`; the call then returns (output, the
    second result of the function). A ValueError names a shape that does not fit, or an entry of the condition that is
    missing or not expected.

    Attributes:
        remat: the parts to compute again, see `DiT`.
    """

    remat: str = "none"
    choices = CheckedNetwork.choices | {"remat": REMAT}
