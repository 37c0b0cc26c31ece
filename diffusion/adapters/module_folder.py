"""The folder of a tuned module, in the names of its own library: what a tuning writes whose weights are a network."""

__all__ = ["writer"]

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.models import interchange


def writer(module: Any, name: str) -> Callable[[pathlib.Path, Any, Mapping[str, str]], list[pathlib.Path]]:
    """The `write` of a `Tuning`: the module's weights in the folder `name`, in place of those of an earlier time.

    Args:
        module: of a family that `models.interchange` knows.
        name: of the folder, inside the one that the run names.
    """

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        target = folder / name
        for path in target.glob("*"):
            path.unlink()
        interchange.save(target, module, jax.tree.map(np.asarray, weights), metadata=metadata)
        return sorted(target.iterdir())

    return write
