"""Captions of pictures by a captioner's published folder: BLIP's.

    captioner = captioning.opened("blip-image-captioning-large", prompt="a photography of")
    captioner(pictures, keys)                             # pictures uint8 [H, W, 3] of any sizes -> their captions

The next token is the likeliest one, or it is drawn from the likeliest ones. A picture's caption depends on its own key
and not on the pictures beside it.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.discrete import truncation
from diffusion.io import limits, opener
from diffusion.models.blip_captioner import BLIPCaptioner
from diffusion.models.image_encoders.picture_fitting import FITTINGS, stated_square
from diffusion.models.interchange import folders
from diffusion.text import Tokenizer

BICUBIC = "square by Pillow's bicubic filter"


class Captioner(NamedTuple):
    """A captioner with its vocabulary.

    Attributes:
        fit: picture uint8 [H, W, 3] -> the square uint8 [side, side, 3] that the network sees.
        generate: (squares uint8 [B, side, side, 3], keys [B]) -> ids int32 [B, length].
        text: ids of a caption -> its words.
    """

    fit: Callable[[np.ndarray], np.ndarray]
    generate: Callable[[np.ndarray, jax.Array], jax.Array]
    text: Callable[[Sequence[int]], str]

    def __call__(self, pictures: Sequence[np.ndarray], keys: jax.Array) -> list[str]:
        """The captions of pictures.

        Args:
            pictures: B pictures, uint8 [H, W, 3].
            keys: keys [B], one for each picture; without sampling they have no effect.
        """
        ids = np.asarray(self.generate(np.stack([self.fit(picture) for picture in pictures]), keys))
        return [self.text(row.tolist()) for row in ids]


def opened(folder: str | pathlib.Path, *, prompt: str = "", length: int = 30, top_p: float | None = None) -> Captioner:
    """Opens a captioner's folder: config.json, model.safetensors, the vocabulary, and preprocessor_config.json.

    Args:
        folder: folder of a BlipForConditionalGeneration.
        prompt: beginning of every caption, "a photography of"; "" for none.
        length: the longest caption in tokens, with its start, prompt and end, at least 2.
        top_p: share of the probability that the tokens which may be drawn have together, in (0, 1]; None for the
            likeliest token.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for another network, a vocabulary that is not its own, or arguments out of range.
        limits.Refused: for files that are damaged or hostile.
    """
    folder = pathlib.Path(folder).expanduser()
    family, module = folders.described(folder)
    if not isinstance(module, BLIPCaptioner):
        raise ValueError(f"{folder} holds a {family.name}. Valid: a captioner, BlipForConditionalGeneration")
    tokenizer = Tokenizer.open(folder, length)
    if tokenizer.end != (module.text.stop,) or tokenizer.join is None:
        raise ValueError(
            f"{folder}: its vocabulary ends a text by the ids {tokenizer.end}, its network by {module.text.stop}: they "
            "do not belong together"
        )
    if not 2 <= length <= module.text.positions:
        raise ValueError(f"length = {length}. Valid: 2 .. {module.text.positions} tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p}. Valid: a share of the probability in (0, 1], e.g. 0.9")
    words = tokenizer.ids(prompt)
    if len(words) + 2 > length or max(words, default=0) >= module.text.vocabulary:
        raise ValueError(
            f"the prompt {prompt!r} has {len(words)} tokens. Valid: at most {length - 2} tokens of the network's "
            f"{module.text.vocabulary}"
        )
    join = tokenizer.join
    side = module.vision.size
    fit = FITTINGS[stated_square(folder, BICUBIC)]
    _require_statistics(folder, module)
    checkpoint = folders.find(folder)
    params = folders.read(checkpoint)
    program = jax.jit(functools.partial(generated, module, prompt=tuple(words), length=length, top_p=top_p))

    def text(ids: Sequence[int]) -> str:
        end = [*ids[1:], module.text.stop].index(module.text.stop, len(words))
        return join(ids[1 : 1 + end]).strip()

    return Captioner(
        lambda picture: fit(picture, side), lambda squares, keys: program(params, jnp.asarray(squares), keys), text
    )


def generated(
    network: BLIPCaptioner,
    params: Any,
    squares: jax.Array,
    keys: jax.Array,
    *,
    prompt: Sequence[int],
    length: int,
    top_p: float | None,
) -> jax.Array:
    """The ids of captions, token by token until all have ended.

        y_i = argmax p(y | y_<i, picture),  or  y_i ~ p(y | y_<i, picture) among the likeliest tokens

    Args:
        network: the captioner.
        params: its parameters.
        squares: pictures [B, side, side, 3], bytes or floats in [-1, 1].
        keys: keys [B].
        prompt: ids with which every caption begins.
        length: number of ids of a caption, with start and end.
        top_p: share of the probability of the tokens that may be drawn; None for the likeliest token.

    Returns:
        int32 [B, length]: the decoder's `start`, the prompt, the caption, and `stop` to the end of the row.

    The paper: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", for the draws.
    """
    images = squares / jnp.float32(127.5) - 1 if squares.dtype == jnp.uint8 else squares
    start, stop = network.text.start, network.text.stop
    first = jnp.full((len(images), length), stop, jnp.int32).at[:, : len(prompt) + 1].set(jnp.array([start, *prompt]))
    cache = network.apply({"params": params}, images, length, method="begin")

    def token(logits: jax.Array, i: jax.Array) -> jax.Array:
        if top_p is None:
            return logits.argmax(-1)
        likeliest = truncation.nucleus(jax.nn.log_softmax(logits), top_p)
        return jax.vmap(lambda key, log_p: jax.random.categorical(jax.random.fold_in(key, i), log_p))(keys, likeliest)

    def unfinished(state: tuple) -> jax.Array:
        i, _, ended, _ = state
        return (i < length) & ~ended.all()

    def advance(state: tuple) -> tuple:
        i, ids, ended, cache = state
        logits, cache = network.apply({"params": params}, ids[:, i - 1], cache, i - 1, method="step")
        in_prompt = i <= len(prompt)
        drawn = jnp.where(ended, stop, token(logits, i).astype(jnp.int32))
        ids = ids.at[:, i].set(jnp.where(in_prompt, ids[:, i], drawn))
        return i + 1, ids, ~in_prompt & (drawn == stop), cache

    state = (jnp.int32(1), first, jnp.zeros(len(images), bool), cache)
    return jax.lax.while_loop(unfinished, advance, state)[1]


def _require_statistics(folder: pathlib.Path, module: BLIPCaptioner) -> None:
    """Refuses a preprocessor_config.json by which pictures would be normalised in another way."""
    file = folder / "preprocessor_config.json"
    stated = opener.read_table(file) if file.is_file() else {}
    for name, values in zip(("image_mean", "image_std"), module.vision.statistics):
        if (value := stated.get(name)) is not None and value != list(values):
            raise limits.Refused(f"{file}: {name} = {limits.short(value)}. Valid: {list(values)}, as BLIP's")
