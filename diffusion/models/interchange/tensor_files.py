"""Tensors by name in files: safetensors, in one file or several with an index, GGUF, PyTorch's, and Flax's.

Tensors of safetensors are mapped into memory, and those of GGUF are read on request; tensors in the other formats are
read when the file is opened. Nothing in a file is executed.
"""

import functools
import itertools
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from diffusion.io import files, limits, opener, safetensors_files, torch_files
from diffusion.io.safetensors_files import SUFFIX
from diffusion.models.interchange import flax_files, gguf_files, quantised_tensors
from diffusion.models.interchange.quantised_tensors import Quantised
from diffusion.models.interchange.rows import Mismatch

PICKLED = (".pt", ".pth", ".ckpt", ".bin")
# Prefixes of the names in a file that holds the whole state of a training.
DICTIONARIES = ("ema.", "model.", "opt.", "optimizer.", "state_dict.", "args.", "config.", "scheduler.")
INDEX = ".safetensors.index.json"
# A variant's index is model.safetensors.index.fp16.json, or model.safetensors.fp16.index.json in older folders.
VARIANT = re.compile(r"\.safetensors(\.[^.]+\.index|\.index\.[^.]+)\.json$")
SHARD_NAME = re.compile(r"-\d+-of-\d+\.")
PART = 2**16  # number of values that are checked at once
SHARD = 5 * 10**9  # most bytes of a written file, beyond which another file begins


class Tensors(NamedTuple):
    """The tensors of a checkpoint: names, shapes and files.

    Attributes:
        path: the file or folder, for messages.
        places: the file of each tensor, by the tensor's name.
        names: each tensor's name in its file, by the name here, which may lack a prefix of the name in the file.
        shapes: shapes by name.
        readers: functions that read a tensor, by the name in the file.
        quantised: functions that read a tensor as values and scales, by the name in the file, for the tensors that are
            stored in this form.
        types: the types of the arrays that the readers return, by the name in the file; None for an unsupported type.
    """

    path: pathlib.Path
    places: Mapping[str, pathlib.Path]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    readers: Mapping[str, Callable[[], np.ndarray]] = {}
    quantised: Mapping[str, Callable[[], Quantised | None]] = {}
    types: Mapping[str, np.dtype | None] = {}

    def read(self, name: str) -> np.ndarray:
        """The tensor of that name, in its stored type (bfloat16 and float8 from ml_dtypes).

        Raises:
            limits.Refused: if the type is not supported, or a number is not finite.
        """
        array = self.unchecked(name)
        self.refuse_unless_finite(name, array)
        return array

    def unchecked(self, name: str) -> np.ndarray:
        """The tensor of that name without a check of its numbers; a tensor of safetensors is only mapped.

        Raises:
            limits.Refused: if the type is not supported.
        """
        return self.readers[self.names[name]]()

    def type_of(self, name: str) -> np.dtype | None:
        """The dtype in which a tensor is read; None for an unsupported type."""
        return self.types[self.names[name]]

    def read_quantised(self, name: str) -> Quantised | None:
        """The tensor as values and scales; None if it is not stored in this form.

        Raises:
            limits.Refused: if a value or a scale is not finite.
        """
        reader = self.quantised.get(self.names[name])
        quantised = reader() if reader else None
        for array in quantised or ():
            self.refuse_unless_finite(name, array)
        return quantised

    def refuse_unless_finite(self, name: str, array: np.ndarray) -> None:
        """Refuses NaN and infinity in a tensor, or in a part of it.

        Args:
            name: the tensor's name.
            array: the tensor's numbers, or some of them.

        Raises:
            limits.Refused: if a number is NaN or infinite; the message names the file and the tensor.
        """
        if not is_finite(array):
            raise limits.Refused(
                f"{self.places[name]}: {self.names[name]} holds NaN or an infinite number: the file is damaged, or the "
                "training that wrote it had diverged."
            )

    def under(self, prefix: str) -> "Tensors":
        """The tensors whose names begin with the prefix, under their names without the prefix."""
        mine = [name for name in self.places if name.startswith(prefix)]
        short = lambda table: {name[len(prefix) :]: table[name] for name in mine}
        return self._replace(places=short(self.places), names=short(self.names), shapes=short(self.shapes))

    def without(self, patterns: tuple[str, ...]) -> "Tensors":
        """The tensors whose whole names match none of the regular expressions."""
        mine = [name for name in self.places if not any(re.fullmatch(pattern, name) for pattern in patterns)]
        keep = lambda table: {name: table[name] for name in mine}
        return self._replace(places=keep(self.places), names=keep(self.names), shapes=keep(self.shapes))


