"""The names in LoRA files of every tool that writes them, and their alpha."""

import math
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.io import limits, opener, schema
from diffusion.models.interchange import tensor_files
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.interchange.tensor_files import Tensors

METADATA = "lora_adapter_metadata"  # the entry in which diffusers writes peft's config, as JSON
LARGEST = 2**31  # largest rank or alpha
# Fields of peft's config that are true, false or null.
FLAGS: dict[str, schema.Valid] = dict.fromkeys(
    ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out"), schema.optional(schema.FLAG)
)
EXCEPTIONS = 2**14  # layers with a rank or an alpha of their own
DENOISER = ("unet", "transformer")
# Prefixes of a layer's name, and the networks that each can mean. Names after one that ends in "_" have "_" for ".".
PREFIXES = {
    "lora_unet_": DENOISER,
    "lora_transformer_": ("transformer",),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3", "text_encoder_2"),
    "lycoris_": DENOISER,
    "base_model.model.": DENOISER,  # peft's own files
    "model.diffusion_model.": DENOISER,
    "diffusion_model.": DENOISER,  # ComfyUI's
    "text_encoders.clip_l.transformer.": ("text_encoder",),
    "text_encoders.clip_g.transformer.": ("text_encoder_2",),
    "text_encoders.t5xxl.transformer.": ("text_encoder_3", "text_encoder_2"),
    "": DENOISER,
}
# Before the names of CLIP's layers in files, and before transformers 5.6 in the network itself.
CLIP = "text_model."
# A layer's tensors by the ends of their names.
ENDS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_B.bias": "up_bias",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "first_rows.lora.down.weight": "down",
    "first_rows.lora.up.weight": "first_up",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "dora_scale": "dora_scale",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    "alpha": "alpha",
    "diff": "difference",
    "diff_b": "bias_difference",
    "diff_m": "modulation_difference",
    "w_norm": "difference",
    "b_norm": "bias_difference",
    "weight": "whole_weight",  # a norm's scale, which FLUX's control LoRAs replace
    "scale": "whole_scale",
}
PARTS = frozenset(ENDS.values())
# The parts that change a tensor of the layer by values of its own shape, and the end of that tensor's name.
TENSORS = {
    "difference": ".weight",
    "bias_difference": ".bias",
    "modulation_difference": ".modulation",
    "up_bias": ".bias",
    "whole_weight": ".weight",
    "whole_scale": ".scale",
}
# Names of attention processors, rewritten as names of layers. XLabs' queries, keys and values of a single block are the
# first rows of its first layer.
PROCESSORS = {
    r"\.self_attn\.to_([qkv]|out)_lora\.": r".self_attn.\1_proj.lora.",
    r"\.processor\.to_out_lora\.": r".to_out.0.lora.",
    r"\.processor\.(to_[qkv]|add_[qkv]_proj|to_add_out)_lora\.": r".\1.lora.",
    r"(^|\.)double_blocks\.(\d+)\.processor\.(qkv|proj)_lora1\.": r"\1double_blocks.\2.img_attn.\3.lora.",
    r"(^|\.)double_blocks\.(\d+)\.processor\.(qkv|proj)_lora2\.": r"\1double_blocks.\2.txt_attn.\3.lora.",
    r"(^|\.)single_blocks\.(\d+)\.processor\.qkv_lora\.": r"\1single_blocks.\2.linear1.first_rows.lora.",
    r"(^|\.)single_blocks\.(\d+)\.processor\.proj_lora\.": r"\1single_blocks.\2.linear2.lora.",
    r"\.processor\.": ".",
}


def spelled(layers: Iterable[str]) -> dict[str, str]:
    """The layers by name, and by name with "_" for ".", as kohya writes it, unless two layers share that spelling."""
    by_name: dict[str, list[str]] = {}
    for layer in layers:
        by_name.setdefault(layer.replace(".", "_"), []).append(layer)
    names = {name: alike[0] for name, alike in by_name.items() if len(alike) == 1}
    return names | {layer: layer for alike in by_name.values() for layer in alike}


def tensor_of(layer: str, part: str) -> str:
    """The tensor that a part of a layer changes by values of its own shape; "" for a part of an update by factors."""
    return layer + TENSORS[part] if part in TENSORS else ""


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a LoRA of any kind, that is, whether one is a factor or a difference."""
    return any(_ended(name)[1] not in ("", "alpha", "whole_weight", "whole_scale") for name in names)


def has_magnitudes(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a DoRA."""
    return any(_ended(name)[1] in ("magnitude", "dora_scale") for name in names)


def parsed(name: str, names: Mapping[str, Mapping[str, str]]) -> tuple[str, str, str] | None:
    """(component, layer, part) of a tensor's name; None if there is no such layer.

    Args:
        name: the name of the tensor.
        names: {component: its layers}, each as `spelled` returns them.
    """
    stem, part = _ended(name)
    if not part:
        return None
    component, _, layer = stem.partition(".")
    if component in names:
        known_layer = _known(layer, CLIP, names[component])
        return (component, known_layer, part) if known_layer else None
    prefix = next(prefix for prefix in PREFIXES if stem.startswith(prefix))
    components = tuple(names) if prefix in ("", "base_model.model.") and len(names) == 1 else PREFIXES[prefix]
    component = next((c for c in components if c in names), "")
    layers = names.get(component, {})
    clip = CLIP.replace(".", "_") if prefix.endswith("_") else CLIP
    known_layer = _known(stem.removeprefix(prefix), clip, layers)
    return (component, known_layer, part) if known_layer else None


