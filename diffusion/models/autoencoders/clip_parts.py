"""Clips of any length with the memory of a part of them.

| function   | of autoencoders                             | its result                                    |
|------------|---------------------------------------------|-----------------------------------------------|
| `streamed` | whose frames see only earlier ones          | the whole clip's result, up to rounding       |
| `lagging`  | whose convolutions see later frames equally | the whole clip's result, up to rounding       |
| `blended`  | whose norms are over a whole clip           | parts of four groups, coded apart and blended |
| `at_once`  | whose attention is over a whole clip        | the whole clip's, with its memory             |

An autoencoder says which is its own: `module.in_parts(module, params, "decode")`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.causal_layers import STREAM
from diffusion.models.autoencoders.edge_convolution import Place
from diffusion.models.layers.choices import look_up

METHODS: dict[str, None] = dict.fromkeys(("encode", "decode"))


def streamed(module: Any, params: Any, method: str, chunk: int | None = None) -> Callable[[jax.Array], Any]:
    """Encodes or decodes a video chunk by chunk along its frames, with the memory of one chunk.

    The result equals the whole video's, up to rounding: each convolution keeps the last frames that it has seen.

        latents = streamed(vae, params, "encode")(x).mean
        video = tiles.tiled(streamed(vae, params, "decode"), tile=32, overlap=8)(latents)       # and by tiles

    Args:
        module: an autoencoder of videos, with `time_factor`, and `together`, the frames of the latent that one norm
            sees after the first: 1 where norms are of single pixels.
        params: its parameters.
        method: "encode" or "decode".
        chunk: number of the latent's frames in a chunk, a multiple of `together`; None: `together`.

    Returns:
        A function with the method's input and output.

    Raises:
        ValueError: for another method or chunk.

    Reference: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025 (its feature cache).
    """
    look_up(METHODS, method, "method")
    together: int = module.together
    chunk = chunk if chunk is not None else together
    if chunk < 1 or chunk % together:
        raise ValueError(f"chunk={chunk} must be 1 or more frames of the latent, a multiple of {together}")
    scale = module.time_factor if method == "encode" else 1
    frames = chunk * scale
    begin = 1 if together == 1 else 1 + together * scale

    def part(stream: Any, x: jax.Array) -> tuple[Any, Any]:
        outputs, state = module.apply({"params": params, **stream}, x, method=method, mutable=[STREAM])
        return state, outputs

    def over_clip(x: jax.Array) -> Any:
        stream, first = part({}, x[:, :begin])
        outputs = [first]
        full = (x.shape[1] - begin) // frames
        if full > 0:
            chunks = x[:, begin : begin + full * frames].reshape(len(x), full, frames, *x.shape[2:])
            stream, parts = jax.lax.scan(part, stream, jnp.moveaxis(chunks, 1, 0))
            outputs.append(jax.tree.map(_joined, parts))
        if begin + max(full, 0) * frames < x.shape[1]:
            outputs.append(part(stream, x[:, begin + full * frames :])[1])
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *outputs)

    return over_clip


def lagging(module: Any, params: Any, method: str, chunk: int = 1) -> Callable[[jax.Array], Any]:
    """`streamed` for a decoder that also sees later frames: it returns the frames that are complete.

    A convolution over three frames puts out the frame before the last that it has seen, so that the decoder's output
    begins `module.lag` frames late. Clips that are no longer than that are decoded whole: they need no more memory.

    Args:
        module: an autoencoder of videos with a causal encoder, and `lag`.
        params: its parameters.
        method: "encode" or "decode".
        chunk: number of the latent's frames in a chunk.

    Returns:
        A function with the method's input and output.

    Raises:
        ValueError: for another method or a chunk below 1.
    """
    if method != "decode":
        return streamed(module, params, method, chunk)
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be 1 or more frames of the latent")
    made_of_chunk = chunk * module.time_factor

    def part(stream: Any, z: jax.Array, place: Place) -> tuple[Any, jax.Array]:
        outputs, state = module.apply({"params": params, **stream}, z, place=place, method="decode", mutable=[STREAM])
        return state, outputs

    def over_clip(z: jax.Array) -> jax.Array:
        frames = 1 + (z.shape[1] - 1) * module.time_factor
        if frames <= module.lag:
            return module.apply({"params": params}, z, method="decode")
        count = -(-(frames + module.lag) // made_of_chunk)
        padded = jnp.pad(z, ((0, 0), (0, count * chunk - z.shape[1]), (0, 0), (0, 0), (0, 0)))
        chunks = jnp.moveaxis(padded.reshape(len(z), count, chunk, *z.shape[2:]), 1, 0)
        one = lambda stream, given: part(stream, given[0], Place(given[1], z.shape[1]))
        empty = jax.eval_shape(one, {}, (chunks[0], jnp.zeros((), jnp.int32)))[0]
        stream = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)
        _, outputs = jax.lax.scan(one, stream, (chunks, chunk * jnp.arange(count)))
        return _joined(outputs)[:, module.lag : module.lag + frames]

    return over_clip


def blended(module: Any, params: Any, method: str) -> Callable[[jax.Array], Any]:
    """Codes a video in parts of a frame and four groups, which begin every three groups and are blended linearly.

    A part's first frame is kept only in the first part. Its first group is a weighted mean, of weight i / n at the i-th
    of its n frames, with the last group of the part before. Videos of fewer groups are coded whole.

    Args:
        module: an autoencoder of videos with `time_factor`, whose norms are over all frames that it sees.
        params: its parameters.
        method: "encode" or "decode".

    Returns:
        A function with the method's input and output.

    Raises:
        ValueError: for another method.

    Reference: Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", 2024, section on
    spatial-temporal tiling; the sizes are taken from its code.
    """
    look_up(METHODS, method, "method")
    groups, step = 4, 3
    unit = module.time_factor if method == "encode" else 1
    made_of_group = 1 if method == "encode" else module.time_factor
    code = lambda x: module.apply({"params": params}, x, method=method)

    def mixed(before: jax.Array, tile: jax.Array) -> jax.Array:
        """The tile whose first group is blended with the last group of the one before."""
        n = made_of_group
        weight = (jnp.arange(n, dtype=tile.dtype) / n)[:, None, None, None]
        blend = before * (1 - weight) + tile[:, :n] * weight
        return jnp.concatenate([blend, tile[:, n:]], axis=1)

    def over_clip(x: jax.Array) -> Any:
        count = (x.shape[1] - 1) // unit  # groups behind the first frame
        if count < groups:
            return code(x)
        starts = range(0, count, step)
        full = sum(start + groups <= count for start in starts)
        size = 1 + groups * unit

        def part(last: Any, start: jax.Array) -> tuple[Any, Any]:
            coded = code(jax.lax.dynamic_slice_in_dim(x, start, size, axis=1))
            tile = jax.tree.map(lambda before, leaf: mixed(before, leaf[:, 1:]), last, coded)
            finished = jax.tree.map(lambda leaf: leaf[:, : step * made_of_group], tile)
            return jax.tree.map(lambda leaf: leaf[:, -made_of_group:], tile), finished

        first = code(x[:, :size])
        coded = [jax.tree.map(lambda leaf: leaf[:, : 1 + step * made_of_group], first)]
        last = jax.tree.map(lambda leaf: leaf[:, -made_of_group:], first)
        if full > 1:
            last, parts = jax.lax.scan(part, last, step * unit * jnp.arange(1, full))
            coded.append(jax.tree.map(_joined, parts))
        for start in starts[full:]:
            tile = jax.tree.map(lambda before, leaf: mixed(before, leaf[:, 1:]), last, code(x[:, start * unit :]))
            coded.append(jax.tree.map(lambda leaf: leaf[:, : step * made_of_group], tile))
        wanted = 1 + count * made_of_group
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1)[:, :wanted], *coded)

    return over_clip


def at_once(module: Any, params: Any, method: str) -> Callable[[jax.Array], Any]:
    """Codes a video at once, with the memory of all of it; arguments as in `blended`."""
    look_up(METHODS, method, "method")
    return lambda x: module.apply({"params": params}, x, method=method)


def _joined(parts: jax.Array) -> jax.Array:
    """Chunks [n, B, F, ...] of a scan as one video [B, n F, ...]."""
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])
