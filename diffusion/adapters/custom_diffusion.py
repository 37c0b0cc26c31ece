"""Custom diffusion: a new word, and the keys and values by which cross-attention reads the text."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.adapters import custom_diffusion_files
from diffusion.adapters.erasure import CROSS
from diffusion.adapters.full_tuning import chosen_leaves, nested, with_leaves
from diffusion.adapters.textual_inversion import text_of, textual_inversion
from diffusion.adapters.tuning import Params, Tuning


def custom_diffusion(
    base: Any, word: str = "<new>", vectors: int = 1, initial: str = "thing", targets: str = CROSS
) -> Tuning:
    """Trains a new word, as `textual_inversion` does, and all keys and values of cross-attention.

    A run writes the folder of the model and, in it, the file of the word. If `targets` are the keys and values of
    cross-attention, with or without its queries and outputs, it also writes diffusers' small file of these layers.

    Args:
        base, word, vectors, initial: the model, the new word, its number of tokens and its initial words, as in
            `textual_inversion`.
        targets: regular expression, searched in the names that the denoiser's tensors have in its own library.

    Raises:
        ValueError: as in `textual_inversion`, or for a model without such layers.

    Reference: Kumari et al. 2023, "Multi-Concept Customization of Text-to-Image Diffusion", section 3.2.
    """
    words = textual_inversion(base, word, vectors, initial)
    denoiser = base.kind.denoiser.folder
    chosen = chosen_leaves(base.modules[denoiser], targets)

    def init(key: Array, params: Params) -> dict[str, Any]:
        layers = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nested(params[denoiser], chosen))
        return {"words": words.init(key, params), "layers": layers}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = text_of(words.base, params, weights["words"], condition)
        frozen = jax.lax.stop_gradient(params[denoiser])
        network = with_leaves(frozen, weights["layers"], base.dtype_of(denoiser))
        return base.denoiser.apply({"params": network}, x, clock, condition)

    def attach(model: Any, weights: Any) -> Any:
        network = with_leaves(model.params[denoiser], weights["layers"], model.dtype_of(denoiser))
        model = model.replaced(params={**model.params, denoiser: network})
        return words.attach(model, weights["words"])

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        written = words.write(folder, weights["words"], metadata)
        tensors = custom_diffusion_files.tensors_of(base.modules[denoiser], weights["layers"])
        return written + ([] if tensors is None else [custom_diffusion_files.save(folder, tensors, metadata)])

    return dataclasses.replace(words, init=init, apply=apply, write=write, attach=attach, replaces=(denoiser,))