def is_finite(array: np.ndarray) -> bool:
    """Whether an array holds neither NaN nor infinity.

    Without the sign, the bits of floating-point numbers are ordered as the numbers are, and those of infinity and NaN
    are above those of the largest finite number.
    """
    if array.size == 0 or not jnp.issubdtype(array.dtype, np.floating):
        return True
    bits = np.dtype(f"u{array.dtype.itemsize}")
    largest = np.asarray(ml_dtypes.finfo(array.dtype).max, array.dtype).view(bits)
    magnitude = bits.type(np.iinfo(bits).max >> 1)
    return all((part.view(bits) & magnitude).max() <= largest for part in slabs(array))


def slabs(array: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of at most PART numbers that make up an array, in the order of memory, so that work on a part is small."""
    in_order = array.transpose(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
    if array.size <= PART or array.ndim == 0:
        yield in_order
    elif (row := array.size // len(in_order)) > PART:
        for inner in in_order:
            yield from slabs(inner)
    else:
        step = PART // row
        yield from (in_order[i : i + step] for i in range(0, len(in_order), step))


def open_tensors(path: str | pathlib.Path) -> Tensors:
    """Opens a file of tensors, or a folder that has one.

    The file is a .safetensors file, a .safetensors.index.json with its shards, a .gguf file, a file of torch.save (.pt,
    .pth, .ckpt, .bin), or a checkpoint of Flax (`flax_files`). Layers in fp8 with their scales beside them
    (`quantised_tensors`) are multiplied by the scales. If a file of torch.save holds several networks, the moving
    average ("ema") is read, or, if there is none, "model" or else "state_dict".

    If a folder has several such files, for example half-precision variants `*.fp16.safetensors`, an index is preferred
    to a single file, among equals the shortest name, and a variant in shards comes last. A .gguf file is read only if
    there is no .safetensors file.

    Args:
        path: the file or folder.

    Returns:
        `Tensors`. Of safetensors and GGUF only the header is read; the other formats are read whole.

    Raises:
        FileNotFoundError: if the path does not exist, or a folder has no such file; the message names the files there.
        limits.Refused: if a file is not in its format, or an index leads out of the folder.
    """
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder.")
    if flax_files.is_flax(path):
        return _held(path, flax_files.read(path))
    if path.suffix in PICKLED and path.is_file():
        return _held(path, _main(torch_files.read(path)))
    if path.is_dir():
        shortest = lambda paths: sorted(paths, key=lambda p: (len(p.name), p.name))
        candidates: list[pathlib.Path] = shortest(path.glob(f"*{INDEX}"))
        # Only the index leads to the shards.
        candidates += shortest(p for p in path.glob(f"*{SUFFIX}") if not SHARD_NAME.search(p.name))
        candidates += shortest(p for p in path.glob("*.json") if VARIANT.search(p.name))
        candidates += shortest(path.glob(f"*{gguf_files.SUFFIX}"))
        if not candidates:
            there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"{path} holds no {SUFFIX} file, but {there}. Pickled weights (.bin, .ckpt, .pt) in a folder are not "
                "read; most are published as safetensors too, and `safetensors.torch.save_file` writes them."
            )
        path = candidates[0]
    if path.suffix == gguf_files.SUFFIX:
        return _opened(path, gguf_files.read(path))
    indexed = path.name.endswith(INDEX) or VARIANT.search(path.name)
    shards = _shards(path) if indexed else {path: None}
    stored: dict[str, safetensors_files.Stored] = {}
    for shard, expected in shards.items():
        if shard.suffix != SUFFIX:
            raise limits.Refused(f"{shard}: weights are read only from {SUFFIX} files.")
        for name, one in safetensors_files.header(shard).tensors.items():
            if name in stored:
                raise limits.Refused(
                    f"{path}: {name} is stored twice, in the shards {stored[name].path.name} and {shard.name}."
                )
            stored[name] = one
        for name in expected or ():
            if name not in stored:
                raise limits.Refused(f"{path}: its index places {name} in {shard.name}, which does not contain it.")
    return _opened(path, quantised_tensors.scaled(stored))


def open_only(path: str | pathlib.Path) -> Tensors:
    """Opens a file, or the only one in a folder, as `open_tensors` does.

    The half-precision variants and the shards of a file count as one file together with it.

    Raises:
        Mismatch: if a folder has several .safetensors files, such as those of several adapters.
        FileNotFoundError, limits.Refused: under the conditions of `open_tensors`.
    """
    folder = pathlib.Path(path).expanduser()
    names = [file.name for file in folder.glob(f"*{SUFFIX}") if not SHARD_NAME.search(file.name)]
    first, *others = sorted(names, key=lambda name: (len(name), name)) or [""]
    if apart := [name for name in others if not name.startswith(f"{first.removesuffix(SUFFIX)}.")]:
        raise Mismatch(
            f"{folder} holds several files, {', '.join([first, *apart][:5])}{', ..' if len(apart) > 4 else ''}. Valid: "
            "the path of one of them."
        )
    return open_tensors(path)


def metadata(path: pathlib.Path) -> dict[str, str]:
    """The texts that the header of a .safetensors file holds beside the tensors; {} for a file in another format.

    Raises:
        OSError, limits.Refused: under the conditions of `safetensors_files.header`.
    """
    if path.suffix != SUFFIX:
        return {}
    return safetensors_files.header(path).metadata


def _opened(path: pathlib.Path, stored: Mapping[str, Any]) -> Tensors:
    """The tensors of files whose headers were read."""
    table = lambda field: {name: field(one) for name, one in stored.items()}
    return Tensors(
        path,
        table(lambda one: one.path),
        {name: name for name in stored},
        table(lambda one: one.shape),
        table(lambda one: one.read),
        {name: one.quantised for name, one in stored.items() if hasattr(one, "quantised")},
        table(lambda one: one.dtype),
    )


def _held(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> Tensors:
    """The tensors of a file that was read whole."""
    shapes = {name: array.shape for name, array in arrays.items()}
    readers = {name: functools.partial(lambda array: array, array) for name, array in arrays.items()}
    types = {name: array.dtype for name, array in arrays.items()}
    return Tensors(path, dict.fromkeys(arrays, path), {name: name for name in arrays}, shapes, readers, types=types)


def _main(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The moving average among the networks in a file of torch.save, or else the network that is called the model."""
    for part in ("ema.", "model.", "state_dict."):
        mine = {name.removeprefix(part): array for name, array in tensors.items() if name.startswith(part)}
        # "model.diffusion_model.0.weight" is a name in a file of one network.
        if mine and (part == "ema." or all(name.startswith(DICTIONARIES) for name in tensors)):
            tensors = mine
            break
    return {
        name: array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array for name, array in tensors.items()
    }


def _shards(path: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    """The files of an index, each with the names that the index lists for it."""
    index = opener.read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise limits.Refused(
            f"{path} is not an index of safetensors files: its weight_map is {limits.short(weight_map)}. Valid: a "
            "table of file names."
        )
    shards: dict[pathlib.Path, list[str]] = {}
    for name, file in weight_map.items():
        if pathlib.PurePath(file).name != file or len(file) > 200:
            raise limits.Refused(f"{path} names the file {limits.short(file)}, which does not lie beside it.")
        limits.inside(str(path), [file])
        shards.setdefault(path.parent / file, []).append(name)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(f"{path} names {len(shards)} files; missing: {', '.join(missing[:5])}.")
    return shards


def write_tensors(
    folder: pathlib.Path,
    stem: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    tensors: Iterator[tuple[str, np.ndarray]],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes tensors as one safetensors file, or, if they have more than SHARD bytes, as numbered files with an index.

    Each file appears only when it is complete, and the index appears last, so that a reader finds all or nothing.

    Args:
        folder: an existing folder.
        stem: stem of the file's name, for example "diffusion_pytorch_model".
        shapes: shapes of all tensors by their names, in the order of `tensors`.
        dtype: dtype of all tensors.
        tensors: (name, array) pairs, read one by one, so that memory holds only one tensor.
        metadata: texts for each file's header.
    """
    size = lambda name: math.prod(shapes[name]) * np.dtype(dtype).itemsize
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if shards[-1] and sum(map(size, shards[-1])) + size(name) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    weight_map = {}
    for i, shard in enumerate(shards):
        numbered = f"-{i + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = f"{stem}{numbered}{SUFFIX}"
        part = itertools.islice(tensors, len(shard))
        safetensors_files.write(folder / file, shard, dtype, part, {"format": "pt", **metadata})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(size, shapes))}, "weight_map": weight_map}
        with files.atomic(folder / (stem + INDEX)) as opened:
            opened.write(json.dumps(index, indent=2).encode())
