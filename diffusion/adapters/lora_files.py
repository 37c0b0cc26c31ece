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
the ends of the names mark DoRA, LoHa and LoKr (`lora_kinds`). `save` writes LoRA, DoRA and LoHa; `save_layers` what has
the form of a file already, such as a LoKr that was trained so.
"""

__all__ = ["Lora", "blank", "load", "of_layers", "require_writable", "save", "save_layers", "shapes"]

import collections
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as serialized

from diffusion.adapters import lora, lora_kinds, lora_names
from diffusion.adapters.separation import Separation, separation
from diffusion.io import files
from diffusion.models.interchange import families, folders, rows, tensor_files
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.layers.choices import look_up

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
        Mismatch: for a tensor that names nothing in these networks, one factor of two, a network's layers in two
            spellings, or shapes that do not fit; the message names them.
        limits.Refused: for a file that is damaged or hostile.
    """
    tensors = tensor_files.open_tensors(path)
    tables = {component: _layers(module) for component, module in modules.items()}
    names = {component: lora_names.underscored(table) for component, table in tables.items()}
    layers: dict[tuple[str, str], dict[str, str]] = {}
    unknown = []
    for name in tensors.shapes:
        component, layer, part = lora_names.parsed(name, names) or ("", "", "")
        if layer:
            found = layers.setdefault((component, layer), {})
            if part in found:
                raise Mismatch(
                    f"{tensors.path}: {name} and {found[part]} are one factor of one layer in two "
                    "spellings; leave one of them out."
                )
            found[part] = name
        else:
            unknown.append(name)
    if unknown:
        known = ", ".join(f"{component} ({type(module).__name__})" for component, module in modules.items())
        raise Mismatch(
            f"{tensors.path}: {len(unknown)} of its {len(tensors.shapes)} tensors are no LoRA of {known}: "
            f"{', '.join(unknown[:5])}{', ..' if len(unknown) > 5 else '.'}"
        )
    configs = lora_names.configs(tensors, sorted({component for component, _ in layers}))
    parts: dict[str, list[tuple[str, _Part]]] = {}
    for (component, layer), found in layers.items():
        what = f"{tensors.path}: {layer} of {component}"
        places = tables[component][layer]
        arrays = {part: tensors.read(name).astype(np.float32) for part, name in found.items()}
        if "first_up" in arrays:
            arrays["up"] = lora_kinds.first_rows(arrays.pop("first_up"), places[0].theirs, what)
        update = lora_kinds.update(arrays, places[0].theirs, what)
        scale = lora_names.scale(arrays, update.rank, configs.get(component), layer, what)
        named = found.get("magnitude") or found.get("dora_scale")
        magnitude = lora_kinds.magnitude(arrays, places[0].theirs, f"{tensors.path}: {named}")
        first = next(iter(found.values()))
        mine = _parts(places, update.pairs, magnitude, scale, what)
        parts.setdefault(component, []).extend((first, part) for part in mine)
    for component, found in parts.items():
        _check_once(found, f"{tensors.path}: {component}")
    return {component: _stacked([part for _, part in found]) for component, found in parts.items()}


def blank(module: nn.Module, pattern: str, rank: int, pairs: int = 1, magnitudes: bool = False) -> dict[str, Any]:
    """An adapter of zeros for the layers of a network that a pattern finds; each has factors of its own, as in files.

    Args:
        module: of the network.
        pattern: regular expression, searched in the layers' names in the network's own library.
        rank: r, at least 1.
        pairs: of factors: 1, or 2 of a LoHa.
        magnitudes: whether it has those of a DoRA.

    Raises:
        ValueError: for a rank below 1, and as `shapes`.
    """
    if rank < 1:
        raise ValueError(f"rank = {rank}. Valid: at least 1")
    table = _layers(module, (next(iter(families.of(module).tables)),))
    parts: list[_Part] = []
    for layer, (out, *inputs) in shapes(module, pattern).items():
        pair = np.zeros((rank, *inputs), np.float32), np.zeros((out, rank), np.float32)
        magnitude = ("outputs", np.zeros(out, np.float32)) if magnitudes else None
        parts += _parts(table[layer], [pair] * pairs, magnitude, 1.0, layer)
    return _stacked(parts).adapter


