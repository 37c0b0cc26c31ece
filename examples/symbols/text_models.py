"""The neural models of the comparison, each with its network, losses and sampler.

The sizes differ only by the layers that process the time: masked diffusion and autoregressive models need none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from diffusion import discrete, models
from examples.symbols import autoregressive, characters

LETTERS = characters.MASK
UNIFORM = discrete.uniform(discrete.linear(), LETTERS)
CLOCK_WIDTH = 32  # features of the time


class TextModel(NamedTuple):
    """A model of characters.

    Attributes:
        network: the network.
        loss: the training loss, in nats per character.
        bound: an upper bound on -log p in nats per character, or -log p itself.
        estimator: the kind of `bound`, in words.
        sample: a function (params, keys `[B]`, length, steps) -> int `[B, length]`; the autoregressive model ignores
            the steps.
        filled: a function (params, line, key) -> the line with its underscores filled in; None for the autoregressive
            model.
    """

    network: nn.Module
    loss: characters.Loss
    bound: characters.Loss
    estimator: str
    sample: Callable[[Any, jax.Array, int, int], jax.Array]
    filled: Callable[[Any, str, jax.Array], str] | None


def all_models(width: int, depth: int) -> dict[str, TextModel]:
    """The models of one width and depth, by their names."""
    return {
        "masked": masked(width, depth),
        "uniform": uniform(width, depth),
        "flow": flow(width, depth),
        "autoregressive": left_to_right(width, depth),
    }


def masked(width: int, depth: int) -> TextModel:
    """Masked diffusion: the program of `characters`."""
    network = characters.network_of(width, depth)
    bound = functools.partial(characters.loss, network)
    return TextModel(
        network,
        bound,
        bound,
        "masked bound",
        _sampler(characters.PROCESS, functools.partial(characters.predictor, network), discrete.ancestral()),
        lambda params, line, key: characters.infilled(characters.predictor(network, params), line, key),
    )


def uniform(width: int, depth: int) -> TextModel:
    """Diffusion with random letters as the noise, trained by the score entropy."""
    network = _timed(width, depth)
    bound = _loss(network, discrete.score_entropy_bound)
    return _uniform_noise_model(network, bound, bound, discrete.ancestral())


def flow(width: int, depth: int) -> TextModel:
    """Discrete flow matching from random letters, measured by the bound of `uniform`, which any prediction has."""

    def cross_entropy(
        predict: discrete.Predictor, process: discrete.Process, keys: jax.Array, x0: jax.Array, t: jax.Array
    ) -> jax.Array:
        return discrete.flow_cross_entropy(predict, x0, discrete.noised(process, keys, x0, t), t)

    network = _timed(width, depth)
    return _uniform_noise_model(
        network, _loss(network, cross_entropy), _loss(network, discrete.score_entropy_bound), discrete.flow()
    )


def left_to_right(width: int, depth: int) -> TextModel:
    """A transformer of the same layers that reads from left to right."""
    network = autoregressive.CausalTransformer(LETTERS, width, depth, heads=width // 32)

    def loss(params: Any, key: jax.Array, x0: jax.Array) -> jax.Array:
        del key
        logits = network.apply({"params": params}, x0)
        assert isinstance(logits, jax.Array)
        return autoregressive.nats(logits, x0)

    def sample(params: Any, keys: jax.Array, length: int, steps: int) -> jax.Array:
        del steps
        return autoregressive.sample(network, params, keys, length)

    return TextModel(network, loss, loss, "exact", sample, None)


def _uniform_noise_model(
    network: nn.Module, loss: characters.Loss, bound: characters.Loss, sampler: discrete.SymbolSampler
) -> TextModel:
    """A model of letters under uniform noise."""
    predictor = functools.partial(_predictor, network)

    def filled(params: Any, line: str, key: jax.Array) -> str:
        start = discrete.prior(UNIFORM, key[None], (len(line),))
        return characters.infilled(predictor(params), line, jax.random.fold_in(key, 1), start, UNIFORM, sampler)

    return TextModel(network, loss, bound, "score entropy", _sampler(UNIFORM, predictor, sampler), filled)


def _timed(width: int, depth: int) -> models.SymbolTransformer:
    return models.SymbolTransformer(
        LETTERS, width, depth, heads=width // 32, clock="time", condition_width=CLOCK_WIDTH, tied=True
    )


def _predictor(network: nn.Module, params: Any) -> discrete.Predictor:
    return characters.predictor(network, params, UNIFORM, discrete.from_context)


def _loss(network: nn.Module, nats: Callable[..., jax.Array]) -> characters.Loss:
    """The loss of a batch of texts at random times, in nats per letter."""

    def loss(params: Any, key: jax.Array, x0: jax.Array) -> jax.Array:
        keys, t = characters.keys_and_times(key, len(x0))
        return nats(_predictor(network, params), UNIFORM, keys, x0, t) / x0.shape[1]

    return loss


def _sampler(
    process: discrete.Process, predictor: Callable[[Any], discrete.Predictor], sampler: discrete.SymbolSampler
) -> Callable[[Any, jax.Array, int, int], jax.Array]:
    """The function that draws texts from the parameters of a network."""

    def sample(params: Any, keys: jax.Array, length: int, steps: int) -> jax.Array:
        return characters.sampled(sampler, predictor(params), process, keys, length, steps)

    return sample
