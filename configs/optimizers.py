"""The entry of the optimizer that recipes of short trainings share."""

from typing import Any


def annealed(
    learning_rate: float, name: str = "adamw", warmup: int = 100, weight_decay: float = 0.0, clip: float = 1.0
) -> dict[str, Any]:
    """The entry of an optimizer whose rate rises in a warm-up and then falls to 0 by a cosine.

    Args:
        learning_rate: the largest rate.
        name: name of the optimizer.
        warmup: steps of the warm-up.
        weight_decay: the decoupled weight decay.
        clip: the largest global norm of the gradient.
    """
    rate = {"learning_rate": learning_rate, "warmup": warmup, "decay": "cosine"}
    return {"name": name, **rate, "weight_decay": weight_decay, "clip": clip}
