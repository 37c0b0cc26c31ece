"""The features of a frozen encoder in a cache: how they are computed, and how a cache is recognized."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion.data import feature_cache, latent_cache
from diffusion.data.transforms import to_model
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.io import limits
from diffusion.io.leaf_names import leaves_of
from diffusion.models import interchange
from diffusion.recipe import ConfigError, names
from diffusion.recipe.companions import Encoder
from diffusion.recipe.part_descriptions import described
from diffusion.training import warm_start

HOW = ("attention", "dtype")  # fields of a module that change how its features are computed, but not the features


def load(path: str | pathlib.Path, size: int) -> tuple[Encoder, Any]:
    """Loads an image encoder for pictures of one size.

    Args:
        path: a folder or a file, in the forms that `interchange.load` reads.
        size: the side length of the pictures in pixels, at least 1.

    Returns:
        (the encoder, its parameters).

    Raises:
        ConfigError: if the path does not exist or holds no image encoder, or the encoder does not take that size.
        Refusal, Mismatch, limits.Refused: as in `interchange.load`.
    """
    try:
        module, params = interchange.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"the encoder {path}: {error}") from error
    classes = tuple(entry for entry in names.ENCODERS.values() if isinstance(entry, type))
    if not isinstance(module, classes):
        valid = ", ".join(sorted(kind.__name__ for kind in classes))
        raise ConfigError(f"{path} is {limits.kind(module)}, which is not an image encoder. Valid: {valid}.")
    if size < 1:
        raise ConfigError(f"--encoder_size = {size} must be the side length of the pictures in pixels, e.g. 224.")
    encoder = Encoder(module, str(path), size)
    params = {"params": params}
    try:
        encoder.features(params)
    except ValueError as error:
        raise ConfigError(f"--encoder_size = {size}: {error}.") from error
    return encoder, params


def read_frozen(section: str, path: str, target: Any) -> tuple[Any, dict[str, Any]]:
    """Reads the parameters of a frozen network from its file.

    Args:
        section: the section of the config whose `path` names the file, "encoder" or "perceptual".
        path: the file or folder.
        target: the network's parameters, or their shapes.

    Returns:
        (the parameters, all leaves of the file by their names).

    Raises:
        ConfigError: if the file does not exist, or for the first leaf that the network lacks or has in another shape.
    """
    what = "encoder" if section == "encoder" else "network"
    try:
        source = warm_start.read(path)
        params, _, skipped = warm_start.warm_start(target, source)
    except FileNotFoundError as error:
        raise ConfigError(f"config.{section}.path = {path!r}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"config.{section}.path = {path!r} holds another {what}: {error}") from error
    if skipped:
        raise ConfigError(f"config.{section}.path = {path!r} holds another {what}: {skipped[0]}.")
    return params, source


def description(
    encoder: Encoder, params: Any, dataset: dict[str, Any], views: tuple[str, ...]
) -> latent_cache.Description:
    """The description of a cache of the encoder's features.

    Args:
        encoder: the encoder, with its size.
        params: the parameters of the encoder.
        dataset: the dataset of the pictures, as in `latent_cache.Description`.
        views: the views of each picture, as in `latent_cache.Description`.
    """
    return latent_cache.Description(
        dataset=dataset,
        autoencoder=identity(encoder) | {"sha256": digest(params)},
        shape=(1, *encoder.features(params)),
        kind="mean",
        views=views,
        dtype=feature_cache.DTYPE,
        scale=1.0,
        shift=0.0,
    )


def identity(encoder: Encoder) -> dict[str, Any]:
    """{"network", "size"}: what determines the features of an encoder besides its weights."""
    network = {field: value for field, value in described(encoder.module).items() if field not in HOW}
    return {"network": network, "size": encoder.size}


def digest(params: Any) -> str:
    """The sha256 of an encoder's parameters, with or without Linen's "params", whatever file stores them."""
    leaves = leaves_of(params)
    return autoencoder_folders.digest({name.removeprefix(warm_start.COLLECTION): x for name, x in leaves.items()})


def encode(encoder: Encoder, params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles uint8 [B, H, W, C] -> float32 [B, 1, 1, N, D], the form that `latent_writer.write` takes.

    A single channel is repeated for an encoder that takes three. The pictures of a batch are split over all devices of
    this process if the number of devices divides the batch.
    """

    @jax.jit
    def features(params, images):
        return encoder.apply(params, to_model(images), None, None)[:, None, None]

    def apply(images: np.ndarray) -> np.ndarray:
        images = autoencoder_folders.channels(images, encoder.channels, "encoder")
        return np.asarray(features(*autoencoder_folders.placed(params, images)))

    return apply


def require(description: latent_cache.Description, encoder: Encoder, where: str) -> None:
    """Refuses a cache whose features come from another encoder than the run's.

    The weights are compared only if the run names a file of weights.

    Args:
        description: the description of the cache.
        encoder: the encoder of the run.
        where: the folder of the latents beside which the features lie, for the message.

    Raises:
        ConfigError: names what differs.
    """
    needed = identity(encoder)
    if encoder.path:
        try:
            needed["sha256"] = digest(warm_start.read(encoder.path))
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(f"config.encoder.path = {encoder.path!r}: {error}") from error
    required = description._replace(autoencoder={**description.autoencoder, **needed})
    if differs := latent_cache.differences(description, required):
        listed = "; ".join(difference.removeprefix("autoencoder.") for difference in differs)
        raise ConfigError(
            f"config.encoder: {feature_cache.beside(where)} holds the features of another encoder (in the folder -> "
            f"in the run): {listed}. Write the features of this encoder by diffusion encode --encoder beside latents "
            "in another folder."
        )
