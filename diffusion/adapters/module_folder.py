"""The folder of a tuned network, in the names of its own library."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion.models import interchange


def writer(module: Any, name: str) -> Callable[[pathlib.Path, Any, Mapping[str, str]], list[pathlib.Path]]:
    """The function `write` of a `Tuning`: it puts the module's weights into the folder `name` and removes earlier ones.

    Args:
        module: the network, of a family that `models.interchange` knows.
        name: the name of the folder, which lies in the folder that the run names.
    """

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        target = folder / name
        for path in target.glob("*"):
            path.unlink()
        interchange.save(target, module, jax.tree.map(np.asarray, weights), metadata=metadata)
        return sorted(target.iterdir())

    return write
