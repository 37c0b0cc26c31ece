"""LoRA files as people share them, in every known spelling: into adapters of our networks, and back.

    loras = lora_files.load("style.safetensors", {"unet": unet, "text_encoder": text_encoder})
    merged = lora.merge(params, loras["unet"].adapter, loras["unet"].scale)

A file names a layer of the network as its own library does; the tables of `diffusion.models.interchange` map that
layer's weight to a part of a parameter of ours. The names in a file, for the layer down_blocks.0.proj_in:

    peft          unet.down_blocks.0.proj_in.lora_A.weight, .lora_B.weight; older .lora.down.weight, .lora.up.weight
    kohya         lora_unet_down_blocks_0_proj_in.lora_down.weight, .lora_up.weight, .alpha
    ComfyUI       diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight, or as kohya, or without the prefix
    processors    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight
    XLabs         double_blocks.0.processor.qkv_lora1.down.weight

A is down, B is up, and the update is alpha / r B A; without an alpha in the file, alpha = r. `load` also reads the
names of the original repositories' layers (input_blocks_1_1_..) where the tables have them. In any of these spellings
the ends of the names mark DoRA, LoHa and LoKr (`lora_kinds`), and changes of a whole tensor, of a layer or a norm:

    diff, w_norm       added to the weight, whatever alpha is (LyCORIS, distilled Wan)
    diff_b, b_norm     added to the bias
    diff_m             added to the table of shifts and scales (modulation) of a layer of Wan
    lora_B.bias        added to the bias, times alpha / r
    weight, scale      of a norm: its values themselves, in place of the base's (FLUX's control LoRAs)

`save` writes LoRA, DoRA and LoHa; `save_layers` writes tensors that already have the form of a file, such as a LoKr's.
"""

__all__ = ["Lora", "blank", "build_adapter", "load", "require_writable", "save", "save_layers", "shapes"]

import collections
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from diffusion.adapters import custom_diffusion_files, lora, lora_kinds, lora_names
from diffusion.adapters.lora_layers import Part, Place, changed_parts, layers_of, parts_of, stacked, tensors_of
from diffusion.adapters.lora_updates import Update, their_layers
from diffusion.io import safetensors_files
from diffusion.models.interchange import families, tensor_files
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.layers.choices import look_up
from diffusion.package import public

LAYOUTS = ("peft", "kohya")


class Lora(NamedTuple):
    """The adapter of one network, and alpha / r of each of its kernels, for `lora.merge`.

    Attributes:
        adapter: nested like the parameters.
        scale: a number for each kernel, or part of one.
    """

    adapter: dict[str, Any]
    scale: dict[str, float]

    def weighted(self, weight: float) -> dict[str, float]:
        """The scales times the weight of the adapter."""
        return {place: weight * scale for place, scale in self.scale.items()}


