"""The record of the weights that a finetuning run has found in its base, and whether a model still has them."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from diffusion.io.leaf_names import leaves_of
from diffusion.training.checkpointing import checksums


def entry(leaf: Any, checksum: str) -> str:
    """The entry of a leaf in a record: its shape, its type and its checksum."""
    return f"{leaf.shape} {leaf.dtype} {checksum}"


def first_changed(params: Mapping[str, Any], record: Mapping[str, str], rounded: bool) -> str | None:
    """The name of a leaf of a model's networks that is not as in a record; None if all are.

    No process waits for another.

    Args:
        params: the parameters of the model's networks by their names; networks without a record are left out.
        record: {name of a leaf: `entry` of it}; a leaf in another type is cast to the record's.
        rounded: whether the model was loaded in a narrower type than its files have; then only the leaves that the
            record has in the same type are compared.
    """
    networks = {part: params[part] for part in params if any(name.startswith(f"{part}/") for name in record)}
    leaves = leaves_of(networks)

    def differs(name: str) -> bool:
        if name not in leaves:
            return name.partition("/")[0] in networks
        dtype = record[name].rsplit(" ", 2)[1]
        if rounded and str(leaves[name].dtype) != dtype:
            return False
        array = np.asarray(leaves[name].astype(dtype))
        return entry(array, f"{checksums.checksum(array):08x}") != record[name]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy leaves Python's lock while it hashes
        return next((name for name, changed in zip(record, pool.map(differs, record)) if changed), None)
