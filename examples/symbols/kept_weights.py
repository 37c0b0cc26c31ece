"""Trained weights beside a report: a second call goes on with the first model whose weights are missing."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from diffusion.io import safetensors_files


def trained(path: pathlib.Path, train: Callable[[], Any]) -> tuple[Any, float]:
    """The parameters of a model and the minutes of its training, from its file or trained now."""
    if path.exists():
        flat = safetensors_files.load(path)
        minutes = float(safetensors_files.header(path).metadata["minutes"])
        return traverse_util.unflatten_dict({key: jnp.asarray(one) for key, one in flat.items()}, "."), minutes
    print(f"{path.stem}:", flush=True)
    begin = time.monotonic()
    params = train()
    minutes = (time.monotonic() - begin) / 60
    flat = {key: np.asarray(one) for key, one in traverse_util.flatten_dict(params, sep=".").items()}
    shapes = {key: one.shape for key, one in flat.items()}
    safetensors_files.write(path, shapes, "float32", iter(flat.items()), {"minutes": f"{minutes:.1f}"})
    return params, minutes