def load(path: str | pathlib.Path, modules: Mapping[str, nn.Module]) -> dict[str, Lora]:
    """Reads a LoRA file.

    Args:
        path: a .safetensors file, or a folder with one, as diffusers' `save_lora_weights` or peft's `save_pretrained`
            write it.
        modules: our networks by the names that diffusers' pipelines give them: "unet" or "transformer",
            "text_encoder", "text_encoder_2", ..

    Returns:
        A `Lora` for each network that the file changes, float32. Layers of a scan are stacked where the file has all of
        them with one rank and one alpha. A DoRA's scale counts inside its norm, as in peft.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        Mismatch: for a folder with several files, a tensor that names nothing in these networks, one factor of two, a
            network's layers in two spellings, or shapes that do not fit; the message names them.
        limits.Refused: for a file that is damaged or hostile.
    """
    tensors = tensor_files.open_only(path)
    denoiser = next((component for component in lora_names.DENOISER if component in modules), "")
    if denoiser and custom_diffusion_files.recognised(tensors.shapes):
        return {denoiser: Lora(*custom_diffusion_files.load(tensors, modules[denoiser]))}
    tables = {component: layers_of(module) for component, module in modules.items()}
    tensor_tables = {component: tensors_of(module) for component, module in modules.items()}
    known = ", ".join(f"{component} ({type(module).__name__})" for component, module in modules.items())
    if not tensors.shapes:
        raise Mismatch(f"{tensors.path} holds no LoRA: it has no tensors.")
    all_layers = {part: {name.rpartition(".")[0] for name in table} for part, table in tensor_tables.items()}
    number = sum(map(len, all_layers.values()))
    if len(tensors.shapes) > number * len(lora_names.PARTS):  # before the names, each of which takes a while
        raise Mismatch(
            f"{tensors.path} is not a LoRA of {known}: it has {len(tensors.shapes):,} tensors, and {number:,} layers "
            f"have at most {number * len(lora_names.PARTS):,}."
        )
    names = {component: lora_names.spelled(table) for component, table in all_layers.items()}
    layers: dict[tuple[str, str], dict[str, str]] = {}
    unknown = []
    for name in tensors.shapes:
        component, layer, part = lora_names.parsed(name, names) or ("", "", "")
        if _is_known(layer, part, tables.get(component, {}), tensor_tables.get(component, {})):
            factors = layers.setdefault((component, layer), {})
            if part in factors:
                raise Mismatch(
                    f"{tensors.path}: {name} and {factors[part]} are the same factor of the same layer in two "
                    "spellings; leave one of them out."
                )
            factors[part] = name
        else:
            unknown.append(name)
    if unknown:
        raise Mismatch(
            f"{tensors.path}: {len(unknown)} of its {len(tensors.shapes)} tensors do not belong to a LoRA of {known}: "
            f"{', '.join(unknown[:5])}{', ..' if len(unknown) > 5 else '.'}"
        )
    configs = lora_names.configs(tensors, sorted({component for component, _ in layers}))
    parts: dict[str, list[tuple[str, Part]]] = {}
    for (component, layer), factors in layers.items():
        what = f"{tensors.path}: {layer} of {component}"
        arrays = {part: tensors.read(name).astype(np.float32) for part, name in factors.items()}
        mine = parts.setdefault(component, [])
        scale = 1.0
        if arrays.keys() - lora_names.TENSORS.keys() - {"alpha"} or arrays.keys() <= {"alpha", "up_bias"}:
            places = tables[component].get(layer, ())
            config = configs.get(component)
            factored, scale = _factored(arrays, places, config, layer, what, factors)
            mine += [(next(iter(factors.values())), part) for part in factored]
        for part, name in factors.items():
            if part in lora_names.TENSORS:
                places = tensor_tables[component][lora_names.tensor_of(layer, part)]
                times = scale if part == "up_bias" else 1.0
                kind = "whole" if part.startswith("whole") else "difference"
                changed = changed_parts(places, kind, arrays[part], times, f"{tensors.path}: {name}")
                mine += [(name, one) for one in changed]
    for component, factors in parts.items():
        _check_once(factors, f"{tensors.path}: {component}")
    return {component: Lora(*stacked([part for _, part in factors])) for component, factors in parts.items()}


def blank(module: nn.Module, pattern: str, rank: int, pairs: int = 1, magnitudes: bool = False) -> dict[str, Any]:
    """An adapter of zeros for the layers of a network that a pattern finds; each has its own factors, as in files.

    Args:
        module: the network.
        pattern: regular expression, searched in the layers' names in the network's own library.
        rank: the rank r, from 1 to the rank of the smallest layer; a file with a larger rank is refused.
        pairs: number of pairs of factors: 1, or 2 for a LoHa.
        magnitudes: whether the adapter has the magnitudes of a DoRA.

    Raises:
        ValueError: for a rank out of this range, and as in `shapes`.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}. Valid: at least 1")
    table = layers_of(module, (families.family_of(module).first_layout,))
    parts: list[Part] = []
    for layer, theirs in shapes(module, pattern).items():
        if rank > (most := lora_kinds.largest_rank(theirs)):
            raise ValueError(f"rank = {rank}, but {layer} has the weight {list(theirs)}. Valid: at most {most}")
        out, *inputs = theirs
        pair = np.zeros((rank, *inputs), np.float32), np.zeros((out, rank), np.float32)
        magnitude = ("outputs", np.zeros(out, np.float32)) if magnitudes else None
        parts += parts_of(table[layer], [pair] * pairs, magnitude, 1.0, layer)
    return stacked(parts)[0]


def shapes(module: nn.Module, pattern: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes [out, in, ..] of the layers that a pattern finds, by their names in the network's own library.

    Raises:
        ValueError: for a pattern that is no regular expression, or finds no layer.
    """
    family = families.family_of(module)
    table = layers_of(module, (family.first_layout,))
    try:
        chosen = {layer: places for layer, places in table.items() if re.search(pattern, layer)}
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    if not chosen:
        raise ValueError(
            f"the pattern {pattern!r} matches none of the {len(table)} layers of {family.name}. Valid: part of a name "
            f"such as {', '.join(list(table)[:: max(len(table) // 4, 1)][:4])}"
        )
    return {layer: places[0].theirs for layer, places in chosen.items()}


