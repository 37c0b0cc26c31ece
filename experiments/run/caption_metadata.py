"""The metadata of captions that a run's reward uses, as "metadata" of each record and batch.

A function of the reward computes them, once for each distinct caption, so that no text encoder is run for them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion.data import captions
from diffusion.data.sources.streams import Stream
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe

NULL = ""  # the caption whose facts define the valid form


def with_metadata(recipe: Recipe, source: Any, texts: Callable[[], Sequence[str]]) -> Any:
    """The source with the facts of each record's caption added; the source itself if the objective reads none.

    Args:
        recipe: the recipe of the run.
        source: the source of its records.
        texts: a function that returns the captions of all records.

    Raises:
        ConfigError: for a stream, records without captions, or facts of another form than those of the empty caption.
    """
    if recipe.objective.beside.metadata is None:
        return source
    if isinstance(source, Stream):
        raise ConfigError(
            f"config.objective: its reward reads captions, but {source.spec.name} is a stream. Valid: data that can be "
            "indexed"
        )
    try:
        captioned = texts()
    except ValueError as error:
        raise ConfigError(f"config.objective: its reward reads captions. {error}") from error
    return captions.Captioned(source, table(recipe, captioned), "metadata")


def table(recipe: Recipe, texts: Sequence[str]) -> captions.Table:
    """The facts of captions, with a row for each distinct caption; errors as `with_metadata`."""
    form = form_of(facts_of(recipe, NULL))

    def read(few: list[str]) -> dict[str, np.ndarray]:
        rows = [facts_of(recipe, text) for text in few]
        for text, row in zip(few, rows):
            if form_of(row) != form:
                raise ConfigError(
                    f"config.objective: the facts of the caption {text[:60]!r} are {form_of(row)}, but the facts of "
                    f"the empty caption are {form}. Valid: one form for all captions"
                )
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    return captions.table(texts, read)


def form_of(facts: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The type and shape of each fact, as text."""
    return {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in facts.items()}


def facts_of(recipe: Recipe, text: str) -> dict[str, np.ndarray]:
    """The facts of a caption that the objective's reward reads, in the types that JAX uses; {} if it reads none."""
    read = recipe.objective.beside.metadata
    narrow = lambda leaf: np.asarray(leaf).astype(jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype))
    return {} if read is None else {name: narrow(leaf) for name, leaf in read(text).items()}
