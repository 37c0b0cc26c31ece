"""Samples of a run on symbols: its sampler along its plan, guided, and with known positions of a text."""

__all__ = ["infilled", "predictor", "sampled", "texts"]

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import discrete
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe

UNKNOWN = "_"  # stands in a text for a character that is filled in


def predictor(recipe: Recipe, reads: Restores) -> Callable[[Any, Any], discrete.Predictor]:
    """The guided predictor of a run, of (params, labels `[B]`): what `discrete.sample` takes."""

    def build(params: Any, labels: Any) -> discrete.Predictor:
        network = lambda x, t, condition: recipe.network.apply(params, x, t, condition)
        if recipe.examples.null is None:
            return discrete.predictor(network, reads.process, reads.reading)
        if recipe.scale == 1:
            return discrete.predictor(network, reads.process, reads.reading, labels)
        null = recipe.examples.null_condition(len(jax.tree.leaves(labels)[0]))
        branches = discrete.together(network, reads.process, reads.reading, (labels, null))
        return discrete.classifier_free(branches, recipe.scale)

    return build


def sampled(recipe: Recipe, reads: Restores) -> Callable[[Any, Any, tuple[Array, Array]], Array]:
    """The samples int32 `[B, ...]` of (params, labels `[B]`, (keys of the noise `[B]`, keys of the steps `[B]`)).

    Args:
        recipe: the recipe, for a shape of examples.
        reads: how its objective reads the network.
    """
    build = predictor(recipe, reads)

    def make(params: Any, labels: Any, keys: tuple[Array, Array]) -> Array:
        first, rest = keys
        x = discrete.prior(reads.process, first, recipe.examples.shape)
        predict = build(params, labels)
        return discrete.sample(_sampler(recipe), predict, reads.process, x, recipe.sampling.plan, rest)

    return make


def infilled(recipe: Recipe, text: str, vocabulary: Sequence[str]) -> Recipe:
    """The recipe whose samples have the characters of a text, and fill in its low lines and what is beyond its end.

    Args:
        recipe: the recipe, for a shape of examples.
        text: the known characters, with a low line for each that is not known.
        vocabulary: the text of each symbol, one character.

    Raises:
        ConfigError: for a run without a vocabulary of characters, a text that is longer than an example, or a character
            that is not in the vocabulary.
    """
    if not isinstance(recipe.objective.reads, Restores) or any(len(symbol) != 1 for symbol in vocabulary or ("",)):
        raise ConfigError(f"--infill={text!r}: the samples of this run are not characters. Valid: no such flag.")
    (length,) = recipe.examples.shape
    if len(text) > length:
        raise ConfigError(
            f"--infill: the text has {len(text)} characters, but the samples of this run have {length}. Valid: at "
            "most that number."
        )
    if strange := [character for character in text if character not in (*vocabulary, UNKNOWN)]:
        raise ConfigError(
            f"--infill: {strange[0]!r} is not a symbol of this run. Valid: {''.join(vocabulary)!r}, and {UNKNOWN!r} "
            "for characters to fill in."
        )
    padded = text.ljust(length, UNKNOWN)
    known = np.array([character in vocabulary for character in padded])
    values = np.array([vocabulary.index(character) if character in vocabulary else 0 for character in padded])
    return recipe.with_parts(sampler=discrete.infilling(_sampler(recipe), jnp.asarray(values), jnp.asarray(known)))


def _sampler(recipe: Recipe) -> discrete.SymbolSampler:
    """The sampler of a recipe on symbols, which `symbol_runs.check` has checked."""
    return cast(discrete.SymbolSampler, recipe.sampling.sampler)


def texts(x: np.ndarray, vocabulary: Sequence[str]) -> list[str]:
    """The text of each sample of symbols, int `[N, ...]`; without a vocabulary its numbers, with spaces between them.

    The mask, the symbol after the last of the vocabulary, is a low line.
    """
    words = (*vocabulary, UNKNOWN)
    rows = x.reshape(len(x), -1).tolist()
    return ["".join(words[symbol] for symbol in row) if vocabulary else " ".join(map(str, row)) for row in rows]
