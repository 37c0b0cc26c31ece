"""The conditions of a denoiser: prompts encoded by a model's text encoders, sizes, guidance and frame times."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.text.added_words import named_in
from diffusion.text_to_image.model import TextToImage


def check_words(model: TextToImage, texts: Sequence[str]) -> None:
    """Refuses texts with a trigger word, such as "<cat-toy>", that the model has not learnt.

    Raises:
        ValueError: naming the word.
    """
    for text in texts:
        if missing := named_in(text, model.words):
            has = ", ".join(model.words) or "none"
            raise ValueError(
                f"the prompt {text[:60]!r} has the word {missing[0]!r}, whose embeddings are not loaded. Load its "
                f"file (embeddings, --embedding=FILE), or use a word that the model has learned: {has}"
            )


def conditions(
    model: TextToImage,
    prompts: Sequence[str],
    negative: str | None,
    guidance: float,
    height: int,
    width: int,
    frames: int = 0,
    pictures: Sequence[np.ndarray] = (),
    rate: float = 0.0,
    **how: Any,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The conditions of the denoiser's two branches: N prompts, and N times the negative prompt.

    Args:
        model: a model that `load` returned.
        prompts: N texts.
        negative: the negative prompt; None for the usual input of the model's unconditional branch.
        guidance: the strength that a distilled model receives.
        height, width: height and width of the pictures in pixels, which some models receive.
        frames: number of frames of a clip, whose times some models receive; 0 for pictures.
        pictures: pictures in the prompts, each float32 [1, h, w, 3] in [-1, 1], for a model whose text encoder sees
            them.
        rate: frames of a clip in a second, which some models receive.
        **how: arguments of `text.encode`.

    Returns:
        (conditional, unconditional).
    """
    different = list(dict.fromkeys(prompts))
    check_words(model, [*different, negative or ""])
    encoders = model.encoders
    if None in encoders:  # SD 3 without T5 receives zeros in its place
        how = {"width": model.denoiser.text_width, **how}
    if model.sight is not None:
        how = {"pictures": pictures, **how}
    number = len(prompts)
    encode = lambda texts, **more: model.kind.prompts.condition(texts, *encoders, **{**how, **more})
    rows = lambda encoded, chosen: jax.tree.map(lambda leaf: jnp.take(leaf, np.array(chosen), axis=0), encoded)
    differs: dict[str, Any] = {}  # the arguments by which the negative prompt is encoded alone
    if model.kind.prompts.instructed:
        differs = {"instructed": False}
    elif model.kind.video is not None and pictures:
        differs = {"pictures": tuple(np.full_like(picture, -1) for picture in pictures)}  # black ones
    if differs:
        conditional = rows(encode(different), [different.index(prompt) for prompt in prompts])
        unconditional = rows(encode([negative or ""], **differs), [0] * number)
        conditional, unconditional = _equally_long(conditional, unconditional)
    else:  # in one call, so that both have the same number of tokens
        texts = list(dict.fromkeys([*different, negative or ""]))
        encoded = encode(texts)
        conditional = rows(encoded, [texts.index(prompt) for prompt in prompts])
        unconditional = rows(encoded, [texts.index(negative or "")] * number)
    if model.zeros and negative is None:
        unconditional = jax.tree.map(jnp.zeros_like, unconditional)
    beside = model.beside(number, guidance, height, width, frames, rate)
    return conditional | beside, unconditional | beside


def _equally_long(*conditions: dict[str, Array]) -> list[dict[str, Array]]:
    """Conditions of a text [B, M, E] and its mask [B, M], padded to the longest of them; "pooled" has no length."""
    longest = max(condition["text"].shape[1] for condition in conditions)
    pad = lambda leaf: jnp.pad(leaf, [(0, 0), (0, longest - leaf.shape[1]), *[(0, 0)] * (leaf.ndim - 2)])
    padded = lambda condition: {name: leaf if name == "pooled" else pad(leaf) for name, leaf in condition.items()}
    return [padded(condition) for condition in conditions]