def _ended(name: str) -> tuple[str, str]:
    """A tensor's name without its end, and the part that the end means; "" for an end that is not in the table."""
    for pattern, layer in PROCESSORS.items():
        name = re.sub(pattern, layer, name)
    end = max((end for end in ENDS if name.endswith(f".{end}")), key=len, default="")
    return name.removesuffix(f".{end}"), ENDS.get(end, "")


def _known(layer: str, clip: str, layers: Mapping[str, str]) -> str | None:
    """The layer of that name, with or without CLIP's prefix."""
    return layers.get(layer) or layers.get(layer.removeprefix(clip)) or layers.get(clip + layer)


def configs(tensors: Tensors, components: Sequence[str]) -> dict[str, dict[str, Any]]:
    """peft's config of each network, from the file's metadata, or from adapter_config.json beside a file of one.

    Raises:
        Mismatch: for a pattern that is no table of layers' names.
        limits.Refused: for text that is not JSON.
    """
    configs_of_networks: dict[str, dict[str, Any]] = {}
    for path in set(tensors.places.values()):
        text = tensor_files.metadata(path).get(METADATA, "{}")
        metadata = limits.parse_json(text, f"{path}: its {METADATA}")
        for field, value in metadata.items() if isinstance(metadata, dict) else ():
            component, _, name = field.partition(".")
            configs_of_networks.setdefault(component, {})[name] = value
        beside = path.parent / "adapter_config.json"
        if len(components) == 1 and not configs_of_networks and beside.is_file():
            config = opener.read_json(beside)
            configs_of_networks = {components[0]: config} if isinstance(config, dict) else {}
        for config in configs_of_networks.values():
            schema.check(FLAGS, config, f"{path}: its config")
            for field in ("alpha_pattern", "rank_pattern"):
                _check_pattern(config.get(field) or {}, f"{path}: its config's {field}")
    return configs_of_networks


def _check_pattern(pattern: Any, what: str) -> None:
    """Refuses exceptions of layers that are no table of their names."""
    if not isinstance(pattern, dict) or len(pattern) > EXCEPTIONS:
        shown = limits.short(pattern) if not isinstance(pattern, dict) else f"a table of {len(pattern):,}"
        raise Mismatch(f"{what} is {shown}. Valid: a table of at most {EXCEPTIONS:,} layers.")
    for name in pattern:
        if not re.fullmatch(r"\^?[\w.-]+", name):
            raise Mismatch(f"{what} names {limits.short(name)}, which is not the name of a layer.")


def said(path: pathlib.Path) -> dict[str, str]:
    """The metadata of a file, without peft's config; {} for a file that is no .safetensors."""
    return {name: text for name, text in tensor_files.metadata(path).items() if name not in (METADATA, "format")}


def scale(
    parts: Mapping[str, np.ndarray], rank: int | None, config: Mapping[str, Any] | None, layer: str, what: str
) -> float:
    """alpha / r, or alpha / sqrt(r) of rsLoRA: by the layer's own alpha, by peft's config, or else 1.

    Args:
        parts: the layer's tensors.
        rank: r; None for a LoKr of two whole matrices, whose alpha counts in peft's config alone.
        config: peft's.
        layer: its name.
        what: the file and the layer, for messages.
    """
    if "alpha" in parts:
        if parts["alpha"].size != 1:
            raise Mismatch(f"{what}: alpha has the shape {list(parts['alpha'].shape)}. Valid: one number.")
        return float(parts["alpha"].reshape(-1)[0]) / rank if rank else 1.0
    if not config:
        return 1.0
    if config.get("use_dora") and not parts.keys() & {"magnitude", "dora_scale"}:
        raise Mismatch(f"{what}: its config sets use_dora, but the file has no lora_magnitude_vector.")
    if config.get("lora_bias") and "up_bias" not in parts:
        raise Mismatch(f"{what}: its config sets lora_bias, but the file has no lora_B.bias.")
    if config.get("fan_in_fan_out"):
        raise Mismatch(f"{what}: its config sets fan_in_fan_out, which is not supported.")
    r: int = rank or _number(config, "r", "rank_pattern", 1, layer, what)
    if not r > 0:
        raise Mismatch(f"{what}: its config has r = {r!r}. Valid: a positive number.")
    alpha = _number(config, "alpha" if "alpha" in config else "lora_alpha", "alpha_pattern", r, layer, what)
    return float(alpha) / (math.sqrt(r) if config.get("use_rslora") else r)


def _number(config: Mapping[str, Any], field: str, exceptions: str, default: int, layer: str, what: str) -> Any:
    """A number in peft's config; for a layer among its exceptions, the exception's number."""
    value = config.get(field, default)
    pattern = config.get(exceptions) or {}
    words = layer.split(".")
    ends = [f"^{layer}", *(".".join(words[i:]) for i in range(len(words)))]
    named = {end for end in ends if end in pattern}
    if named:  # several may mean this layer; as in peft the first of the table does
        value = pattern[next(name for name in pattern if name in named)]
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise Mismatch(f"{what}: its config has {field} = {limits.short(value)}. Valid: a finite number.")
    return value


def prefix_of(component: str, components: Collection[str], original: bool) -> str:
    """kohya's prefix of a network's layers; `original` where the layers have the original repository's names."""
    if original:
        return "lora_unet_"
    if component == "text_encoder":
        return "lora_te1_" if "text_encoder_2" in components else "lora_te_"
    return next(
        prefix
        for prefix, components in PREFIXES.items()
        if component in components and (component != "transformer" or prefix == "lora_transformer_")
    )


def shown(component: str, layer: str) -> str:
    """A layer's name in the files that `save` writes; CLIP's has the prefix that other readers of LoRA files expect."""
    return CLIP + layer if component.startswith("text_encoder") and layer.startswith("encoder.layers.") else layer
