"""Samples of a run on symbols: its sampler and plan, with guidance, and with known positions of a text."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import discrete
from diffusion.experiments.sampling import run_denoiser
from diffusion.models import facts, symbol_memory
from diffusion.models.layers import key_value_memory
from diffusion.models.layers.key_value_memory import KeyValueMemory
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError
from diffusion.recipe.recipe import Recipe
from diffusion.training.step import HEADS

UNKNOWN = "_"  # the character that stands for one to be filled in


def predictor(recipe: Recipe, reads: Restores) -> Callable[..., discrete.Predictor]:
    """The guided predictor of a run: (params, labels `[B]`, weights, optional memory) -> `discrete.Predictor`.

    `weights` are the weights of other runs that its guides read, by the paths of their fields. `memory` is the memory
    of earlier blocks, with rows for each branch of the guidance.
    """

    def build(params: Any, labels: Any, weights: Any, memory: KeyValueMemory | None = None) -> discrete.Predictor:
        network = lambda x, t, condition: recipe.network.apply(params, x, t, condition)
        if memory is not None:
            network = key_value_memory.reading(recipe.network, params, memory)
        conditions, process = _conditions(recipe, labels), process_of(reads, params)
        if len(conditions) == 1:
            predict = discrete.predictor(network, process, reads.reading, *conditions)
        else:
            branches = discrete.together(network, process, reads.reading, conditions)
            predict = discrete.classifier_free(branches, recipe.scale)
        for guide in recipe.sampling.guides:
            predict = guide.apply(predict, weights, labels, None)
        return predict

    return build


def sampled(recipe: Recipe, reads: Restores) -> Callable[[Any, Any, Any, tuple[Array, Array]], Array]:
    """A function (params, weights of guides, labels `[B]`, keys) -> samples int32 `[B, ...]`.

    The keys are a pair: the keys of the noise `[B]`, and the keys of the steps `[B]`. A block-causal network makes one
    block after another, and takes all steps of the plan for each.

    Args:
        recipe: the recipe, for a shape of examples.
        reads: how the objective of the recipe reads the network.
    """
    build = predictor(recipe, reads)
    plan, block = recipe.sampling.plan, facts.causal(recipe.network)

    def make(params: Any, weights: Any, labels: Any, keys: tuple[Array, Array]) -> Array:
        process = process_of(reads, params)
        first, rest = keys
        x = discrete.prior(process, first, recipe.examples.shape)
        if not block:
            return discrete.sample(_sampler(recipe), build(params, labels, weights), process, x, plan, rest)
        conditions = _conditions(recipe, labels)
        condition = jax.tree.map(lambda *rows: jnp.concatenate(rows), *conditions)
        branches = len(conditions)
        remember = lambda x, memory: symbol_memory.remembered(
            recipe.network, params, jnp.concatenate([x] * branches), condition, memory
        )
        memory = symbol_memory.empty(recipe.network, branches * len(x), x.shape[1])
        predict = lambda memory: build(params, labels, weights, memory)
        return discrete.sample_blocks(_sampler(recipe), predict, remember, process, x, plan, rest, memory, block)

    return make


def evaluations(recipe: Recipe) -> int:
    """The network evaluations of a sample; each evaluation of a block-causal network is of one block."""
    steps = recipe.sampling.sampler.nfe(recipe.sampling.plan.solved)
    block = facts.causal(recipe.network)
    return recipe.examples.shape[0] // block * (steps + 1) if block else steps


def process_of(reads: Restores, params: Any) -> Any:
    """The process of a run; from its parameters, if the objective trains it together with the network."""
    process = reads.process
    return process.trained(params[HEADS]["powers"]) if isinstance(process, discrete.TrainedMasks) else process


def _conditions(recipe: Recipe, labels: Any) -> tuple[Any, ...]:
    """The conditions of the guidance's branches, the conditional branch first; a single one without guidance."""
    if recipe.examples.null is None:
        return (None,)
    if recipe.scale == 1:
        return (labels,)
    return labels, recipe.examples.null_condition(run_denoiser.number_of(labels))


def infilled(recipe: Recipe, text: str, vocabulary: Sequence[str]) -> Recipe:
    """The recipe whose samples keep the characters of a text, fill in its underscores, and continue after its end.

    Args:
        recipe: the recipe, for a shape of examples.
        text: the known characters, with an underscore for each unknown one.
        vocabulary: the text of each symbol, one character.

    Raises:
        ConfigError: for a run without a vocabulary of characters, a block-causal network, a text that is longer than
            an example, or a character that is not in the vocabulary.
    """
    if not isinstance(recipe.objective.reads, Restores) or any(len(symbol) != 1 for symbol in vocabulary or ("",)):
        raise ConfigError(f"--infill={text!r}: the samples of this run are not characters. Valid: no --infill.")
    if facts.causal(recipe.network):
        raise ConfigError("--infill: a block-causal network does not see the text after a gap. Valid: model.causal = 0")
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
    known = np.array([character != UNKNOWN for character in padded])  # even if the vocabulary has an underscore
    values = np.array([vocabulary.index(character) if character != UNKNOWN else 0 for character in padded])
    return recipe.with_parts(sampler=discrete.infilling(_sampler(recipe), jnp.asarray(values), jnp.asarray(known)))


def _sampler(recipe: Recipe) -> discrete.SymbolSampler:
    """The sampler of a recipe on symbols, which `symbol_runs.check` has checked."""
    return cast(discrete.SymbolSampler, recipe.sampling.sampler)


def texts(x: np.ndarray, vocabulary: Sequence[str]) -> list[str]:
    """The text of each sample of symbols, int `[N, ...]`; without a vocabulary, its numbers separated by spaces.

    The mask, which is the symbol after the last of the vocabulary, becomes an underscore, and so does -1, which stands
    for no prediction.
    """
    words = (*vocabulary, UNKNOWN)
    rows = x.reshape(len(x), -1).tolist()
    return ["".join(words[symbol] for symbol in row) if vocabulary else " ".join(map(str, row)) for row in rows]
