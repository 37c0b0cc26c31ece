"""Writes our networks as folders that the libraries of their families open; the inverse of `folders`.

interchange.save("mine/unet", module, params)
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffusion.io import files
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange import families, rows, tensor_files
from diffusion.models.interchange.family import Family
from diffusion.models.interchange.folders import FLOATS, computed_of, expected_of, layouts, rows_of
from diffusion.models.interchange.rows import Row
from diffusion.models.layers.choices import look_up


def write(
    family: Family, module: nn.Module, layout: str, params: Any, dtype: str = "float32"
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the pairs (their name, array) of our parameters, in the order of `expected_of`; the inverse of `read`.

    Args:
        family: family of the module.
        module: our module.
        layout: layout of their names.
        params: our parameters.
        dtype: dtype of the arrays.

    Raises:
        ValueError: for a number that is not finite in the dtype.
    """
    leaves = leaves_of(params)
    table = rows_of(family, module, layout)
    rows.check_cover(table, leaves)
    by_name: dict[str, list[Row]] = {}
    for row in table:
        for name in (row.theirs, *row.copies):
            by_name.setdefault(name, []).append(row)
    computed = computed_of(family, module, layout)
    for name in expected_of(family, module, layout, leaves):
        if name in computed:
            yield name, computed[name].make().astype(dtype)
            continue
        parts = sorted(by_name[name], key=lambda row: row.rows or (0, 0))
        arrays = [row.layout.to_theirs(np.asarray(leaves[row.ours])[row.at]) for row in parts]
        yield name, _cast(name, arrays[0] if len(arrays) == 1 else np.concatenate(arrays), dtype)


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """An array in a dtype, all of whose numbers the dtype holds: readers refuse a file with an infinite one."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not tensor_files.is_finite(cast):
        lost = array[~np.isfinite(cast.astype(np.float32))]
        raise ValueError(
            f"{name} holds {float(lost[0]):g}. Valid: finite numbers of at most {float(jnp.finfo(dtype).max):g} in "
            f"{dtype}"
        )
    return cast


def save(
    folder: str | pathlib.Path,
    module: nn.Module,
    params: Any,
    *,
    layout: str = "",
    dtype: str = "float32",
    family: str = "",
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes our network as a folder that the library of its family opens with `from_pretrained`.

    Args:
        folder: the folder, which is made and must not hold a network yet.
        module: module of a class that a family describes.
        params: its parameters.
        layout: layout of the names, one of `layouts(family)`; by default the first, its library's.
        dtype: dtype of the numbers.
        family: name of the architecture, if several describe the module; by default the first that does.
        metadata: texts for the header of each file of weights.

    Raises:
        FileExistsError: if the folder holds a network.
        ValueError: for a module that no family, or not this one, describes, or a number that is not finite in the
            dtype, such as 1e5 in float16.
    """
    look_up(dict.fromkeys(FLOATS), dtype, "dtype")
    known = families.find(family) if family else families.family_of(module)
    layout = look_up({name: name for name in layouts(known)}, layout or layouts(known)[0], "layout")
    described = known.describe(module) | (known.repeated(module, params) if known.repeated else {})
    folder = pathlib.Path(folder).expanduser()
    if (folder / "config.json").exists() or list(folder.glob(f"*{tensor_files.SUFFIX}")):
        raise FileExistsError(f"{folder} holds a network already; choose another folder, or remove it first.")
    folder.mkdir(parents=True, exist_ok=True)
    shapes = expected_of(known, module, layout, leaves_of(params))
    tensors = write(known, module, layout, params, dtype)
    tensor_files.write_tensors(folder, known.stem, shapes, dtype, tensors, metadata)
    config = {"architectures": [known.name]} if known.library == "transformers" else {"_class_name": known.name}
    with files.atomic(folder / "config.json") as file:
        file.write(json.dumps({**config, **described}, indent=2).encode() + b"\n")
