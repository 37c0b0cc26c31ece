"""Models of the codes of drawings: masked and uniform diffusion of codes, and Gaussian diffusion of patches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import models, objectives, parameterizations, timesteps
from examples.symbols import digit_models, drawing_codes

LENGTH, CHANNELS, CLASSES = drawing_codes.TOKENS, drawing_codes.CHANNELS, len(drawing_codes.PAIRS)
MEAN, DEVIATION = 0.87, 0.24  # approximate mean and deviation of the numbers in the patches of training drawings
NOISY, SHIFT = 1.5, 3.0  # mean of the logits of times, and shift of the sampler's times, as in `configs/text/shapes`


def all_models(codes: int, width: int, depth: int, heads: int = 4) -> dict[str, digit_models.DigitModel]:
    """The models of one width and depth for a number of codes, all with about the same number of parameters."""
    symbol_models = digit_models.symbol_models(codes, LENGTH, CLASSES, width, depth, heads)
    wanted = parameters(symbol_models["uniform"])
    plain = parameters(gaussian(width, depth, heads, 4 * width))
    hidden = 4 * width + (wanted - plain) // (depth * (2 * width + 1))  # a hidden feature has two rows and a bias
    return {**symbol_models, "Gaussian": gaussian(width, depth, heads, hidden)}


def parameters(model: digit_models.DigitModel) -> int:
    """The number of a model's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.initial, 0)))


def gaussian(width: int, depth: int, heads: int, hidden: int) -> digit_models.DigitModel:
    """Flow matching of patches before they are quantised, in batches {"z": float `[B, 64, 48]`, "label": int `[B]`}.

    Its samples are patches, float `[B, 64, 48]`. The prediction x_0, the velocity's error as the loss, and times near
    the noise are those of `configs/text/shapes`, since layouts form at more noise than patches.

    Args:
        width: features of a patch.
        depth: number of layers.
        heads: number of attention heads.
        hidden: hidden features of each layer's MLP.
    """
    line, velocity = digit_models.LINE, digit_models.VELOCITY
    x0 = parameterizations.x0(velocity.clock)
    network = models.SequenceTransformer(
        width, depth, heads, num_classes=CLASSES, mlp_ratio=(hidden + 0.5) / width
    )  # rounded down
    called = digit_models.network_call(network)
    density = timesteps.logit_normal(line, NOISY, strata=digit_models.TIMES)
    matching = objectives.denoising(x0, objectives.weightings.constant(velocity), density)

    def sample(params: Any, keys: jax.Array, labels: jax.Array, steps: int) -> jax.Array:
        denoise = parameterizations.denoiser(called(params), line, x0, labels)
        times = timesteps.shift(line, timesteps.uniform(line, steps), SHIFT)
        return MEAN + DEVIATION * digit_models.gaussian_samples(denoise, times, keys, (LENGTH, CHANNELS))

    standardised = lambda batch: (batch["z"] - MEAN) / DEVIATION
    loss = digit_models.loss_of_batches(called, matching, standardised)
    first_input = jnp.zeros((1, LENGTH, CHANNELS), np.float32)
    initial = digit_models.initial_parameters(network, first_input)
    return digit_models.DigitModel(initial, loss, None, "none that compares", sample)