def build_adapter(module: nn.Module, layers: Mapping[str, Mapping[str, Any]], scale: float) -> Lora:
    """Builds the adapter from tensors in a file's form, by a pure function of arrays, so that these can be trained.

    Args:
        module: the network.
        layers: {layer: {part: array}}, with the names of parts in `lora_names.ENDS`.
        scale: the scale of all updates.
    """
    table = layers_of(module, (families.family_of(module).first_layout,))
    parts: list[Part] = []
    for layer, tensors in layers.items():
        update = lora_kinds.update(tensors, table[layer][0].theirs, layer)
        parts += parts_of(table[layer], update.pairs, None, scale, layer)
    return Lora(*stacked(parts))


def save_layers(
    path: str | pathlib.Path,
    layers: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    modules: Mapping[str, nn.Module],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes tensors in the form of a file, as LyCORIS and kohya's programs name them.

    Args:
        path: the .safetensors file.
        layers: {network: {layer: {part: array}}}, with "alpha".
        modules: our networks by the same names.
        metadata: texts that the file carries beside, by their names.
    """
    tensors = {}
    for component, named in layers.items():
        prefix = lora_names.prefix_of(component, modules, False)
        for layer, parts in named.items():
            name = prefix + lora_names.shown(component, layer).replace(".", "_")
            tensors |= {f"{name}.{part}": np.asarray(array, np.float32) for part, array in parts.items()}
    safetensors_files.save(path, tensors, metadata)


def save(
    path: str | pathlib.Path,
    loras: Mapping[str, Lora],
    modules: Mapping[str, nn.Module],
    layout: str = "peft",
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes adapters as one file, with the layers' names of the networks' own library.

    Args:
        path: the .safetensors file; diffusers looks for "pytorch_lora_weights.safetensors" in a folder.
        loras: {network: adapter with scale}, as `load` returns them, or `Lora(adapter, scale)` of a trained adapter.
        modules: our networks by the same names.
        layout: "peft" or "kohya".
        metadata: texts that the file carries beside, by their names.

    Raises:
        ValueError: for a part of a parameter that is no layer of their library, or an update that the layout has no
            names for.
    """
    look_up(dict.fromkeys(LAYOUTS), layout, "layout")
    tensors: dict[str, np.ndarray] = {}
    peft_config: dict[str, Any] = {}
    for component, one in loras.items():
        layers, original = _in_layout(modules[component], one, layout)
        ranks = {layer: len(update.pairs[0][0]) for layer, update in layers.items()}
        alphas = {layer: update.scale * ranks[layer] for layer, update in layers.items()}
        prefix = lora_names.prefix_of(component, modules, original)
        for layer, update in layers.items():
            shown = lora_names.shown(component, layer)
            if layout == "kohya":
                name = prefix + shown.replace(".", "_")
                named = _kohya(update) | {"alpha": np.asarray(alphas[layer], np.float32)}
            else:
                name = f"{component}.{shown}"
                named = _peft(update, layer)
                # As transformers 5 reads it.
                if component.startswith("text_encoder") and "lora_magnitude_vector" in named:
                    named["lora_magnitude_vector.weight"] = named.pop("lora_magnitude_vector")
            tensors |= {f"{name}.{part}": array for part, array in named.items()}
        # peft matches the end of a name, which a layer of CLIP has with and without its prefix.
        ranks, alphas = (
            {layer.removeprefix(lora_names.CLIP): value for layer, value in values.items()}
            for values in (ranks, alphas)
        )
        rank = _usual(ranks)
        alpha = _usual(alphas)
        config = {
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": sorted(ranks),
            "rank_pattern": _others(ranks, rank),
            "alpha_pattern": _others(alphas, alpha),
        }
        if _has_magnitudes(layers):
            config["use_dora"] = True
        peft_config |= {f"{component}.{field}": value for field, value in config.items()}
    how = {lora_names.METADATA: json.dumps(peft_config)} if layout == "peft" else {}
    safetensors_files.save(path, tensors, {**metadata, **how})


def require_writable(module: nn.Module, one: Lora, layout: str = "peft") -> None:
    """Refuses an adapter that `save` cannot write, whatever its numbers.

    Raises:
        ValueError: as `save`.
    """
    layers, _ = _in_layout(module, one, layout)
    if layout == "peft":
        for layer, update in layers.items():
            _peft(update, layer)
        _has_magnitudes(layers)


def _in_layout(module: nn.Module, one: Lora, layout: str) -> tuple[dict[str, "Update"], bool]:
    """An adapter by the layers of their library, and whether these have the names of the original repository."""
    family = families.family_of(module)
    original = layout == "kohya" and family.kohya in family.tables
    names = family.kohya if original else family.first_layout
    return their_layers(module, one.adapter, one.scale, names), original


def _factored(
    arrays: dict[str, np.ndarray],
    places: Sequence[Place],
    config: Mapping[str, Any] | None,
    layer: str,
    what: str,
    names: Mapping[str, str],
) -> tuple[list[Part], float]:
    """A layer's update by factors as parts of our leaves, and its scale.

    Args:
        arrays: the layer's tensors by their parts; those of `lora_names.TENSORS` are left out, but for "up_bias".
        places: the parts that the layer's weight is.
        config: peft's.
        layer: its name.
        what: the file and the layer, for messages.
        names: the tensors' names by their parts.
    """
    arrays = {part: array for part, array in arrays.items() if part == "up_bias" or part not in lora_names.TENSORS}
    theirs = places[0].theirs if places else ()
    if "first_up" in arrays:
        arrays["up"] = lora_kinds.first_rows(arrays.pop("first_up"), theirs, what)
    update = lora_kinds.update(arrays, theirs, what)
    scale = lora_names.scale(arrays, update.rank, config, layer, what)
    named = names.get("magnitude") or names.get("dora_scale")
    magnitude = lora_kinds.magnitude(arrays, theirs, f"{what.partition(': ')[0]}: {named}")
    return parts_of(places, update.pairs, magnitude, scale, what), scale


def _is_known(layer: str, part: str, layers: Mapping[str, Any], tensors: Mapping[str, Sequence[Place]]) -> bool:
    """Whether a network has what a part of a layer updates."""
    tensor = lora_names.tensor_of(layer, part)
    if part.startswith("whole"):  # a matrix as a whole is no adapter
        return tensor in tensors and len(tensors[tensor][0].theirs) == 1
    return tensor in tensors if tensor else layer in layers


def _check_once(parts: Sequence[tuple[str, Part]], what: str) -> None:
    """Refuses parts that two layers share, such as a fused layer in one spelling and a part of it in another.

    Args:
        parts: pairs (name of a tensor of the part's layer, part).
        what: the file and the network, for the message.
    """
    axes: dict[str, int] = {}
    for _, part in parts:
        axes[part.path] = max(axes.get(part.path, 0), len(part.at))
    covered = {part.path: np.zeros(part.leaf[: axes[part.path]], bool) for _, part in parts}
    for name, part in parts:
        if covered[part.path][part.at].any():
            raise Mismatch(
                f"{what} has {lora.written(part.path, part.at)} twice, because its layers are named in two spellings; "
                f"the second one begins with {name}. Leave one spelling out."
            )
        covered[part.path][part.at] = True


def _kohya(update: Update) -> dict[str, np.ndarray]:
    """The tensors of a layer without its alpha, by the ends of their names in kohya's layout and LyCORIS'."""
    (down, up), *second = update.pairs
    named = {"lora_down.weight": down, "lora_up.weight": up}
    if second:
        ((down_2, up_2),) = second
        flat = lambda array: array.reshape(len(array), -1)
        named = {"hada_w1_a": flat(up), "hada_w1_b": flat(down), "hada_w2_a": flat(up_2), "hada_w2_b": flat(down_2)}
    if update.magnitude is not None:
        named["dora_scale"] = update.magnitude.reshape(-1, *[1] * (down.ndim - 1))
    return named


def _peft(update: Update, layer: str) -> dict[str, np.ndarray]:
    """The tensors of an update in peft's layout."""
    (down, up), *second = update.pairs
    if second:
        raise ValueError(f'{layer} has a LoHa or LoKr update, which diffusers does not read. Valid: layout = "kohya"')
    named = {"lora_A.weight": down, "lora_B.weight": up}
    if update.magnitude is not None:  # a convolution has [1, out, 1, 1]
        shape = (1, -1, *[1] * (down.ndim - 2)) if down.ndim > 2 else (-1,)
        named["lora_magnitude_vector"] = update.magnitude.reshape(shape)
    return named


def _has_magnitudes(layers: Mapping[str, Update]) -> bool:
    """Whether an adapter in peft's layout is a DoRA, which peft's config says of all layers at once."""
    has = {layer: update.magnitude is not None for layer, update in layers.items()}
    if len(set(has.values())) > 1:
        with_one, without = (next(layer for layer in has if has[layer] == value) for value in (True, False))
        raise ValueError(
            f"{with_one} has a magnitude (DoRA) and {without} has none; peft's config cannot say so. Valid: layout = "
            '"kohya"'
        )
    return any(has.values())


def _usual(alphas: Mapping[str, float]) -> float:
    """The value that most layers have."""
    return collections.Counter(alphas.values()).most_common(1)[0][0]


def _others(alphas: Mapping[str, float], usual: float) -> dict[str, float]:
    """The layers that have another."""
    return {layer: value for layer, value in alphas.items() if value != usual}


public.declare(__name__, renamed={"of_layers": "build_adapter"})
