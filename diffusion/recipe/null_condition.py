"""The null condition: the class after the last one, or the empty caption."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.data import captions as texts
from diffusion.models import facts
from diffusion.models.layers.conditions import TextInputs
from diffusion.recipe import names
from diffusion.recipe.config_errors import ConfigError

TEXT_FOLDERS = {"tokens": "tokenizer", "embeddings": "dir"}  # {input of the network: field of config.data.text}


def text_inputs(config: Mapping, network: Any = None) -> TextInputs | None:
    """The form in which a network, or `config.model`, receives a text; None without text."""
    if network is not None:
        return facts.text_inputs(network)
    model = config["model"]
    return facts.text_inputs(names.MODELS.get(model.get("name")), model.get("text_width"))


def null_class(config: Mapping) -> int:
    """The label that stands for no class: num_classes, one beyond the last.

    Raises:
        ConfigError: where the model has no classes.
    """
    classes = config["model"].get("num_classes", 0)
    if classes < 1:
        raise ConfigError(
            f"config.model.num_classes = {classes}: an unconditional model has no null class. Leave condition_dropout "
            "out of config.objective.wrappers and set config.sample.guidance.scale = 1, or give the model classes."
        )
    return classes


def null(config: Mapping, network: Any = None) -> Any:
    """The null condition of one example, a label or the empty caption's entries; None for an unconditional network.

    Args:
        config: the run's config.
        network: the run's network, where Python gives it; None: `config.model`.

    Raises:
        ConfigError: if config.data.text names no vocabulary, or no captions.
    """
    text = text_inputs(config, network)
    if text is None:
        return np.int32(null_class(config)) if config["model"].get("num_classes", 0) else None
    field = TEXT_FOLDERS[text.form]
    folder = config["data"]["text"][field]
    if not folder:
        raise ConfigError(
            f"config.data.text.{field} = '', but config.model.name = {config['model']['name']!r} receives text. "
            "Valid: a folder made by diffusion encode_text."
        )
    label = {"label": np.int32(null_class(config))} if config["model"].get("num_classes", 0) else {}
    try:
        return (texts.null(folder) if text.form == "embeddings" else texts.tokens([""], folder).null) | label
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.data.text.{field} = {folder!r}: {error}") from error
