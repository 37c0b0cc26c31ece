"""The checkpoints of other libraries that the fixtures stand for: folders made again from names, shapes and config."""

import gzip
import json
import pathlib
import re
from typing import NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import save_file

from tests.peers.made_weights import made

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "models"


class Published(NamedTuple):
    """What a fixture tells of a network: its config, the shapes of its tensors, one call."""

    config: dict
    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    same: dict[str, str]
    kept: dict[str, np.ndarray]

    def tensors(self, dtype: str = "float32") -> dict[str, np.ndarray]:
        """The made weights."""
        tensors = {name: made(self.same.get(name, name), shape, dtype) for name, shape in self.shapes.items()}
        return tensors | {name: array.astype(dtype) for name, array in self.kept.items()}

    def folder(self, place: pathlib.Path, dtype: str = "float32") -> pathlib.Path:
        """The folder that `save_pretrained` wrote, with the made weights."""
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(self.config))
        diffusers = "_class_name" in self.config
        save_file(self.tensors(dtype), place / f"{'diffusion_pytorch_model' if diffusers else 'model'}.safetensors")
        return place


def case(name: str) -> Published:
    """The fixture of a small network, see tests/peers/cases.py."""
    with safetensors.safe_open(FIXTURES / f"{name}.safetensors", framework="numpy") as file:
        about = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}
    part = lambda which: {key[len(which) :]: value for key, value in arrays.items() if key.startswith(which)}
    shapes = {key: tuple(shape) for key, shape in json.loads(about["shapes"]).items()}
    same = json.loads(about.get("same", "{}"))
    return Published(json.loads(about["config"]), shapes, part("in/"), part("out/"), same, part("kept/"))


def listing(name: str) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """(config, shapes by name) of a network at its published size."""
    first, *lines = gzip.decompress((FIXTURES / f"{name}.txt.gz").read_bytes()).decode().split("\n")
    shapes = {}
    for line in lines:
        key, shape = re.fullmatch(r"(\S+) \[(.*)\]", line).groups()
        shapes[key] = tuple(int(side) for side in shape.split(",") if side.strip())
    return json.loads(first), shapes
