"""Writes fixtures from networks of other libraries: the config, inputs and outputs of a network with made weights.

It runs in the peers' environment (tests/peers/requirements.txt), without this library:

    python -m tests.peers.cases tests/fixtures/models            # every case
    python -m tests.peers.cases tests/fixtures/models unet_sd    # cases whose names begin with unet_sd

`make fixtures` runs this command. A file <name>.safetensors holds the inputs ("in/...") and outputs ("out/...") of a
case. Its metadata have the config.json that the library's `save_pretrained` wrote, the names and shapes of the saved
tensors, and the versions. The weights are those of made_weights.py, so that tests/models/interchange/published.py can
write the same folder without the library. A listing <name>.txt.gz has the names and shapes of a network in its
published size.
"""

import gzip
import importlib
import json
import pathlib
import pkgutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.core_model_loading import revert_weight_conversion

from tests.peers import families
from tests.peers.made_weights import made


class Case(NamedTuple):
    """One small network of a peer.

    Attributes:
        build: a function () -> torch module with `save_pretrained`.
        inputs: {name: array} in the form that our network takes; images have their channels last.
        run: a function (module, inputs as torch tensors) -> {name: output} in the form that our network returns.
        same: {name of a tensor: name of another tensor that it must equal}.
        kept: names of tensors that keep the values that the module computed, such as tables of positions.
        by_file: whether weights are made by the names in the file, if the library's modules have other names.
    """

    build: Callable[[], torch.nn.Module]
    inputs: Mapping[str, np.ndarray]
    run: Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
    same: Mapping[str, str] = {}
    kept: tuple[str, ...] = ()
    by_file: bool = False


def stated(table: str) -> dict[str, Any]:
    """The entries of all files in tests/peers/families that have a table of this name, such as "CASES"."""
    entries = {}
    for module in pkgutil.iter_modules(families.__path__, "tests.peers.families."):
        entries |= getattr(importlib.import_module(module.name), table, {})
    return entries


def first(x: torch.Tensor) -> torch.Tensor:
    """Channels last to channels first."""
    return x.movedim(-1, 1)


def last(x: torch.Tensor) -> torch.Tensor:
    """Channels first to channels last."""
    return x.movedim(1, -1)


def fill(module: torch.nn.Module, same: Mapping[str, str] = {}, kept: tuple[str, ...] = ()) -> None:
    """Gives a module its made weights, by the names of its state; `same` and `kept` as in `Case`."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and name not in kept:
                tensor.copy_(torch.from_numpy(made(same.get(name, name), tuple(tensor.shape))))


def filled_by_file(module: torch.nn.Module) -> torch.nn.Module:
    """The module with made weights by the names of the file that its library saves, read by that library."""
    with tempfile.TemporaryDirectory() as saved:
        module.save_pretrained(saved)
        path = pathlib.Path(saved) / "model.safetensors"
        with safe_open(path, framework="numpy") as file:
            tensors = {key: made(key, tuple(file.get_slice(key).get_shape())) for key in file.keys()}
        save_file(tensors, path, metadata={"format": "pt"})
        return type(module).from_pretrained(saved).eval()


def write(name: str, case: Case, folder: pathlib.Path) -> None:
    """Writes the fixture of one case."""
    module = case.build().eval()
    if case.by_file:
        module = filled_by_file(module)
    else:
        fill(module, case.same, case.kept)
    kept = {}
    with tempfile.TemporaryDirectory() as saved:
        module.save_pretrained(saved, safe_serialization=True)
        config = json.loads((pathlib.Path(saved) / "config.json").read_text())
        shapes = {}
        for path in sorted(pathlib.Path(saved).glob("*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():
                    shapes[key] = list(file.get_slice(key).get_shape())
                    if key in case.kept:
                        kept[f"kept/{key}"] = file.get_tensor(key)
                    elif not np.array_equal(file.get_tensor(key), made(case.same.get(key, key), tuple(shapes[key]))):
                        raise ValueError(f"{name}: {key} was saved with numbers other than its input")
    with torch.no_grad():
        outputs = case.run(module, {key: torch.from_numpy(np.array(value)) for key, value in case.inputs.items()})
    arrays = {f"in/{key}": np.ascontiguousarray(value) for key, value in case.inputs.items()}
    arrays |= {f"out/{key}": value.contiguous().numpy() for key, value in outputs.items()}
    versions = {library.__name__: library.__version__ for library in (diffusers, transformers, torch)}
    save_file(
        arrays | kept,
        folder / f"{name}.safetensors",
        metadata={
            "config": json.dumps(config),
            "shapes": json.dumps(shapes),
            "versions": json.dumps(versions),
            "same": json.dumps(case.same),
            "command": "python -m tests.peers.cases tests/fixtures/models",
        },
    )


def write_listing(name: str, build: Callable[[], torch.nn.Module], folder: pathlib.Path) -> None:
    """Writes names and shapes of a network at its full size, built without memory; the first line is its config."""
    with torch.device("meta"):
        module = build()
    config = module.config if isinstance(module.config, Mapping) else module.config.to_dict()
    lines = [json.dumps({**config, "_class_name": type(module).__name__}, default=str)]
    shared = set(getattr(module, "_tied_weights_keys", None) or ())
    tensors = module.state_dict()
    if isinstance(module, transformers.PreTrainedModel):
        tensors = revert_weight_conversion(module, tensors)  # the names of its files, as save_pretrained writes them
    lines += [f"{key} {list(value.shape)}" for key, value in tensors.items() if key not in shared]
    with gzip.GzipFile(folder / f"{name}.txt.gz", "wb", mtime=0) as file:
        file.write("\n".join(lines).encode())


def main(folder: str, prefix: str = "") -> None:
    """Writes every case and every listing whose name begins with the prefix."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for table, writes in (("CASES", write), ("LISTINGS", write_listing)):
        for name, entry in stated(table).items():
            if name.startswith(prefix):
                print(name, flush=True)
                writes(name, entry, place)


if __name__ == "__main__":
    main(*sys.argv[1:])
