"""A network of another library, with made weights, and what it puts out: one fixture a case.

It runs in the peers' environment (tests/peers/requirements.txt), without this library:

    python -m tests.peers.cases tests/fixtures/models            # every case
    python -m tests.peers.cases tests/fixtures/models unet_sd    # those whose names begin so

`make fixtures` does that. A case file <name>.safetensors holds inputs ("in/...") and outputs ("out/..."), and in its
metadata config.json as the library's own `save_pretrained` wrote it, the names and shapes that it saved, and the
versions. The weights are those of made_weights.py, so that tests/models/interchange/folders.py makes the same folder
again without the library. A listing <name>.txt.gz holds the names and shapes of a network at its published size.
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
        build: () -> torch module with `save_pretrained`.
        inputs: arrays by name, as our network takes them (channels last where they are images).
        run: (module, inputs as torch tensors) -> outputs by name, as our network gives them.
        same: for a tensor that must equal another, its name and the other's.
        kept: names of the tensors that keep what the module computed for them, such as tables of positions.
        by_file: whether the names are those of the file, where the library has others for its modules.
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
