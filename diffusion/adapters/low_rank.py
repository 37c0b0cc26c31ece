"""Tunings of low rank: LoRA, DoRA, LoHa and LoKr of the denoiser, and of the text encoders too.

The layers have the names of their own library ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"). Each
layer has separate factors in the file, as in peft's files.
"""

__all__ = ["dora", "loha", "lokr", "lora", "tuning_of_adapters"]

import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.adapters import lora as factors, lora_files, word_embeddings
from diffusion.adapters.lora_files import Lora
from diffusion.adapters.tuning import Params, Tuning
from diffusion.io.leaf_names import nested
from diffusion.package import public

ATTENTION = r"(^|\.)(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)$"  # the kernels of denoisers
TEXT = r"self_attn\.([qkv]|out)_proj$"  # the kernels of CLIP
FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder
LYCORIS = "lycoris.safetensors"  # the file with LyCORIS's names, for ComfyUI and others


def lora(
    base: Any, rank: int = 8, alpha: float | None = None, targets: str = ATTENTION, text_targets: str = ""
) -> Tuning:
    """LoRA: W + alpha / r (B A) for each target layer, A uniform as peft draws it, B zero at the start.

    Args:
        base: the model, `text_to_image.described`.
        rank: r of all layers, at least 1.
        alpha: numerator of the scale, above 0; None: the rank, so that the scale is 1.
        targets: regular expression, searched in the names of the denoiser's layers.
        text_targets: regular expression, searched in the names of the text encoders' layers, such as `TEXT`; "" to
            leave them unchanged.

    Raises:
        ValueError: for a rank below 1 or above that of a layer, an alpha of 0 or below, or a pattern that matches no
            layer, or matches a layer whose updates no file can hold.

    Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """
    return _blank(base, rank, alpha, targets, text_targets)


def dora(
    base: Any, rank: int = 8, alpha: float | None = None, targets: str = ATTENTION, text_targets: str = ""
) -> Tuning:
    """DoRA: m (W + alpha / r B A) / |W + alpha / r B A|, with a magnitude m for each output, |W| at the start.

    Args:
        base, rank, alpha, targets, text_targets: the model, the rank r, alpha, and the patterns of layers, as in
            `lora`, whose errors it also raises.

    Reference: Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", eq. 5.
    """
    return _blank(base, rank, alpha, targets, text_targets, magnitudes=True)


def loha(
    base: Any, rank: int = 8, alpha: float | None = None, targets: str = ATTENTION, text_targets: str = ""
) -> Tuning:
    """LoHa: W + alpha / r (B A) * (B' A'), an elementwise product of rank at most r^2; B' is zero at the start.

    Args:
        base, rank, alpha, targets, text_targets: the model, the rank r, alpha, and the patterns of layers, as in
            `lora`, whose errors it also raises.

    Reference: Hyeon-Woo et al. 2022, "FedPara"; Yeh et al. 2023, "Navigating Text-To-Image Customization".
    """
    return _blank(base, rank, alpha, targets, text_targets, pairs=2)


