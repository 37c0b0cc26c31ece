"""One row of the zoo, as a value."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from diffusion.metrics import encoder_protocols
from diffusion.package import commands
from diffusion.recipe import recipes

DTYPE = "train.dtype"  # field of the type in which a network computes


class Checkpoint(NamedTuple):
    """The file of a network, as its authors publish it.

    Attributes:
        repository: the repository, as its authors name it: "facebookresearch/DiT".
        file: the file, as they name it.
        family: the family of its tensors' names, one of `interchange.FAMILIES`.
        stored: the network of the row's config -> the network that the file holds, where they differ.
        taken: (the network of the row's config, parameters of the file) -> parameters of that network.
        export: the text of a program that writes the file as safetensors, where the file is a pickle of the authors'
            classes; it runs in their environment. "" for a file that is read directly.
        inside: the part of an archive that is read, by its path within; "" for a file that is no archive.
        prefix: the prefix of the tensors that are read, where the file has several averages; "" for any that fits.
    """

    repository: str
    file: str
    family: str
    stored: Callable[[nn.Module], nn.Module] = lambda network: network
    taken: Callable[[nn.Module, Any], Any] = lambda network, params: params
    export: str = ""
    inside: str = ""
    prefix: str = ""

    @property
    def differs(self) -> bool:
        """Whether the network in the file, and in a folder converted from it, has another output than the recipe's."""
        return self.taken is not Checkpoint._field_defaults["taken"]

    @property
    def readable(self) -> str:
        """The name of the file that is read: the published one, what is in it, or what `export` writes."""
        return f"{self.file.rpartition('.')[0]}.safetensors" if self.export else self.inside or self.file


class Published(NamedTuple):
    """A figure that the authors report.

    Attributes:
        metric: the metric, as records name it: "fid".
        value: the figure itself.
        source: the authors, the year, and the table or the place.
    """

    metric: str
    value: float
    source: str


class Measured(NamedTuple):
    """A figure that we measured.

    Attributes:
        value: our value of the metric of `Published`.
        standard_error: the standard error of the value.
        number: the number of samples.
        device: the device on which they were made.
        day: the day of the measurement, 2026-11-23.
        command: the command that measured it.
    """

    value: float
    standard_error: float
    number: int
    device: str
    day: str
    command: str


class Row(NamedTuple):
    """A published network, and how its figure is measured here.

    Attributes:
        name: the row's name in commands: letters, digits, underscores.
        method: the method, as people call it: "DiT-XL/2".
        checkpoint: its file.
        recipe: the recipe of the network and of its sampling, a name of this library or a path.
        changes: changed values of the recipe's fields, by dotted names; a mapping as value replaces the whole entry.
        protocol: the figure's protocol, a name of `protocols.PROTOCOLS` or `encoder_protocols.PROTOCOLS`; "" for
            pixels.
        reference: the statistics with which the authors compare, as they name the file.
        published: the authors' figure.
        autoencoder: the network that decodes the latents, as its authors name it; "" for a network on pixels.
        autoencoder_config: fields of its folder's config.json that must differ from the published ones, to describe the
            latents that this network was trained on.
        number: the number of samples of the figure.
        measured: our figure; None where it was not measured.
        loss: a sentence on the training's loss as the authors publish it, with its source; "" where they do not.
        notes: sentences, each on a difference between our measurement and theirs.
    """

    name: str
    method: str
    checkpoint: Checkpoint
    recipe: str
    changes: Mapping[str, Any]
    protocol: str
    reference: str
    published: Published
    autoencoder: str = ""
    autoencoder_config: Mapping[str, Any] = MappingProxyType({})
    number: int = 50_000
    measured: Measured | None = None
    loss: str = ""
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """The flag that names the network of the protocol's features: "encoder" or "inception"; "" for pixels."""
        if not self.protocol:
            return ""
        return "encoder" if self.protocol in encoder_protocols.PROTOCOLS else "inception"

    def config(self) -> ConfigDict:
        """The recipe with the row's changes.

        Raises:
            ConfigError: if there is no such recipe, or it has no such field.
        """
        config = recipes.load(self.recipe)
        changes = {"sample.number": self.number, **self.changes}
        return recipes.preset(config, self.name, {self.name: changes})

    def convert(self) -> str:
        """The command that makes a folder of the downloaded file."""
        words = [f"--source={self.checkpoint.readable}"]
        if self.checkpoint.prefix:
            words.append(f"--prefix={self.checkpoint.prefix}")
        return commands.line("convert", *words, f"--out=zoo/{self.name}")

    def measure(self) -> str:
        """The command that measures the row from its file."""
        words = [f"--row={self.name}", f"--weights={self.checkpoint.readable}", f"--reference={self.reference}"]
        if self.network:
            words.append(f"--{self.network}={self.network.upper()}")
        if self.autoencoder:
            words.append("--autoencoder=VAE")
        return commands.line("zoo", *words, f"--out=runs/zoo/{self.name}")
