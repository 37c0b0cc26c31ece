"""Autoencoders from folders, as functions of uint8 pictures, for the latent cache, samples and evaluation."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion.data import latent_cache
from diffusion.data.sources import DataSpec
from diffusion.data.transforms import to_model, to_uint8
from diffusion.io import limits
from diffusion.models import interchange
from diffusion.models.autoencoders.latent_space import Moments, from_diffusion
from diffusion.models.budget import peak_memory
from diffusion.models.interchange import families, folders
from diffusion.recipe import ConfigError, data

FAILURES = (interchange.Refusal, interchange.Mismatch, limits.Refused)  # for command_line.run


class Autoencoder(NamedTuple):
    """A network that encodes pictures and decodes latents."""

    path: str  # its path, as the user wrote it
    module: nn.Module  # has the methods encode and decode, and the fields scale and shift of its latents
    params: Any  # parameters of the module; float32
    record: dict[str, Any]  # {"family", "config", "sha256"}, by which it is recognized


def load(path: str | pathlib.Path) -> Autoencoder:
    """Loads an autoencoder from a folder or a file, in the forms that `interchange.load` reads.

    Raises:
        ConfigError: if the path does not exist, or holds a network that does not encode.
        Refusal, Mismatch, limits.Refused: as in `interchange.load`.
    """
    try:
        module, params = interchange.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"the autoencoder {path}: {error}") from error
    if not (hasattr(module, "encode") and hasattr(module, "decode")):
        having = [name for name, family in families.FAMILIES.items() if hasattr(family.module, "encode")]
        raise ConfigError(
            f"{path} is a {type(module).__name__}, which does not encode pictures. Valid: a folder of a "
            f"{', '.join(having)}."
        )
    return from_module(module, params, str(path))


def from_module(module: nn.Module, params: Any, path: str = "") -> Autoencoder:
    """The autoencoder of a module and its parameters."""
    family = families.family_of(module)
    record = {
        "family": family.name,
        "config": json.loads(json.dumps(family.describe(module))),
        "sha256": digest(params),
    }
    return Autoencoder(path, module, params, record)


def digest(params: Any) -> str:
    """The sha256 of parameters: of names, shapes and float32 values, whatever the file and the type that store them."""
    total = hashlib.sha256()
    for name, leaf in sorted(folders.leaves_of(params).items()):
        array = np.ascontiguousarray(leaf, np.float32)
        total.update(f"{name} {array.shape}\n".encode() + array.tobytes())
    return total.hexdigest()


def channels(images: np.ndarray, takes: int, network: str = "autoencoder") -> np.ndarray:
    """Pictures with the number of channels that a network takes; a single channel is repeated if it takes three.

    Args:
        images: the pictures, `[..., C]`.
        takes: the number of channels that the network takes.
        network: the kind of network, for messages.

    Raises:
        ConfigError: for any other number of channels.
    """
    if images.shape[-1] == 1 and takes == 3:
        return np.repeat(images, 3, axis=-1)
    if images.shape[-1] != takes:
        raise ConfigError(f"the {network} takes pictures of {takes} channels, but these have {images.shape[-1]}.")
    return images


def latent(autoencoder: Autoencoder, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The form of the encoder's output for a picture (H, W, C): ("moments" or "mean", (h, w, D)).

    For a clip (F, H, W, C) it is (f, h, w, D).

    Raises:
        ConfigError: if the autoencoder does not take pictures of that size or number of channels.
    """
    channels(np.zeros((1, shape[-1]), np.uint8), autoencoder.module.picture_channels)
    x = jax.ShapeDtypeStruct((1, *shape[:-1], autoencoder.module.picture_channels), jnp.float32)
    try:
        latents = jax.eval_shape(lambda params, x: _encode(autoencoder.module, params, x), autoencoder.params, x)
    except ValueError as error:
        raise ConfigError(f"the pictures do not fit the autoencoder: {error}") from error
    return ("moments" if len(latents) == 2 else "mean"), latents[0].shape[1:]


def describe_cache(autoencoder: Autoencoder, spec: DataSpec, flip: bool) -> latent_cache.Description:
    """The description of a cache of the encoder's output, in float32.

    Args:
        autoencoder: the autoencoder.
        spec: the dataset of the pictures.
        flip: whether the cache also holds the output for the mirror images.

    Raises:
        ConfigError: as in `latent`.
    """
    kind, shape = latent(autoencoder, spec.shape)
    number = lambda x: tuple(x) if isinstance(x, (tuple, list)) else float(x)
    return latent_cache.Description(
        dataset=latent_cache.dataset_of(spec),
        autoencoder=autoencoder.record,
        shape=tuple(shape),
        kind=kind,
        views=latent_cache.VIEWS[: 1 + flip],
        dtype="float32",
        scale=number(autoencoder.module.scale),
        shift=number(getattr(autoencoder.module, "shift", 0.0)),
    )


