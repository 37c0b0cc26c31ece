"""Writes the folder of a text-to-image model that was made from another one: some new networks, and the other files."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from diffusion.io import json_files, opener
from diffusion.models import interchange
from diffusion.text_to_image import model_index

INDEX = "model_index.json"
ABOUT = "tuning.json"


def save(folder: pathlib.Path, base: pathlib.Path, part: str, module: nn.Module, params: Any, **how: Any) -> None:
    """Writes one network, whose config keeps the usual side of pictures, which is no field of our module of a U-Net.

    Args:
        folder: the folder of the new model.
        base: the folder of the model that it was made of.
        part: the name of the network's folder.
        module, params: the network and its parameters.
        **how: arguments of `interchange.save`.
    """
    interchange.save(folder / part, module, params, **how)
    config = folder / part / "config.json"
    ours = opener.read_table(config)
    theirs = opener.read_table(base / part / "config.json")
    if "sample_size" in theirs and "sample_size" not in ours:
        json_files.write(config, {**ours, "sample_size": theirs["sample_size"]})


def complete(
    folder: pathlib.Path, base: pathlib.Path, pipeline: str = "", about: Mapping[str, Any] | None = None
) -> None:
    """Completes the folder of a model by the networks of another that it lacks.

    Args:
        folder: the folder of the new model, with its own networks.
        base: the folder of the model that it was made of.
        pipeline: the class in model_index.json; "" for the class of the base.
        about: the record of the tuning, written as JSON into tuning.json; None for no such file.
    """
    for path in sorted(base.iterdir()):
        if path.is_dir() and not (folder / path.name).exists():
            shutil.copytree(path, folder / path.name)
        elif path.name in (INDEX, model_index.SAMPLING):
            shutil.copyfile(path, folder / path.name)
    index = opener.read_table(folder / INDEX)
    if pipeline and index["_class_name"] != pipeline:
        json_files.write(folder / INDEX, {**index, "_class_name": pipeline})
    if about is not None:
        json_files.write(folder / ABOUT, about)