def shapes(module: nn.Module, pattern: str = "") -> dict[str, tuple[int, ...]]:
    """The weights [out, in, ..] of a network's layers by their names in its own library, of those that a pattern finds.

    Raises:
        ValueError: for a pattern that is no regular expression, or finds no layer.
    """
    family = families.of(module)
    table = _layers(module, (next(iter(family.tables)),))
    try:
        chosen = {layer: places for layer, places in table.items() if re.search(pattern, layer)}
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
    if not chosen:
        raise ValueError(
            f"the pattern {pattern!r} finds none of the {len(table)} layers of {family.name}. Valid: part of a name "
            f"such as {', '.join(list(table)[:: max(len(table) // 4, 1)][:4])}"
        )
    return {layer: places[0].theirs for layer, places in chosen.items()}


def of_layers(module: nn.Module, layers: Mapping[str, Mapping[str, Any]], scale: float) -> Lora:
    """The adapter of tensors in the form of a file: a pure function of arrays, so that these can be trained.

    Args:
        module: of the network.
        layers: {layer: {part: array}}, the parts by the names of `lora_names.ENDS`.
        scale: of all updates.
    """
    table = _layers(module, (next(iter(families.of(module).tables)),))
    parts: list[_Part] = []
    for layer, tensors in layers.items():
        update = lora_kinds.update(tensors, table[layer][0].theirs, layer)
        parts += _parts(table[layer], update.pairs, None, scale, layer)
    return _stacked(parts)


