"""Class-conditional models of pictures, of one size: masked, uniform and Gaussian diffusion."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion import discrete, models, objectives, parameterizations, samplers, schedules, timesteps
from examples.symbols import characters

PIXELS, CLASSES = 64, 10
TIMES = 32  # strata of the times of a batch, and times at which each picture is measured
FIRST = 0.2  # time at which the Gaussian bound decodes the bits: sigma / alpha is a quarter of a bit's distance to 0
LINE = schedules.rectified_flow()
VELOCITY = parameterizations.velocity(parameterizations.time(1000.0))


class DigitModel(NamedTuple):
    """A model of pictures of a class, as L symbols.

    Attributes:
        initial: a function seed -> initial parameters.
        loss: the training loss, of batches {"x": int `[B, L]` symbols, "label": int `[B]`}.
        bound: an upper bound on -log p in nats per symbol; None if it is not comparable with that of other models.
        estimator: the kind of `bound`, in words.
        sample: a function (params, keys `[B]`, labels `[B]`, steps) -> int `[B, L]` symbols, with one evaluation of the
            network per step.
    """

    initial: Callable[[int], Any]
    loss: characters.Loss
    bound: characters.Loss | None
    estimator: str
    sample: Callable[[Any, jax.Array, jax.Array, int], jax.Array]


def all_models(width: int, depth: int, heads: int = 4) -> dict[str, DigitModel]:
    """The models of bits, of one width and depth, by their names."""
    models_of_bits = symbol_models(2, PIXELS, CLASSES, width, depth, heads)
    return {**models_of_bits, "Gaussian": _gaussian(width, depth, heads)}


def symbol_models(
    symbols: int, length: int, classes: int, width: int, depth: int, heads: int = 4
) -> dict[str, DigitModel]:
    """The models of symbols by their names: masked, uniform and flow.

    Args:
        symbols: the number of different symbols, without the mask.
        length: the number of symbols of an example.
        classes: the number of classes.
        width: features of a symbol.
        depth: number of layers.
        heads: number of attention heads.
    """
    density = timesteps.uniform_density(LINE, TIMES)
    masks, flips = discrete.absorbing(discrete.linear(), symbols + 1), discrete.uniform(discrete.linear(), symbols)
    context = discrete.from_context
    masked = discrete.masked_diffusion(masks, density)
    entropy = discrete.score_entropy(flips, density, context)
    matching = discrete.discrete_flow_matching(flips, density, context)

    def symbol_model(
        process: discrete.Process,
        reading: discrete.Reading,
        loss: objectives.Objective,
        bound: objectives.Objective,
        sampler: discrete.SymbolSampler,
        estimator: str,
    ) -> DigitModel:
        network = models.SymbolTransformer(process.size, width, depth, heads, num_classes=classes, positions="sincos")
        called = network_call(network, 1000.0)

        def sample(params: Any, keys: jax.Array, labels: jax.Array, steps: int) -> jax.Array:
            predict = discrete.predictor(called(params), process, reading, labels)
            return characters.sampled(sampler, predict, process, keys, length, steps)

        as_they_are = lambda batch: batch["x"]
        losses = [loss_of_batches(called, objective, as_they_are) for objective in (loss, bound)]
        first_input = jnp.zeros((1, length), jnp.int32)
        return DigitModel(initial_parameters(network, first_input), losses[0], losses[1], estimator, sample)

    return {
        "masked": symbol_model(masks, discrete.from_logits, masked, masked, discrete.ancestral(), "masked bound"),
        "uniform": symbol_model(flips, context, entropy, entropy, discrete.ancestral(), "score entropy"),
        "flow": symbol_model(flips, context, matching, entropy, discrete.flow(), "score entropy"),
    }


def _gaussian(width: int, depth: int, heads: int) -> DigitModel:
    """Flow matching on the numbers -1 and 1, with samples rounded to the nearer one."""
    network = models.SequenceTransformer(width, depth, heads, num_classes=CLASSES)
    density = timesteps.uniform_density(LINE, TIMES, t_min=FIRST)
    bits_decoder = objectives.decoders.levels(2)
    bound = objectives.variational_bound(VELOCITY, density, FIRST, bits_decoder)
    matching = objectives.flow_matching(timesteps.logit_normal(LINE, strata=TIMES), clock=VELOCITY.clock)

    called = network_call(network)

    def sample(params: Any, keys: jax.Array, labels: jax.Array, steps: int) -> jax.Array:
        denoise = parameterizations.denoiser(called(params), LINE, VELOCITY, labels)
        x = gaussian_samples(denoise, timesteps.uniform(LINE, steps), keys, (PIXELS, 1))
        return (x[..., 0] > 0).astype(jnp.int32)

    numbers = lambda batch: 2.0 * batch["x"][..., None] - 1
    losses = [loss_of_batches(called, objective, numbers) for objective in (matching, bound)]
    in_nats = lambda *arguments: np.log(2) * losses[1](*arguments)  # the bound is in bits
    return DigitModel(
        initial_parameters(network, jnp.zeros((1, PIXELS, 1))), losses[0], in_nats, "variational bound", sample
    )


def gaussian_samples(
    denoise: parameterizations.Denoiser, times: np.ndarray, keys: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Samples `[B, *shape]` of a denoiser on a grid of times, each from its own key `[B]`."""
    first, keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    noise = samplers.prior(LINE, first, shape)
    return samplers.sample(samplers.dpmpp_2m(), denoise, LINE, noise, timesteps.plan(times), keys)


def initial_parameters(network: nn.Module, x: jax.Array) -> Callable[[int], Any]:
    """A function seed -> the initial parameters of a network for examples such as `x`."""
    return lambda seed: network.init(jax.random.key(seed), x, jnp.ones(1), jnp.zeros(1, jnp.int32))["params"]


def network_call(network: nn.Module, scale: float = 1.0) -> Callable[[Any], Callable[..., jax.Array]]:
    """A function params -> the network (x, t, label) -> output, which receives the time multiplied by a scale."""

    def called(params: Any) -> Callable[..., jax.Array]:
        def call(x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
            output = network.apply({"params": params}, x, scale * t, label)
            assert isinstance(output, jax.Array)
            return output

        return call

    return called


def loss_of_batches(
    called: Callable[[Any], Callable], objective: objectives.Objective, world: Callable[[Any], jax.Array]
) -> characters.Loss:
    """The loss of an objective on batches, where `world` turns a batch into the network's examples."""

    def loss(params: Any, key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        number = len(batch["label"])
        examples = {"x": world(batch), "condition": batch["label"], "index": jnp.arange(number)}
        return objective({"model": called(params)}, LINE, jax.random.split(key, number), examples, 0)[0]

    return loss
