"""The leaves of a pytree by name, in the spelling that checkpoints, shardings, tables and adapters share."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def leaf_name(path: tuple[Any, ...]) -> str:
    """Returns a leaf's path in a pytree as text, for example "params/blocks/mlp/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_of(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a pytree by name; `is_leaf` has the meaning that it has in `jax.tree`."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts that have these leaves: the inverse of `leaves_of` for pytrees of dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *outer, last = path.split("/")
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def checksum(tree: Any) -> str:
    """The sha256 of a pytree of arrays, in hexadecimal digits, over each leaf's name, dtype, shape and bytes."""
    total = hashlib.sha256()
    for name, leaf in sorted(leaves_of(tree).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return total.hexdigest()
