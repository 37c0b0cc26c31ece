"""The tuning of a whole denoiser, and of the text encoders too: DreamBooth as it was published."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters.tuning import Params, Tuning
from diffusion.arrays.promotion import promoted
from diffusion.io import leaf_names
from diffusion.io.leaf_names import leaf_name, leaves_of
from diffusion.models.interchange import families, folders


def full(base: Any, targets: str = "", text: bool = False) -> Tuning:
    """Trains all or some weights of the denoiser, starting from the base's, in float32 whatever the base's type.

    A run writes the folder of the whole model.

    Args:
        base: the model, `text_to_image.described`.
        targets: regular expression, searched in the names that the denoiser's tensors have in its own library; "" for
            all of them. "attn2" is ESD-x, and "^(?!.*attn2)" ESD-u.
        text: whether all weights of the text encoders train too.

    Raises:
        ValueError: for a pattern that finds nothing, is no regular expression, or selects a part of one parameter.

    Reference: Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation".
    """
    denoiser = base.kind.denoiser.folder
    parts = (denoiser, *(base.readers if text else ()))
    leaves = leaves_of(base.params[denoiser])
    chosen = chosen_leaves(base.modules[denoiser], targets) if targets else set(leaves)
    some = len(chosen) < len(leaves)

    def init(key: Array, params: Params) -> dict[str, Any]:
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
        return {part: wide(nested(params[part], chosen if part == denoiser else None)) for part in parts}

    def merged_networks(params: Params, weights: Any) -> dict[str, Any]:
        """The networks with their new weights."""
        if not some:
            return dict(weights)
        frozen = jax.lax.stop_gradient(params[denoiser])
        return {**weights, denoiser: with_leaves(frozen, weights[denoiser], base.dtype_of(denoiser))}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        networks = merged_networks(params, weights)
        if text:
            condition = base.with_text(networks, condition)
        return base.denoiser.apply({"params": networks[denoiser]}, x, clock, condition)

    def attach(model: Any, weights: Any) -> Any:
        tuned = {part: with_leaves(model.params[part], weights[part], model.dtype_of(part)) for part in parts}
        return model.replaced(params={**model.params, **tuned})

    networks = (denoiser,) if some else ()
    nothing = lambda folder, weights, metadata: []
    return Tuning(base, init, apply, nothing, attach, networks, copies=parts, encodes=text, replaces=parts)


def chosen_leaves(module: Any, pattern: str) -> set[str]:
    """The leaves of a network whose tensors in its own library have a pattern in their names.

    Raises:
        ValueError: for a pattern that finds nothing, is no regular expression, or selects a part of one leaf.
    """
    family = families.family_of(module)
    table = folders.rows_of(family, module, family.first_layout)
    try:
        leaves = {row.ours for row in table if re.search(pattern, row.theirs)}
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    names = ", ".join(row.theirs for row in table[:: max(len(table) // 3, 1)][:3])
    if not leaves:
        raise ValueError(f"the pattern {pattern!r} matches no tensor of {family.name}. Valid: e.g. {names}")
    if apart := next((row for row in table if row.ours in leaves and not re.search(pattern, row.theirs)), None):
        raise ValueError(
            f"the pattern {pattern!r} matches only a part of {apart.ours}, and leaves out {apart.theirs}. Valid: a "
            "pattern that matches all layers of that leaf"
        )
    return leaves


def with_leaves(params: Any, new: Any, dtype: str) -> Any:
    """The parameters with some leaves replaced, in their types or a wider one.

    Args:
        params: pytree of parameters.
        new: the new leaves, nested as the parameters are.
        dtype: the type in which the network computes, which a new leaf has at least.

    Raises:
        ValueError: for a leaf that the parameters lack.
    """
    leaves = leaves_of(new)
    if absent := leaves.keys() - leaves_of(params).keys():
        raise ValueError(
            f"the parameters have no {min(absent)}. Valid: those that were tuned, before with_quantised if it was used"
        )

    def put(path: tuple, leaf: Array) -> Array:
        name = leaf_name(path)
        return jnp.asarray(leaves[name], promoted(leaf.dtype, dtype)) if name in leaves else leaf

    return jax.tree_util.tree_map_with_path(put, params)


def nested(params: Any, chosen: set[str] | None) -> dict[str, Any]:
    """The chosen leaves of parameters, nested as they are; None: all."""
    return leaf_names.nested(
        {path: leaf for path, leaf in leaves_of(params).items() if chosen is None or path in chosen}
    )
