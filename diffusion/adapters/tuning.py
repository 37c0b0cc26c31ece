"""A tuning: new weights that a run trains, while the weights of a text-to-image model, the base, do not change.

    tuning = low_rank.lora(base, rank=8)                              # base: text_to_image.described(folder)
    weights = tuning.init(key, params)                                # params: those of the base, by network
    output = tuning.apply(params, weights, x_t, clock, condition)     # what the objective trains
    files = tuning.write(folder, weights, {"base_model": "sd15"})     # as other programs read them
    tuned = tuning.attach(model, weights)                             # model: text_to_image.load(folder)

A function that a config names in `config.tuning` receives the base, and returns a `Tuning`.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusion.arrays.promotion import promoted
from diffusion.models.quantised import has_quantised

CAPTIONED = "captioned"
"""The entry of the condition in training that is 0 if the caption of an example is dropped, and 1 otherwise."""

Params = Mapping[str, Any]
"""Parameters of networks, by the names of their folders ("unet", "text_encoder" ...)."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """New weights beside a frozen text-to-image model, "the base".

    Attributes:
        base: the model as the tuning reads it, a `text_to_image.TextToImage` without its weights. If the tuning adds
            tokens, this model has more tokens than the model in the folder.
        init: (key, params of `networks` and `copies`) -> weights, the pytree that the run trains, float32. Here and in
            `apply`, kernels of params may have the dtypes of the base's files, bfloat16 or float16, although the base
            computes in float32; no sum is rounded to these dtypes.
        apply: (params of `networks`, weights, x_t, clock, condition) -> output of the denoiser, a pure function. The
            condition holds the denoiser's entries; if the tuning `encodes`, it holds tokens in place of the text.
        write: (folder, weights, metadata) -> the files that it wrote into the folder, in the formats of other programs.
        attach: (a loaded model, weights) -> the tuned model, for sampling.
        networks: names of the base's networks that `apply` reads.
        copies: names of further networks that only `init` reads.
        encodes: whether `apply` runs the text encoders itself, on the tokens of `base.encoded`; otherwise the run
            encodes the captions once, before the training.
        reads: entries of a record's "condition", which are columns of the data, that `apply` reads beside the text, for
            example "control". If a run drops the caption of an example, these entries are zeros.
        latents: the entries of `reads` that are pictures, and that the records hold as latents of the base's
            autoencoder: the mean of the latents' distribution, scaled as for the denoiser. They are computed once,
            before the training.
        replaces: names of networks that differ from those of the base, because of which the folder of a whole model is
            written, in place of the files of `write` or beside them.
        words: the words that a prompt needs for the learned subject; the written files hold them.
        see: pictures uint8 [H, W, 3] -> entries {name: float32 [number of pictures, ...]} of their records' conditions,
            which a run computes once, before the training; None if there are no such entries. If a run drops the
            caption of an example, these entries are zeros.
        sees: the shapes of these entries, without the axis of the pictures.
        sees_of: entry of a record's condition whose pictures `see` receives; "" for the picture that is the example.
        apart: entries of the condition that a run also drops separately, each for a further share of the examples; this
            share equals the share without any condition. `CAPTIONED` stands for the text.
    """

    base: Any
    init: Callable[[Array, Params], Any]
    apply: Callable[[Params, Any, Array, Array, Mapping[str, Array]], Array]
    write: Callable[[pathlib.Path, Any, Mapping[str, str]], list[pathlib.Path]]
    attach: Callable[[Any, Any], Any]
    networks: tuple[str, ...]
    copies: tuple[str, ...] = ()
    encodes: bool = False
    reads: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    see: Callable[[Sequence[np.ndarray]], Mapping[str, np.ndarray]] | None = None
    sees: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    sees_of: str = ""
    apart: tuple[str, ...] = ()


def computed(model: Any, parts: Sequence[str]) -> dict[str, Any]:
    """The parameters of networks in at least their compute type; in the type of a file a change could be rounded away.

    Args:
        model: a loaded model.
        parts: names of networks of the model.

    Returns:
        {name: parameters of the network}.

    Raises:
        ValueError: if the kernels of a network are quantised.
    """
    for part in parts:
        if has_quantised(model.params[part]):
            raise ValueError(f"the kernels of {part} are quantised. Valid: the model before with_quantised")

    def wide(part: str, leaf: Array) -> Array:
        return leaf.astype(promoted(leaf.dtype, model.dtype_of(part)))

    return {part: jax.tree.map(lambda leaf, part=part: wide(part, leaf), model.params[part]) for part in parts}
