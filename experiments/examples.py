"""The examples that a run trains on: pictures of a dataset, or latents of them from a cache."""

from collections.abc import Mapping
from typing import NamedTuple

from diffusion.data import latents, pipeline, sources
from diffusion.data.transforms import Augmentation
from experiments import autoencoders, resolve
from experiments.config import ConfigError


class Examples(NamedTuple):
    """What `pipeline.batches` takes.

    Attributes:
        source: random access to the records.
        spec: what they are.
        augment: what is done to each, in order.
    """

    source: pipeline.Source
    spec: sources.DataSpec
    augment: tuple[Augmentation, ...]


def open_examples(config: Mapping) -> Examples:
    """Opens what config.data names.

    Raises:
        ConfigError: if it is not there, or is a cache of other pictures or by another autoencoder than is asked for.
    """
    data = config["data"]
    place = data["latents"]["dir"]
    try:
        if not place:
            source, spec = sources.open_source(data["name"], data["split"], data["dir"])
            return Examples(source, spec, resolve.augmentations(config))
        cache, spec = latents.open_cache(place)
        asked = data["latents"]["autoencoder"]
        autoencoder = autoencoders.load(asked).record if asked else None
        latents.require(cache.description, data["name"], data["split"], autoencoder, where=place)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.data: {error}") from error
    return Examples(cache, spec, (cache.draw,))