def save_layers(
    path: str | pathlib.Path,
    layers: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    modules: Mapping[str, nn.Module],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes tensors in the form of a file, as LyCORIS and kohya's programs name them.

    Args:
        path: of the .safetensors file.
        layers: {network: {layer: {part: array}}}, with "alpha".
        modules: our networks by the same names.
        metadata: texts that the file carries beside, by their names.
    """
    tensors = {}
    for component, named in layers.items():
        prefix = lora_names.prefix_of(component, modules, False)
        for layer, parts in named.items():
            name = prefix + lora_names.shown(component, layer).replace(".", "_")
            tensors |= {f"{name}.{part}": np.array(array, np.float32, order="C") for part, array in parts.items()}
    with files.whole(pathlib.Path(path).expanduser()) as file:
        file.write(serialized(tensors, metadata={**metadata, "format": "pt"}))


def save(
    path: str | pathlib.Path,
    loras: Mapping[str, Lora],
    modules: Mapping[str, nn.Module],
    layout: str = "peft",
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes adapters as one file, with the layers' names of the networks' own library.

    Args:
        path: of the .safetensors file; diffusers looks for "pytorch_lora_weights.safetensors" in a folder.
        loras: by network, from `load`, or `Lora(adapter, scale)` of one that was trained.
        modules: our networks by the same names.
        layout: "peft" or "kohya".
        metadata: texts that the file carries beside, by their names.

    Raises:
        ValueError: for a part of a parameter that is not a layer of theirs, or an update that the layout has no names
            for; names it.
    """
    look_up(dict.fromkeys(LAYOUTS), layout, "layout")
    tensors: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
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
                if (
                    component.startswith("text_encoder") and "lora_magnitude_vector" in named
                ):  # as transformers 5 reads it
                    named["lora_magnitude_vector.weight"] = named.pop("lora_magnitude_vector")
            tensors |= {f"{name}.{part}": array for part, array in named.items()}
        # peft matches the end of a name, which a layer of CLIP has with and without its prefix.
        ranks, alphas = (
            {layer.removeprefix(lora_names.CLIP): value for layer, value in found.items()} for found in (ranks, alphas)
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
        if any(update.magnitude is not None for update in layers.values()):
            config["use_dora"] = True
        about |= {f"{component}.{field}": value for field, value in config.items()}
    how = {lora_names.METADATA: json.dumps(about)} if layout == "peft" else {}
    tensors = {name: np.array(array, order="C") for name, array in tensors.items()}
    with files.whole(pathlib.Path(path).expanduser()) as file:
        file.write(serialized(tensors, metadata={**metadata, "format": "pt", **how}))


def require_writable(module: nn.Module, one: Lora, layout: str = "peft") -> None:
    """Refuses an adapter that `save` cannot write, whatever its numbers.

    Raises:
        ValueError: as `save`.
    """
    for layer, update in _in_layout(module, one, layout)[0].items():
        if layout == "peft":
            _peft(update, layer)


def _in_layout(module: nn.Module, one: Lora, layout: str) -> tuple[dict[str, "_Update"], bool]:
    """An adapter by their layers, and whether these have the names of the original repository."""
    family = families.of(module)
    original = layout == "kohya" and family.kohya in family.tables
    return _their_layers(module, one, family.kohya if original else next(iter(family.tables))), original


class _Place(NamedTuple):
    """The part of our parameters that a layer's weight, or some rows of it, is."""

    row: Row
    theirs: tuple[int, ...]  # shape of the whole weight
    leaf: tuple[int, ...]  # shape of our leaf

    def how(self) -> Separation | None:
        rows_of_it = self.theirs[0] if self.row.rows is None else self.row.rows[1] - self.row.rows[0]
        ours = rows.part_shape(self.leaf, self.row.at)
        return separation(self.row.layout, (rows_of_it, *self.theirs[1:]), ours)


class _Part(NamedTuple):
    """Our factors, and the part of a leaf that they update."""

    path: str
    at: tuple
    leaf: tuple[int, ...]
    factors: dict[str, np.ndarray]
    scale: float


@functools.lru_cache(maxsize=16)
def _layers(module: nn.Module, layouts: tuple[str, ...] = ()) -> dict[str, list[_Place]]:
    """The layers of a network that have a matrix, by their names; in these layouts, or in all of them."""
    of_class = lambda known: [family for family in known if type(module) is family.module]
    # Flux and Chroma are of one class; what neither can write has the layers of both.
    own = of_class(families.describing(module)) or of_class(families.FAMILIES.values())
    found: dict[str, list[_Place]] = {}
    leaves = folders.leaves_of(folders.shapes_of(own[0], module)) if own else {}
    for family in own:
        for layout, table in family.tables.items():
            if layouts and layout not in layouts:
                continue
            weights = [row for row in table(module) if row.theirs.endswith(".weight")]
            shapes = rows.their_shapes(weights, leaves)
            places: dict[str, list[_Place]] = {}
            for row in weights:
                for name in (row.theirs, *row.copies) if len(shapes[row.theirs]) >= 2 else ():
                    place = _Place(row, shapes[row.theirs], leaves[row.ours].shape)
                    places.setdefault(name.removesuffix(".weight"), []).append(place)
            found = places | found
    return found


def _parts(
    places: Sequence[_Place],
    pairs: Sequence[lora_kinds.Pair],
    magnitude: tuple[str, np.ndarray] | None,
    scale: float,
    what: str,
) -> list[_Part]:
    """A [r, in, ..] and B [out, r, ..] of one of their layers, and its magnitudes, as parts of our leaves."""
    found = []
    for place in places:
        how = place.how()
        if how is None:
            raise Mismatch(
                f"{what}: our {place.row.ours} separates inputs and outputs in another way; a LoRA of this "
                "layer is not supported."
            )
        rows_of_it = slice(*place.row.rows) if place.row.rows else slice(None)
        factors: dict[str, np.ndarray] = {}
        for names, (down, up) in zip((("down", "up"), ("down_2", "up_2")), pairs):
            factors |= zip(names, how.to_ours(down, up[rows_of_it]))
        if magnitude and magnitude[0] == "outputs":
            factors["magnitude"] = how.outputs_to_ours(magnitude[1][rows_of_it])
        elif magnitude:
            ours = how.inputs_to_ours(magnitude[1], place.theirs)
            if ours is None or place.row.rows:
                raise Mismatch(
                    f"{what}: its magnitudes are norms over outputs, [1, in, ..], which our "
                    f"{place.row.ours} splits; such a DoRA of this layer is not supported."
                )
            factors["input_magnitude"] = ours
        found.append(_Part(place.row.ours, place.row.at, place.leaf, factors, scale))
    return found


def _check_once(parts: Sequence[tuple[str, _Part]], what: str) -> None:
    """Refuses parts that two layers share, such as a fused layer in one spelling and a part of it in another.

    Args:
        parts: each with the name of a tensor of its layer.
        what: the file and the network, for the message.
    """
    axes: dict[str, int] = {}
    for _, part in parts:
        axes[part.path] = max(axes.get(part.path, 0), len(part.at))
    seen = {part.path: np.zeros(part.leaf[: axes[part.path]], bool) for _, part in parts}
    for name, part in parts:
        if seen[part.path][part.at].any():
            raise Mismatch(
                f"{what} has {lora.written(part.path, part.at)} twice, by two spellings of its layers; the "
                f"first tensor of the second is {name}. Leave one spelling out."
            )
        seen[part.path][part.at] = True


def _stacked(parts: Sequence[_Part]) -> Lora:
    """The adapter of these parts, with all layers of a scan as one where the parts hold each of them."""
    groups: dict[tuple, list[_Part]] = {}
    for part in parts:
        layer = bool(part.at) and isinstance(part.at[0], int)  # the first axis of a kernel's inputs is never indexed so
        shapes = tuple((name, array.shape) for name, array in part.factors.items())
        alike = (part.path, layer, str(part.at[1:] if layer else part.at), shapes, part.scale)
        groups.setdefault(alike, []).append(part)
    adapter, scale = {}, {}

    def put(path, at, factors, its_scale):
        while at and at[-1] == slice(None):
            at = at[:-1]
        place = lora.written(path, at)
        adapter[place], scale[place] = factors, its_scale

    for (path, layer, *_), group in groups.items():
        if layer and sorted(part.at[0] for part in group) == list(range(group[0].leaf[0])):
            group = sorted(group, key=lambda part: part.at[0])
            at = (slice(None), *group[0].at[1:])
            stacked = {name: _stack([part.factors[name] for part in group]) for name in group[0].factors}
            put(path, at, stacked, group[0].scale)
        else:
            for part in group:
                put(part.path, part.at, part.factors, part.scale)
    return Lora(lora.nested(adapter), scale)


class _Update(NamedTuple):
    """What an adapter does to one of their layers.

    Attributes:
        pairs: (A [r, in, ..], B [out, r, ..]), one or, of a LoHa, two.
        magnitude: [out] of a DoRA; None without one.
        scale: alpha / r.
    """

    pairs: tuple[lora_kinds.Pair, ...]
    magnitude: np.ndarray | None
    scale: float


def _kohya(update: _Update) -> dict[str, np.ndarray]:
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


def _peft(update: _Update, layer: str) -> dict[str, np.ndarray]:
    """Likewise in peft's layout."""
    (down, up), *second = update.pairs
    if second:
        raise ValueError(f'{layer} has a LoHa or LoKr, which diffusers does not read. Valid: layout = "kohya"')
    named = {"lora_A.weight": down, "lora_B.weight": up}
    if update.magnitude is not None:  # of a convolution [1, out, 1, 1]
        shape = (1, -1, *[1] * (down.ndim - 2)) if down.ndim > 2 else (-1,)
        named["lora_magnitude_vector"] = update.magnitude.reshape(shape)
    return named


def _their_layers(module: nn.Module, one: Lora, layout: str) -> dict[str, _Update]:
    """What an adapter of ours does to each of their layers, in that layout, that it changes."""
    family = families.of(module)
    table = _layers(module, (layout,))
    fused = layout != next(iter(family.tables))
    found: dict[str, list[_Update]] = {}
    for name, factors in lora.places_of(one.adapter).items():
        if "input_magnitude" in factors:
            raise ValueError(
                f"{name} has magnitudes of its inputs, which are not written. Merge it, and write the network"
            )
        path, at = lora.parsed(name)
        scale = one.scale[name] if isinstance(one.scale, Mapping) else float(one.scale)
        covered = False
        for layer, places in table.items():
            for place in (place for place in places if place.row.ours == path):
                selected = _selected(factors, at, place, fused)
                if selected is None:
                    continue
                covered = True
                how = place.how()
                if how is None or place.row.rows is not None or (layer in found and not fused):
                    raise ValueError(
                        f"{name} and others are one layer {layer} of {family.name}, with one A for all; "
                        "that cannot be written."
                    )
                pairs = [how.to_theirs(*selected)]
                if "down_2" in factors:
                    second = {"down": factors["down_2"], "up": factors["up_2"]}
                    pairs.append(how.to_theirs(*(_selected(second, at, place, fused) or ())))
                magnitude = None
                if "magnitude" in factors:  # as B of rank 1
                    layers = _leading(factors, place.leaf, at)
                    as_up = np.expand_dims(np.asarray(factors["magnitude"]), layers)
                    of_one = {"down": np.asarray(factors["down"])[..., :1], "up": as_up}
                    magnitude = how.to_theirs(*(_selected(of_one, at, place, fused) or ()))[1][:, 0]
                found.setdefault(layer, []).append(_Update(tuple(pairs), magnitude, scale))
        if not covered:
            raise ValueError(f"{name} is not a layer of {family.name}, and cannot be written.")
    layers = {}
    for layer, updates in found.items():
        if len(updates) > 1 and any(len(update.pairs) > 1 or update.magnitude is not None for update in updates):
            raise ValueError(
                f"{layer} of {family.name} holds several updates of a DoRA or LoHa, and cannot be written as one. "
                'Valid: layout = "peft"'
            )
        pairs = updates[0].pairs
        scale = updates[0].scale
        if len(updates) > 1:
            down, up, scale = _joined([(*update.pairs[0], update.scale) for update in updates])
            pairs = ((down, up),)
        theirs = table[layer][0].theirs
        # B of a convolution is a convolution of one pixel.
        shaped = tuple(
            (down.reshape(-1, *theirs[1:]), up.reshape(*up.shape, *[1] * (len(theirs) - 2))) for down, up in pairs
        )
        layers[layer] = _Update(shaped, updates[0].magnitude, scale)
    return layers


def _leading(factors: Mapping[str, Any], leaf: tuple[int, ...], at: tuple) -> int:
    """Number of axes of layers of a place's factors."""
    axes = len(leaf) - sum(isinstance(index, int) for index in at)
    return np.ndim(factors["down"]) + np.ndim(factors["up"]) - axes - 2


def _stack(arrays: Sequence[Any]) -> Any:
    return (jnp if any(isinstance(array, jax.Array) for array in arrays) else np).stack(arrays)


def _joined(updates: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray, float]:
    """Several updates of one layer as one: their factors side by side, or B summed where they have one A."""
    down, _, scale = updates[0]
    if any(other != scale for _, _, other in updates):
        updates = [(a, b * np.float32(own), 1.0) for a, b, own in updates]
        scale = 1.0
    downs = [a for a, _, _ in updates]
    ups = [b for _, b, _ in updates]
    if all(np.array_equal(a, down) for a in downs):
        return down, np.sum(ups, axis=0), scale
    return np.concatenate(downs), np.concatenate(ups, axis=1), scale


def _selected(
    factors: Mapping[str, Any], at: tuple, place: _Place, fused: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The factors of a place's part, out of those of the part `at` of its leaf; None if they do not touch it.

    With `fused` they may cover some of the part's outputs, and are zero for the others.
    """
    whole = lambda index: [*index, *[slice(None)] * (len(place.leaf) - len(index))]
    mine = whole(at)
    theirs = whole(place.row.at)
    down = np.asarray(factors["down"])
    up = np.asarray(factors["up"])
    if fused:
        mine, up = _filled(mine, theirs, place.leaf, down, up)
    index, dropped = [], 0
    for own, other in zip(mine, theirs):
        if own == slice(None):
            index.append(other)
        elif own == other:
            index += [] if isinstance(own, int) else [slice(None)]
            dropped += isinstance(own, int)
        else:
            return None
    layers = down.ndim + up.ndim - (len(place.leaf) - dropped) - 2
    inner = down.ndim - 1
    return down[tuple(index[:inner])], up[(*index[:layers], slice(None), *index[inner:])]


def _filled(
    mine: list, theirs: list, leaf: tuple[int, ...], down: np.ndarray, up: np.ndarray
) -> tuple[list, np.ndarray]:
    """The index and the up of factors, with zeros for outputs of the part that the factors do not cover."""
    kept = [axis for axis, index in enumerate(mine) if not isinstance(index, int)]
    outputs = range(kept[down.ndim - 2] + 1, len(leaf))
    added = [axis for axis in outputs if theirs[axis] == slice(None) != mine[axis]]
    axes = [axis for axis in outputs if axis in added or axis in kept]
    lead = up.ndim - len([axis for axis in outputs if axis in kept])
    sizes = iter(up.shape)
    stack = [next(sizes) for _ in range(lead)]
    own = {axis: next(sizes) for axis in axes if axis in kept}
    filled = np.zeros((*stack, *[leaf[axis] if axis in added else own[axis] for axis in axes]), up.dtype)
    filled[(..., *[mine[axis] if axis in added else slice(None) for axis in axes])] = up
    return [slice(None) if axis in added else index for axis, index in enumerate(mine)], filled


def _usual(found: Mapping[str, float]) -> float:
    """The value that most layers have."""
    return collections.Counter(found.values()).most_common(1)[0][0]


def _others(found: Mapping[str, float], usual: float) -> dict[str, float]:
    """The layers that have another."""
    return {layer: value for layer, value in found.items() if value != usual}
