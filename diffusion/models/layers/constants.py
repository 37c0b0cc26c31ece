"""Parameters that are constants: no gradient reaches them, and AdamW's decay does not change them.

They are leaves of the parameters since files hold them beside the trained ones.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

NAMES = frozenset({"frequencies", "phases", "positions_table", "mean", "var"})
"""Names of their leaves: of Fourier features, SD 3's positions, batch norms with the statistics of training's end."""


def constant(module: nn.Module, name: str, initial: Callable[..., Any], *arguments: Any) -> jax.Array:
    """A parameter of a module that training does not change.

    Args:
        module: module to which the parameter belongs.
        name: name of the leaf, one of `NAMES`, by which `training.optimizers.adamw` knows it.
        initial: (key, *arguments) -> its value.
        *arguments: the shape.

    Returns:
        Its value, without a gradient.

    Raises:
        ValueError: for another name, whose leaf would shrink by weight decay.
    """
    if name not in NAMES:
        raise ValueError(
            f"a constant named {name!r} would be changed by weight decay. Valid names: {', '.join(sorted(NAMES))}"
        )
    return jax.lax.stop_gradient(module.param(name, initial, *arguments))
