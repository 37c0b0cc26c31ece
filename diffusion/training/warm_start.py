"""A run that starts from the parameters of another run or of a file."""

import pathlib
import re
from typing import Any

import jax
import numpy as np

from diffusion.io import limits, safetensors_files
from diffusion.io.leaf_names import leaf_name, leaves_of
from diffusion.training.checkpointing import checkpoints
from diffusion.training.step import HEADS

COLLECTION = "params/"  # prefix of a Linen network's leaves in a run; `diffusion convert` leaves it out


def read(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns parameters by name ("blocks/mlp/kernel"), from a file or a run folder.

    Args:
        path: a .safetensors file, a run folder (the moving average of its latest checkpoint), or one checkpoint of it
            (WORKDIR/checkpoints/<step>).

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is a file that is not in the safetensors format, or larger than this machine's memory.
        CheckpointError: if a folder has no intact checkpoint.
    """
    path = pathlib.Path(path).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"init_from = {str(path)!r} does not exist. Valid: a run folder, a checkpoint or a .safetensors file."
        )
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"init_from = {str(path)!r}: a file must be a .safetensors file.")
        try:
            return {name.replace(".", "/"): leaf for name, leaf in safetensors_files.load(path).items()}
        except limits.Refused as error:
            raise ValueError(f"init_from = {str(path)!r} is not a safetensors file: {error}") from error
    if path.parent.name == "checkpoints" and checkpoints.STEP.fullmatch(path.name):
        params, _ = checkpoints.load_ema(path.parent.parent, int(path.name))
    else:
        params, _ = checkpoints.load_ema(path)
    return leaves_of(params)


def warm_start(params: Any, source: dict[str, Any], pattern: str = ".*") -> tuple[Any, list[str], list[str]]:
    """Returns the parameters, with the leaves of `source` that match in name and shape and have the pattern.

    Args:
        params: a pytree of arrays (freshly initialised); keeps its types and shardings.
        source: the arrays by name; see `read`.
        pattern: a regular expression, searched in the leaf's name ("blocks/mlp/kernel"); "^(?!.*final)" excludes.

    Returns:
        (params, taken, skipped): the names that were taken, and a line with the reason for each other name on either
        side.

    Raises:
        ValueError: if no leaf matches, or `pattern` is not a regular expression.
    """
    try:
        fits = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f"init_from.include = {pattern!r} is not a regular expression: {error}.") from error
    ours = leaves_of(params).keys()
    network = [name for name in ours if not name.startswith(f"{HEADS}/")]
    if all(name.startswith(COLLECTION) for name in network) and not any(name.startswith(COLLECTION) for name in source):
        source = {f"{COLLECTION}{name}": leaf for name, leaf in source.items()}
    taken, skipped = [], []

    def leaf(path, ours):
        name = leaf_name(path)
        theirs = source.get(name)
        if not fits(name):
            skipped.append(f"{name}: the pattern {pattern!r} excludes it")
        elif theirs is None:
            skipped.append(f"{name}: not in the source")
        elif theirs.shape != ours.shape:
            skipped.append(f"{name}: {tuple(theirs.shape)} in the source, {tuple(ours.shape)} here")
        else:
            taken.append(name)
            return jax.device_put(np.asarray(theirs).astype(ours.dtype), ours.sharding)
        return ours

    result = jax.tree_util.tree_map_with_path(leaf, params)
    skipped += [f"{name}: only in the source" for name in source if name not in ours]
    if not taken:
        raise ValueError(
            f"init_from found no leaf that fits; the first reasons: {'; '.join(skipped[:3])}. The first names of the "
            f"source: {', '.join([*source][:3])}. For a file with the names of another library, diffusion convert "
            "--layout=ours writes one with ours."
        )
    return result, taken, skipped
