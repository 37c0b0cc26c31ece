"""Writes a tuned network as a folder in the format of its own library."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.models import interchange


def writer(module: Any, name: str) -> Callable[[pathlib.Path, Any, Mapping[str, str]], list[pathlib.Path]]:
    """A function for the field `write` of a `Tuning`, which replaces all files of a folder by the weights of a network.

    Args:
        module: the network, of a family that `models.interchange` knows.
        name: the name of the folder within the folder that is passed to `write`.
    """

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        target = folder / name
        for path in target.glob("*"):
            path.unlink()
        interchange.save(target, module, jax.tree.map(np.asarray, weights), metadata=metadata)
        return sorted(target.iterdir())

    return write
