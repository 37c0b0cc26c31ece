"""Textual inversion: only the embeddings of a new word are trained."""

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import word_embeddings
from diffusion.adapters.tuning import Params, Tuning
from diffusion.adapters.word_embeddings import Word


def textual_inversion(base: Any, word: str = "<new>", vectors: int = 1, initial: str = "thing") -> Tuning:
    """Learns one word of a few vectors for each text encoder of CLIP; all other weights stay, bit for bit.

    Args:
        base: the model, `text_to_image.described`.
        word: the new word, as prompts write it.
        vectors: K, the number of tokens that the word becomes.
        initial: words whose tokens' embeddings the vectors have at the start, in turn. Where there are more tokens than
            vectors, a warning says that only the first K count; the training script of diffusers refuses them.

    Raises:
        ValueError: for fewer than one vector or more than a prompt has tokens, a word that the vocabulary has as one
            token, an `initial` without tokens, or a model without a text encoder of CLIP.

    Reference: Gal et al. 2022, "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
    Inversion", eq. 2.
    """
    towers = word_embeddings.encoders_of(base)
    room = min(base.tokenizers[name].room for name in towers)
    if not 1 <= vectors <= room:
        raise ValueError(f"vectors = {vectors}. Valid: 1 to {room}, the tokens of a prompt")
    ids = {}
    for name in towers:
        tokens = base.tokenizers[name].ids(initial)
        if not tokens:
            raise ValueError(f"initial = {initial!r} gives no tokens. Valid: a word, e.g. 'thing'")
        if len(tokens) > vectors:
            warnings.warn(
                f"initial = {initial!r} has {len(tokens)} tokens, but vectors = {vectors}: the first {vectors} count",
                stacklevel=2,
            )
        ids[name] = np.array((tokens * vectors)[:vectors], int)
    blank = {name: np.zeros((vectors, tower.width), np.float32) for name, tower in towers.items()}
    larger = word_embeddings.extended(base, [Word(word, blank)])

    def init(key: Array, params: Params) -> dict[str, Array]:
        return {name: word_embeddings.table_of(params[name])[ids[name]].astype(jnp.float32) for name in towers}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        condition = text_of(larger, params, weights, condition)
        denoiser = jax.lax.stop_gradient(params[base.kind.denoiser.folder])
        return base.denoiser.apply({"params": denoiser}, x, clock, condition)

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        return [word_embeddings.save(folder, Word(word, weights), metadata)]

    def attach(model: Any, weights: Any) -> Any:
        return word_embeddings.extended(model, [Word(word, weights)])

    networks = (base.kind.denoiser.folder, *base.readers)
    return Tuning(larger, init, apply, write, attach, networks, encodes=True, words=(word,))


def text_of(larger: Any, params: Params, rows: Mapping[str, Array], condition: Mapping[str, Array]) -> dict[str, Any]:
    """The condition with the text in place of its tokens; a gradient goes to the rows of the new words alone.

    Args:
        larger: the model with the new words, described.
        params: the parameters of its text encoders, without the new words.
        rows: {name of an encoder: the embeddings of the new word, [K, D]}.
        condition: the condition, with tokens.
    """
    encoders = jax.lax.stop_gradient({name: params[name] for name in larger.readers})
    encoders |= {name: word_embeddings.with_rows(encoders[name], [row]) for name, row in rows.items()}
    return larger.with_text(encoders, condition)
