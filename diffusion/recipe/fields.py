"""The fields that a config may have, with their types and ranges: the conditions on each single field."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion.arrays.arguments import fits
from diffusion.data import pipeline
from diffusion.io import file_systems
from diffusion.metrics import protocols
from diffusion.recipe import class_folders
from diffusion.recipe.config_errors import ConfigError, unknown
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import plain
from diffusion.training import parallel, sharding
from diffusion.training.power_ema import WIDEST


def pair(value: Any) -> bool:
    """Whether a value is two times, 0 <= low < high."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(fits(v, float) for v in value)
        and 0 <= value[0] < value[1]
    )


def _shape(value: Any) -> bool:
    return len(value) >= 1 and all(fits(v, int) and v >= 1 for v in value)


def _texts(value: Any) -> bool:
    return all(isinstance(v, str) for v in value)


def _pattern(value: str) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _folder(value: str) -> bool:
    return file_systems.objection(value) is None


AT_LEAST_ZERO = (lambda v: v >= 0, "at least 0")
AT_LEAST_ONE = (lambda v: v >= 1, "at least 1")
STEPS = (lambda v: 1 <= v <= 10**6, "in [1, 10^6]")  # their times are held in memory
DEVICES = (lambda v: v == -1 or v >= 1, "a number of devices, at least 1, or -1 for the rest")
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32, "in [0, 2^32)"),
    "base.path": (_folder, "the folder of a text-to-image model, on a local or shared file system, or 'drawings'"),
    "base.dtype": (lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "teacher.path": (_folder, "the folder of a run, on a local or shared file system"),
    "teacher.scale": (lambda v: v >= 0, "at least 0; 1 is no guidance"),
    "teacher.pairs.number": (lambda v: 0 <= v <= 10**8, "in [0, 10^8]; 0 for none"),
    "teacher.pairs.steps": STEPS,
    "second_player.updates": AT_LEAST_ONE,
    "encoder.path": (_folder, "a file of a local or shared file system"),
    "encoder.size": AT_LEAST_ZERO,
    "autoencoder.path": (_folder, "a folder or file of a local or shared file system"),
    "perceptual.path": (_folder, "a file of a local or shared file system"),
    "init_from.path": (_folder, "a folder or file of a local or shared file system; copy it there from its address"),
    "data.dir": (_folder, "a folder of a local or shared file system; copy the data there from its address"),
    "data.latents.dir": (_folder, "a folder of a local or shared file system that diffusion encode wrote, or ''"),
    "data.latents.autoencoder": (_folder, "a folder or file of a local or shared file system, or ''"),
    "data.text.tokenizer": (_folder, "a folder of a local or shared file system that holds a vocabulary, or ''"),
    "data.text.dir": (_folder, "a folder of a local or shared file system that diffusion encode_text wrote, or ''"),
    "init_from.include": (_pattern, "a regular expression"),
    "data.name": (bool, 'a dataset\'s name, e.g. "digits" or "cifar10"'),
    "data.split": (bool, 'a split\'s name, e.g. "train"'),
    "data.threads": (lambda v: 0 <= v <= 1024, "in [0, 1024]; 0 reads in the main thread"),
    "data.processes": (lambda v: 0 <= v <= 1024, "in [0, 1024]; 0 reads in threads of the run's process"),
    "data.damaged": (lambda v: v in pipeline.DAMAGED, '"stop" or "skip"'),
    "data.changed": (lambda v: v in ("stop", "accept"), '"stop" or "accept"'),
    "data.buckets.area": (lambda v: 0 <= v <= 2**26, "in [0, 2^26]; 0 for pictures of one size"),
    "data.buckets.multiple": AT_LEAST_ONE,
    "data.buckets.widest": (lambda v: 1 <= v <= 64, "in [1, 64]"),
    "data.shape": (_shape, "sizes of at least 1, e.g. (32, 32, 4), or None"),
    "ema.sigma_rel": (lambda v: 0 <= v <= WIDEST, f"in [0, {WIDEST:.4f}]; 0.05 is EDM2's, 0 takes ema.decay"),
    "ema.decay": (lambda v: 0 <= v < 1, "in [0, 1); 0.9999 is usual, 0 follows the weights"),
    "train.steps": AT_LEAST_ONE,
    "train.batch_size": AT_LEAST_ONE,
    "train.accumulate": AT_LEAST_ZERO,
    "train.log_every": AT_LEAST_ONE,
    "train.dtype": (lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "train.products": (lambda v: v in ("dtype", "fp8"), '"dtype" or "fp8"'),
    "checkpoint.every": AT_LEAST_ONE,
    "checkpoint.keep": AT_LEAST_ONE,
    "checkpoint.keep_every": AT_LEAST_ZERO,
    "mesh.data": DEVICES,
    "mesh.fsdp": DEVICES,
    "mesh.sequence": DEVICES,
    "mesh.tensor": DEVICES,
    "mesh.split": (lambda v: v in sharding.WHOLE, '"all" or "optimizer"'),
    "mesh.kind": (lambda v: v in parallel.KINDS, '"jit" or "pmap"'),
    "sample.shift": (lambda v: v > 0, "above 0; 1 shifts nothing"),
    "sample.steps": STEPS,
    "sample.merge": (lambda v: 0 <= v <= 0.75, "in [0, 0.75]; 0 merges nothing"),
    "sample.measurement.noise_std": AT_LEAST_ZERO,
    "sample.number": (lambda v: 1 <= v <= 10**6, "in [1, 10^6]"),  # a seed stands for 10^6 samples
    "sample.batch_size": AT_LEAST_ONE,
    "sample.seed": (lambda v: 0 <= v < 4000, "in [0, 4000)"),
    "evaluate.every": AT_LEAST_ZERO,
    "evaluate.failed": (lambda v: v in ("skip", "stop"), '"skip" or "stop"'),
    "evaluate.inception": (_folder, "a file of a local or shared file system, or ''"),
    "evaluate.overlap": (lambda v: v in ("stop", "accept"), '"stop" or "accept"'),
    "evaluate.number": AT_LEAST_ONE,
    "evaluate.loss.every": AT_LEAST_ZERO,
    "evaluate.loss.number": (lambda v: 1 <= v <= 10**6, "in [1, 10^6]"),
    "evaluate.loss.latents": (_folder, "a folder of a local or shared file system that diffusion encode wrote, or ''"),
    "evaluate.features": (_texts, 'names of features, e.g. ("pixels",)'),
    "evaluate.protocol": (lambda v: v in protocols.PROTOCOLS, f"one of {', '.join(protocols.PROTOCOLS)}"),
}
FOLDERS = tuple(field for field, (valid, _) in RANGES.items() if valid is _folder)
OPTIONAL = {"data.shape": tuple}  # None by default, so the type is said here
WORDS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "True or False",
    tuple: "a sequence",
    dict: "a mapping",
    type(None): "None",
}


