"""The pipeline of HiDream-I1, whose prompts two CLIPs, T5 and many layers of Llama read."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.hidream.network import LLAMA_LAYERS, HiDream
from diffusion.text.encoding import Encoder, encode, pooled

LENGTH = 128  # of every text, in tokens


def hidream(
    prompts: Sequence[str], clip: Encoder, clip_g: Encoder, t5: Encoder, llama: Encoder, **how: Any
) -> dict[str, jax.Array]:
    """{"text", "pooled"} of HiDream-I1: the padding of T5 and Llama is read too.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower with its projection; its pooled state covers only the first window of a long
            prompt, as does the next encoder's.
        clip_g: ViT-bigG's text tower with its projection.
        t5: T5's encoder, `masked=True`, with a tokenizer of 128 tokens.
        llama: Llama's states after the layers that the denoiser reads, `masked=True`, with a tokenizer of 128 tokens.
        **how: further arguments of `encode`.
    """
    read = [(encode(prompts, encoder, **how).tokens, encoder) for encoder in (t5, llama)]
    longest = max(tokens.shape[1] for tokens, _ in read)
    text = jnp.concatenate([_filled(tokens, longest, encoder) for tokens, encoder in read], axis=-1)
    both = [pooled(encode(prompts, encoder, **how)) for encoder in (clip, clip_g)]
    return {"text": text, "pooled": jnp.concatenate(both, axis=-1)}


def _filled(tokens: jax.Array, length: int, encoder: Encoder) -> jax.Array:
    """The tokens [B, K N, D] of K windows, followed by windows of an empty prompt up to this length."""
    missing = length - tokens.shape[1]
    if not missing:
        return tokens
    empty = encode([""], encoder).tokens
    return jnp.concatenate([tokens, jnp.tile(empty, (len(tokens), missing // empty.shape[1], 1))], axis=1)


def _readers(layers: Sequence[int]) -> tuple[kinds.Reader, ...]:
    """The four text encoders; Llama's states are read after these layers, 0 for the first."""
    after = tuple(layer + 1 for layer in sorted(set(layers)))
    return (
        kinds.Reader(length=LENGTH),
        kinds.Reader("_2", length=LENGTH),
        kinds.Reader("_3", {"masked": True}, LENGTH),
        kinds.Reader("_4", {"masked": True, "layers": after}, LENGTH, pad="eos_token"),
    )


def _variant(kind: kinds.Kind, denoiser: HiDream) -> kinds.Kind:
    return kind._replace(prompts=kinds.Prompts(_readers(denoiser.llama_layers), hidream))


HIDREAM = kinds.Kind(
    "HiDream",
    kinds.Prompts(_readers(LLAMA_LAYERS), hidream),
    kinds.Usual(50, 5.0),
    kinds.DenoiserNetwork(HiDream, variant=_variant),
    students=kinds.Students(
        by_scheduler={("lcm", 6.0): kinds.Usual(28, 1.0), ("lcm", 3.0): kinds.Usual(16, 1.0)}
    ),  # -Dev, -Fast
)
KINDS = {"HiDreamImagePipeline": HIDREAM}
