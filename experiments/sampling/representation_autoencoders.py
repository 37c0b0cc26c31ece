"""The representation autoencoder of a run that trained a decoder, with its frozen encoder and measured statistics."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data.transforms import to_model
from diffusion.experiments.sampling import encoder_features
from diffusion.models.autoencoders import autoencoder_rae
from diffusion.models.autoencoders.autoencoder_rae import AutoencoderRAE
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.recipe import ConfigError, data
from diffusion.recipe.parts import Resolver

MEASURED = 10_000  # the most training pictures whose features are measured
BATCH = 64  # pictures that are encoded at once


def build_autoencoder(
    decoder: RAEDecoder, params: Any, config: Mapping[str, Any], sha256: str = ""
) -> tuple[AutoencoderRAE, Any]:
    """The autoencoder of a decoder, with the encoder of its run and statistics of at most MEASURED training pictures.

    The encoder receives pictures resized without antialiasing, as published, whatever the run's resizing was.

    Args:
        decoder: the decoder that the run trained.
        params: the parameters of the decoder.
        config: the config of the run.
        sha256: the digest of the encoder's weights, from the run's checkpoints; "" where it is not known.

    Returns:
        (module, params).

    Raises:
        ConfigError: if the run does not read its encoder from a file, or the file is missing or holds another encoder.
    """
    encoder = Resolver(config).encoder
    if encoder is None or not encoder.path:
        raise ConfigError(
            "config.encoder.path = '': the encoder of this run has initial weights, which no file stores. Valid: a "
            "run whose encoder is read from a file."
        )
    module = AutoencoderRAE(encoder.module, decoder)
    side = encoder.module.patch
    shapes = jax.eval_shape(encoder.module.init, jax.random.key(0), jnp.zeros((1, side, side, encoder.channels)))
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    weights, source = encoder_features.read_frozen("encoder", encoder.path, empty)
    if sha256 and encoder_features.digest(source) != sha256:
        raise ConfigError(
            f"config.encoder.path = {encoder.path!r} holds another encoder than the one that the run was trained with."
        )
    both = {"encoder": weights["params"], "decoder": params}
    features = jax.jit(lambda x: module.apply({"params": both}, to_model(x), method="features"))
    moments = autoencoder_rae.measured(np.asarray(features(batch)) for batch in _pictures(config))
    return autoencoder_rae.with_statistics(module, both, *moments)


def _pictures(config: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Batches of training pictures, which are evenly spaced in the split."""
    source = data.source(config, config["data"]["split"])
    rows = np.linspace(0, len(source) - 1, min(MEASURED, len(source))).astype(int).tolist()
    for i in range(0, len(rows), BATCH):
        yield np.stack([source[row]["image"] for row in rows[i : i + BATCH]])