def absolute(config: ConfigDict) -> ConfigDict:
    """The config with absolute paths of folders and files, so that it means the same in any folder."""
    config = config.copy_and_resolve_references()
    for field in FOLDERS:
        *above, name = field.split(".")
        section = functools.reduce(lambda part, key: part.get(key, ConfigDict()), above, config)
        path = section.get(name)
        if path and not (field == "base.path" and class_folders.folder_of(path).parent == class_folders.WEIGHTS):
            section[name] = _whole(path)
    if config.get("tuning", {}).get("encoder"):
        config.tuning.encoder = _whole(config.tuning.encoder)
    measurement = config.get("sample", {}).get("measurement", {})
    if measurement.get("pictures", "").endswith((".npz", ".npy")):  # another text is a split
        measurement.pictures = _whole(measurement.pictures)
    if guides := config.get("sample", {}).get("guides"):
        config.sample.guides = tuple(map(_with_whole_runs, plain(guides)))
    if "source" in config.get("data", {}):
        config.data.source = _with_whole_paths(plain(config.data.source))
    return config


def _whole(path: str) -> str:
    return str(pathlib.Path(path).expanduser().absolute())


def _with_whole_runs(entry: Any) -> Any:
    """The entry of a guide with absolute paths of the run folders that it names, as FOLDER or {"run": FOLDER}."""
    if not isinstance(entry, dict):
        return entry
    is_run = lambda value: isinstance(value, str) and (pathlib.Path(value).expanduser() / "config.json").is_file()
    resolved = lambda value: _whole(value) if is_run(value) else value
    given_run = lambda value: isinstance(value, dict) and "run" in value
    inside = lambda value: {**value, "run": resolved(value["run"])} if given_run(value) else resolved(value)
    return {key: value if key == "name" else inside(value) for key, value in entry.items()}


def _with_whole_paths(entry: Any) -> Any:
    """The entry of a source, and the entries within it, with absolute paths."""
    if isinstance(entry, tuple):
        return tuple(map(_with_whole_paths, entry))
    if not isinstance(entry, dict):
        return entry
    named = lambda key, value: _whole(value) if key == "path" and isinstance(value, str) else _with_whole_paths(value)
    return {key: named(key, value) for key, value in entry.items()}


def check(config: Mapping) -> None:
    """Refuses a config with an unknown, missing, mistyped or out-of-range field.

    Raises:
        ConfigError: naming the first such field, its value and what is valid.
    """
    _check(plain(config), plain(defaults()), "")
    check_type("config.model.num_classes", plain(config)["model"].get("num_classes", 0), int)


def _check(values: dict, known: dict, prefix: str) -> None:
    for name in values:
        if name not in known:
            raise unknown(f"config.{prefix}".rstrip("."), name, known, "field")
    for name, default in known.items():
        field = prefix + name
        if name not in values:
            raise ConfigError(
                f"config.{field} is missing. Its default is {default!r}: add it to the table, or start a config from "
                "diffusion.recipe.defaults.defaults(), which has all."
            )
        check_type(f"config.{field}", values[name], OPTIONAL.get(field, type(default)), field in OPTIONAL)
        if isinstance(default, dict):
            # The other fields of an entry that names a function are its arguments, which `entries.call` checks; the
            # default function's have ranges here.
            if "name" not in default or field == "data":
                _check(values[name], default, f"{field}.")
            elif values[name].get("name") == default["name"]:
                ranged = {argument: usual for argument, usual in default.items() if f"{field}.{argument}" in RANGES}
                _check({key: value for key, value in values[name].items() if key in ranged}, ranged, f"{field}.")
        else:
            _check_range(field, values[name])


def _check_range(field: str, value: Any) -> None:
    if field in RANGES and value is not None:
        valid, words = RANGES[field]
        if not valid(value):
            raise ConfigError(f"config.{field} = {value!r}. Valid: {words}.")


def check_type(path: str, value: Any, kinds: type | tuple[type, ...], optional: bool = False) -> None:
    """Refuses a value of another type than these.

    Args:
        path: the path of the field.
        value: its value, as `values.plain` returns it.
        kinds: the valid types, which are keys of `WORDS`.
        optional: whether None is also valid.

    Raises:
        ConfigError: naming its path, the value and the types.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    kinds = (*kinds, type(None)) if optional else kinds
    if not any(fits(value, kind) for kind in kinds):
        words = " or ".join(WORDS[kind] for kind in kinds)
        raise ConfigError(f"{path} = {value!r} is {WORDS.get(type(value), type(value).__name__)}. Valid: {words}.")