def lokr(
    base: Any,
    rank: int = 8,
    alpha: float | None = None,
    factor: int = -1,
    targets: str = ATTENTION,
    text_targets: str = "",
) -> Tuning:
    """LoKr: W + alpha / r kron(w1, w2), where w1 is zero at the start.

    w2 [c, d] is a product of two factors of rank r if r < max(c, d) / 2.

    Args:
        base, rank, alpha, targets, text_targets: the model, the rank r, alpha, and the patterns of the layers of the
            denoiser and of the text encoders, as in `lora`. Where w2 is not factored, the scale is 1.
        factor: bound of the sides of w1. The largest divisor of a layer's side up to this bound gives a side of w1, or
            the side of w2 if it is larger than its cofactor. -1 for the square root of the layer's side.

    Raises:
        ValueError: as in `lora`, or for a factor that is 0 or below -1.

    Reference: Yeh et al. 2023, "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation".
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}. Valid: at least 1")
    _check_alpha(alpha)
    if factor < 1 and factor != -1:
        raise ValueError(f"factor = {factor}. Valid: at least 1, or -1")
    chosen = _chosen(base, targets, text_targets)
    shapes = {part: lora_files.shapes(base.modules[part], pattern) for part, pattern in chosen.items()}
    alpha = float(rank if alpha is None else alpha)

    def init(key: Array, params: Params) -> dict[str, Any]:
        def layer(name: str, theirs: tuple[int, ...]) -> dict[str, Array]:
            keys = jax.random.split(jax.random.fold_in(key, zlib.crc32(name.encode())))
            (a, c), (b, d) = _split(theirs[0], factor), _split(theirs[1], factor)
            inputs = (d, *theirs[2:])
            uniform = lambda key, *shape: jax.random.uniform(
                key, shape, jnp.float32, -1 / np.sqrt(np.prod(shape[1:])), 1 / np.sqrt(np.prod(shape[1:]))
            )
            small = {"lokr_w1": jnp.zeros((a, b), jnp.float32)}
            if rank >= max(c, d) / 2:
                return small | {"lokr_w2": uniform(keys[0], c, *inputs)}
            return small | {"lokr_w2_a": uniform(keys[0], c, rank), "lokr_w2_b": uniform(keys[1], rank, *inputs)}

        return {part: {name: layer(name, theirs) for name, theirs in ones.items()} for part, ones in shapes.items()}

    def adapters(weights: Any) -> dict[str, Lora]:
        loras = {}
        for part, layers in weights.items():
            is_whole = lambda tensors: "lokr_w2" in tensors
            ones = [
                lora_files.build_adapter(base.modules[part], chosen, scale)
                for scale, chosen in (
                    (1.0, {name: tensors for name, tensors in layers.items() if is_whole(tensors)}),
                    (alpha / rank, {name: tensors for name, tensors in layers.items() if not is_whole(tensors)}),
                )
                if chosen
            ]
            scales = {place: scale for one in ones for place, scale in one.scale.items()}
            places = {place: parts for one in ones for place, parts in factors.places_of(one.adapter).items()}
            loras[part] = Lora(nested(places), scales)
        return loras

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        def tensors(layer: Mapping[str, Any]) -> dict[str, Any]:
            """The tensors of a layer; the factor of a convolution is [r, in H W], as in LyCORIS and peft."""
            flat = {part: np.reshape(layer[part], (rank, -1)) for part in ("lokr_w2_b",) if part in layer}
            return {**layer, **flat, "alpha": np.float32(alpha)}

        named = {part: {name: tensors(ones) for name, ones in layers.items()} for part, layers in weights.items()}
        lora_files.save_layers(folder / LYCORIS, named, {part: base.modules[part] for part in named}, metadata)
        return [folder / LYCORIS]

    return tuning_of_adapters(base, tuple(shapes), init, adapters, write)


def _check_alpha(alpha: float | None) -> None:
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha = {alpha}. Valid: above 0, or None for the rank")


def _chosen(base: Any, targets: str, text_targets: str) -> dict[str, str]:
    """The pattern of each network that has adapters, the denoiser first."""
    encoders = dict.fromkeys(word_embeddings.encoders_of(base), text_targets) if text_targets else {}
    return {base.kind.denoiser.folder: targets} | encoders


def _split(size: int, factor: int) -> tuple[int, int]:
    """(m, n) with m n = size and m <= n; one is the largest divisor up to the factor, or to the root if it is -1."""
    most = factor if factor > 0 else int(np.sqrt(size))
    m = max(m for m in range(1, min(most, size) + 1) if size % m == 0)
    return min(m, size // m), max(m, size // m)


def _blank(
    base: Any, rank: int, alpha: float | None, targets: str, text_targets: str, pairs: int = 1, magnitudes: bool = False
) -> Tuning:
    """The tuning whose weights are the adapters themselves."""
    _check_alpha(alpha)
    blank = {
        part: lora_files.blank(base.modules[part], pattern, rank, pairs, magnitudes)
        for part, pattern in _chosen(base, targets, text_targets).items()
    }
    scale = (rank if alpha is None else alpha) / rank
    file, layout = (LYCORIS, "kohya") if pairs > 1 else (FILE, "peft")

    def init(key: Array, params: Params) -> dict[str, Any]:
        part_key = lambda part: jax.random.fold_in(key, zlib.crc32(part.encode()))
        return {part: factors.started(part_key(part), params[part], zeros) for part, zeros in blank.items()}

    def adapters(weights: Any) -> dict[str, Lora]:
        return {part: Lora(one, dict.fromkeys(factors.places_of(one), scale)) for part, one in weights.items()}

    def write(folder: pathlib.Path, weights: Any, metadata: Mapping[str, str]) -> list[pathlib.Path]:
        loras = adapters(jax.tree.map(np.asarray, weights))
        lora_files.save(folder / file, loras, {part: base.modules[part] for part in blank}, layout, metadata)
        return [folder / file]

    for part, one in adapters(blank).items():  # refused before the training, not when its result is written
        lora_files.require_writable(base.modules[part], one, layout)
    return tuning_of_adapters(base, tuple(blank), init, adapters, write)


def tuning_of_adapters(base: Any, parts: tuple[str, ...], init: Any, adapters: Any, write: Any) -> Tuning:
    """The tuning of weights that become adapters, see `adapters.lora`, of some networks.

    Args:
        base: the model.
        parts: names of its networks that have adapters, the denoiser first.
        init, write: the functions of the same names in `Tuning`.
        adapters: weights -> {name of a network: `lora_files.Lora`}, a pure function.
    """
    denoiser, *encoders = parts

    def merged(params: Params, weights: Any) -> dict[str, Any]:
        loras = adapters(weights)
        wide = lambda part, one: factors.changeable(params[part], one.adapter, base.dtype_of(part))
        merged_part = lambda part, one: factors.merge(wide(part, one), one.adapter, one.scale)
        return {**params} | {part: merged_part(part, one) for part, one in loras.items()}

    def apply(params: Params, weights: Any, x: Array, clock: Array, condition: Mapping[str, Array]) -> Array:
        params = merged(jax.lax.stop_gradient(dict(params)), weights)
        if encoders:
            condition = base.with_text(params, condition)
        return base.denoiser.apply({"params": params[denoiser]}, x, clock, condition)

    def attach(model: Any, weights: Any) -> Any:
        changed = jax.jit(merged)({part: model.params[part] for part in parts}, weights)
        return model.replaced(params={**model.params, **changed})

    networks = (denoiser, *base.readers) if encoders else (denoiser,)
    return Tuning(base, init, apply, write, attach, networks, encodes=bool(encoders))


public.declare(__name__, renamed={"of_adapters": "tuning_of_adapters"})