def _encode(module: nn.Module, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
    """(mean, log variance) of the posterior; (latents,) for an autoencoder without a posterior."""
    latents: Any = module.apply({"params": params}, x, method="encode")
    return tuple(latents) if isinstance(latents, Moments) else (latents,)


def encoder(autoencoder: Autoencoder) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles uint8 [B, H, W, C] -> float32 [B, parts, h, w, D]: the mean, and the log variance if there is one.

    The pictures of a batch are split over all devices of this process if the number of devices divides the batch. On a
    CPU, pictures of a new size are refused if they need more memory than the machine has, since the operating system
    would end the process without a message.
    """
    fitting: set[tuple[int, ...]] = set()

    @jax.jit
    def encode(params, images):
        return jnp.stack(_encode(autoencoder.module, params, to_model(images)), axis=1).astype(jnp.float32)

    takes = autoencoder.module.picture_channels

    def encoded(images: np.ndarray) -> np.ndarray:
        arguments = placed(autoencoder.params, channels(images, takes))
        if images.shape not in fitting and jax.local_devices()[0].platform == "cpu":
            what = f"{autoencoder.path}: to encode {len(images)} pictures of {images.shape[1]} x {images.shape[2]}"
            try:
                peak_memory.check(what, peak_memory.peak(encode.trace(*arguments).jaxpr.jaxpr), "choose smaller ones")
            except limits.Refused as error:
                raise ConfigError(f"{error}.") from error
            fitting.add(images.shape)
        return np.asarray(encode(*arguments))

    return encoded


def reconstruction(autoencoder: Autoencoder) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles uint8 [B, H, W, C] -> uint8 [B, H, W, C]: the decoded mean of the posterior, rounded.

    Raises:
        ConfigError: for an autoencoder that decodes pictures with another number of channels than it encodes.
    """
    takes = autoencoder.module.picture_channels
    gives = getattr(autoencoder.module, "decoded_channels", None)
    if gives not in (None, takes):
        raise ConfigError(
            f"{autoencoder.path} encodes pictures of {takes} channels but decodes {gives}, so that they cannot be "
            "compared. Valid: an autoencoder with the same number of channels on both sides."
        )

    @jax.jit
    def reconstruct(params, images):
        z, *_ = _encode(autoencoder.module, params, to_model(images))
        return to_uint8(autoencoder.module.apply({"params": params}, z, method="decode"))

    return lambda images: np.asarray(reconstruct(*placed(autoencoder.params, channels(images, takes))))


def load_for_run(config: Mapping) -> Autoencoder | None:
    """The autoencoder of a run on latents, by its config; None for a run on other examples.

    Raises:
        ConfigError: for a run on latents that names no autoencoder, or another one than made its latents.
        Refusal, Mismatch, limits.Refused: as in `load`.
    """
    latents = config["data"]["latents"]
    if not latents["dir"]:
        return None
    if not latents["autoencoder"]:
        raise ConfigError(
            "config.data.latents.autoencoder = '': this run makes latents. Name the autoencoder that decodes them by "
            "--config.data.latents.autoencoder=FOLDER."
        )
    autoencoder = load(latents["autoencoder"])
    try:
        cache = latent_cache.describe(latents["dir"])
        name, split = data.name_of(config), config["data"]["split"]
        latent_cache.require(cache, name, split, autoencoder.record, where=latents["dir"])
    except FileNotFoundError:
        pass  # the run may have moved without its cache
    except latent_cache.CacheError as error:
        raise ConfigError(f"config.data.latents.autoencoder = {latents['autoencoder']!r}: {error}") from error
    return autoencoder


def decoder(module: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
    """The decoder: a function (parameters, latents of a model [B, ...]) -> pictures [B, H, W, C] in [-1, 1]."""

    def decode(params, x):
        z = from_diffusion(x, module.scale, getattr(module, "shift", 0.0))
        pictures: Any = module.apply({"params": params}, z, method="decode")
        return pictures

    return decode


def decoding(config: Mapping) -> tuple[Any, Callable[[Any, jax.Array], jax.Array]]:
    """The decoder of a run's samples, by its config; errors as in `load_for_run`.

    Returns:
        (parameters, a function (parameters, x [B, ...]) -> pictures [B, H, W, C] in [-1, 1]). For a run that is not on
        latents, the function returns x.
    """
    autoencoder = load_for_run(config)
    if autoencoder is None:
        return (), lambda params, x: x
    return autoencoder.params, decoder(autoencoder.module)


def placed(params: Any, images: np.ndarray) -> tuple[Any, jax.Array | np.ndarray]:
    """The parameters on every device, and the pictures split over the devices; both unchanged if they do not divide."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(images) % len(devices):
        return params, images
    mesh = Mesh(np.array(devices), ("data",))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    return everywhere, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
