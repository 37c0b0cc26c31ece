"""What a run has to know of a network, as attributes of its class; a class that lacks one has the default.

| attribute     | default    | what it says                                                                |
|---------------|------------|-----------------------------------------------------------------------------|
| `kind`        | "backbone" | how objectives call it; or "autoencoder", or "towers" of images and texts   |
| `text_inputs` | None       | what it receives of a text, e.g. `conditions.TOKENS`                        |
| `one_size`    | False      | whether it takes pictures of one size alone                                 |
"""

from typing import Any

from diffusion.models.layers.conditions import TextInputs


def kind(network: Any) -> str:
    """The kind of a module or of its class."""
    return getattr(network, "kind", "backbone")


def text_inputs(network: Any) -> TextInputs | None:
    """What a module, or one of its class, receives of a text; None for one that receives no text."""
    return getattr(network, "text_inputs", None)


def one_size(network: Any) -> bool:
    """Whether a module, or one of its class, takes pictures of one size alone."""
    return getattr(network, "one_size", False)
