"""A network under the names of its original repository, which diffusers' own conversion makes a network of."""

import pathlib
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


class Translated(torch.nn.Module):
    """Holds the tensors of the original names, and computes by diffusers' network after diffusers' conversion."""

    def __init__(
        self, network: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]], convert: Callable[[Tensors], Tensors]
    ):
        super().__init__()
        self.networks = (network,)  # not a child: its own names are not to be seen
        self.config, self.convert = network.config, convert
        self.tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}

    def state_dict(self) -> Tensors:
        return self.tensors

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        self.networks[0].save_config(folder)
        save_file(self.tensors, pathlib.Path(folder) / "diffusion_pytorch_model.safetensors")

    def network(self) -> torch.nn.Module:
        """Diffusers' network, with the tensors."""
        left = dict(self.tensors)
        converted = self.convert(left)  # takes out what it knows, and fails for a name that is missing
        if left:
            raise ValueError(f"diffusers does not know {sorted(left)}")
        self.networks[0].load_state_dict(converted)
        return self.networks[0]

    def forward(self, *arguments, **named):
        return self.network()(*arguments, **named)


def dense(**layers: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of dense layers, each given as (inputs, outputs); "__" stands for a dot."""
    names = {name.replace("__", "."): sizes for name, sizes in layers.items()}
    return {
        f"{name}.{leaf}": shape
        for name, (inputs, outputs) in names.items()
        for leaf, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }


def under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same shapes, with a prefix before their names."""
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
