"""Randomly altered files, as a stranger might send them, and a check of their readers, for the tests of fuzzed files.

    python -m tests.reliability.fuzzing KIND FIRST LAST      # seeds FIRST to LAST - 1, with limits of memory and time

An input is a valid file with a few changes of its structure (types, ranges, missing and repeated entries) or of single
bytes. A reader must read the input, or raise an error that the reader's documentation names; anything else is a fault.
"""

import copy
import json
import pathlib
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from diffusion import text
from diffusion.experiments.run_folder import workdir
from diffusion.io import limits, npz, opener, torch_files
from diffusion.metrics import frechet, statistics
from diffusion.models import interchange
from diffusion.models.interchange import schedulers, tensor_files
from diffusion.recipe import ConfigError, recipes
from diffusion.recipe.values import plain
from tests.metrics import torch_writer
from tests.models.interchange import published
from tests.reliability.hostile import peak
from tests.text import vocabularies

MEMORY = 200 * 10**6  # bytes that reading one input may add to the peak of memory
SECONDS = 2  # of processor time for one input
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def nested(depth: int) -> list:
    """An empty list inside `depth` further lists."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


ODD = (
    None, True, False, 0, 1, -1, 3, 77, 1000, 4097, 65536, 10**5, 10**6, 2**31 - 1, 2**31, 2**32, 10**9, 2**63, 10**30,
    -(10**9), 0.0, 0.5, -0.5, 1.5, 1e-300, 1e30, 1e308, float("nan"), float("inf"), -float("inf"), "", "2", "a", "\0",
    "\ud800", "../../etc/passwd", "x" * 10**5, "ä" * 300, [], {}, [None], ["a"], [[1]], [1] * 1000, [0], {"a": 1},
    {"content": []}, nested(30), nested(200), {"": {}}, [-1, "a", None, {}],
)  # fmt: skip


def altered(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three changes anywhere in it."""
    root = [json.loads(json.dumps(value))]
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder: Any = root
        at: Any = 0
        while isinstance(holder[at], (list, dict)) and holder[at] and rng.random() < 0.9:
            holder = holder[at]
            at = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        old = holder[at]
        match rng.randrange(6):
            case 0 | 1:
                holder[at] = copy.deepcopy(rng.choice(ODD))
            case 2 if isinstance(old, (int, float)) and not isinstance(old, bool):
                holder[at] = rng.choice((-old, old + 1, old - 1, old * 1000, old * 10**9, str(old), old / 2, old * 2))
            case 2 | 3 if isinstance(holder, dict):
                del holder[at]
            case 3 if isinstance(old, list):
                holder[at] = old * rng.choice((0, 2, 50))
            case 4 if isinstance(old, dict):
                old[rng.choice(("a", "", "_class_name", "x" * 1000))] = copy.deepcopy(rng.choice(ODD))
            case 5 if isinstance(holder, dict):
                holder[at] = holder[rng.choice(list(holder))]
            case _:
                holder[at] = [old]
    return root[0]


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A copy of some bytes with a few flipped bits, and bytes removed, inserted or repeated."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 8, 100))
        match rng.randrange(5):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.randbytes(length)
            case 3:
                del data[at : at + length]
            case _:
                data[at:at] = data[max(at - length, 0) : at] * rng.choice((1, 3))
    return bytes(data)


def as_json(value: Any, rng: random.Random) -> bytes:
    """An altered value as JSON; one time in eight only bytes are spoilt, and one time in eight a key is repeated."""
    content = json.dumps(altered(value, rng)).encode()
    match rng.randrange(8):
        case 0:
            return spoilt(json.dumps(value).encode(), rng)
        case 1 if isinstance(value, dict) and value:
            again = json.dumps({rng.choice(list(value)): rng.choice(ODD)})[1:-1].encode()
            return content.replace(b"{", b"{" + again + b", ", 1)
    return content


# ==== Kinds of files: a function writes a valid file to a folder, and returns a reader of altered copies ====

Reader = Callable[[random.Random | None], Any]


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        prepare: a function from a folder to a reader. The reader alters the valid file by a generator, and reads it;
            with None it reads the valid file.
        refusals: the errors that the reader's documentation names.
    """

    prepare: Callable[[pathlib.Path], Reader]
    refusals: tuple[type[Exception], ...]


ARRAYS = {
    "layers.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "layers.bias": np.ones(3, np.float32),
    "steps": np.arange(2, dtype=np.int64),
}


def pth(folder: pathlib.Path) -> Reader:
    pickled, storages = torch_writer.state(ARRAYS)
    path = folder / "weights.pth"

    def read(rng: random.Random | None) -> Any:
        changed = spoilt(pickled, rng) if rng and rng.random() < 0.7 else pickled
        if rng is None or rng.random() < 0.6:
            torch_writer.archive(path, changed, storages)
        else:
            torch_writer.stream(path, changed, storages, [array.size for array in ARRAYS.values()])
        if rng and changed is pickled:
            path.write_bytes(spoilt(path.read_bytes(), rng))
        return torch_files.read(path)

    return read


def arrays(folder: pathlib.Path) -> Reader:
    path = folder / "arrays.npz"
    images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)

    def read(rng: random.Random | None) -> Any:
        (np.savez_compressed if rng and rng.random() < 0.5 else np.savez)(path, images=images, labels=np.arange(2))
        if rng and rng.random() < 0.5:
            with zipfile.ZipFile(path) as archive:
                held = {name: archive.read(name) for name in archive.namelist()}
            name = rng.choice(list(held))
            start = held[name][:128]
            with zipfile.ZipFile(path, "w") as archive:
                for each, content in held.items():
                    archive.writestr(each, spoilt(start, rng) + content[128:] if each == name else content)
        elif rng:
            path.write_bytes(spoilt(path.read_bytes(), rng))
        there = npz.headers(path)
        for name in list(there)[:4]:
            npz.rows(path, name)(0, 1)
        return npz.load(path, there)

    return read


def feature_statistics(folder: pathlib.Path) -> Reader:
    rows = np.random.default_rng(0).normal(size=(20, 4))
    moments = frechet.update(frechet.init(4), rows)
    about = {
        "space": {"weights": "a", "resize": "b"},
        "images": {"sha256": "c"},
        "rows": {"pool": "d"},
        "versions": {"numpy": "2"},
    }
    tensors = {"pool.mean": moments.mean, "pool.m2": moments.m2}

    def own(path: pathlib.Path, rng: random.Random) -> bytes:
        said = altered({"format": 1, "count": 20, "taps": ["pool"], **about}, rng)
        if not isinstance(said, dict):
            said = {"": said}
        said["sha256"] = statistics._digest(said, tensors)
        content = safetensors.numpy.save(tensors, metadata={"statistics": json.dumps(said)})
        return header_altered(content, rng) if rng.random() < 0.3 else content

    def read(rng: random.Random | None) -> Any:
        path = folder / f"a.{'npz' if rng and rng.random() < 0.5 else 'safetensors'}"
        if path.suffix == ".npz":
            shape = rng.choice(((4, 4), (4, 3), (4,), (0, 0), (1, 4, 4)))
            kind = rng.choice("fdeiU?")
            with warnings.catch_warnings(action="ignore"):
                sigma = np.resize(moments.m2, shape).astype(kind)
                np.savez(path, mu=moments.mean * rng.choice((1, 1e308, np.nan)), sigma=sigma)
            path.write_bytes(spoilt(path.read_bytes(), rng) if rng.random() < 0.8 else path.read_bytes())
        elif rng is None:
            statistics.write(path, statistics.Statistics({"pool": moments}, 20, about))
        else:
            path.write_bytes(own(path, rng))
        return statistics.read(path)

    return read


def pickled_statistics(folder: pathlib.Path) -> Reader:
    path = folder / "a.pkl"
    part = {"mu": np.arange(3.0), "sigma": np.eye(3)}
    other = {"mu": np.arange(4, dtype=">f4"), "sigma": np.eye(4)}  # of another number of dimensions, as it must be
    whole = pickle.dumps({"num_images": 20, "fid": part, "fd_dinov2": other}, 4)

    def read(rng: random.Random | None) -> Any:
        path.write_bytes(spoilt(whole, rng) if rng else whole)
        return statistics.read(path)

    return read


def header_altered(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is altered; at times the stated length of the header is wrong."""
    (length,) = struct.unpack("<Q", content[:8])
    header = as_json(json.loads(content[8 : 8 + length]), rng)
    stated = len(header) if rng.random() < 0.9 else rng.choice((0, 2**62, length, len(header) - 1))
    return struct.pack("<Q", stated) + header + content[8 + length :]


def scheduler_configs(folder: pathlib.Path) -> Reader:
    examples = json.loads((FIXTURES / "text_to_image/schedulers.json").read_text())
    known = sorted(json.dumps(each) for each in examples.values())
    path = folder / "scheduler_config.json"

    def read(rng: random.Random | None) -> Any:
        config = json.loads(rng.choice(known) if rng else known[0])
        path.write_bytes(as_json(config, rng) if rng else json.dumps(config).encode())
        return schedulers.read(opener.read_table(path))

    return read


def network_folders(folder: pathlib.Path, names: str = "*") -> dict[str, dict]:
    """Saves a small network of every family, each to a folder with its name; returns {name: config}."""
    known = {}
    for path in sorted(published.FIXTURES.glob(f"{names}.safetensors")):
        case = published.case(path.stem)
        if {"_class_name", "architectures"} & case.config.keys():
            case.folder(folder / path.stem)
            known[path.stem] = case.config
    return known


def network_configs(folder: pathlib.Path) -> Reader:
    known = network_folders(folder)

    def read(rng: random.Random | None) -> Any:
        for name in [rng.choice(sorted(known))] if rng else known:
            path = folder / name / "config.json"
            path.write_bytes(as_json(known[name], rng) if rng else json.dumps(known[name]).encode())
            interchange.load(folder / name)

    return read


def tokenizer_folders(folder: pathlib.Path) -> Reader:
    made = {
        kind: vocabularies.folder_of(folder / str(i), kind, whole=whole)
        for i, (kind, whole) in enumerate((("clip", False), ("t5", False)))
    }
    made["whole"] = vocabularies.folder_of(folder / "whole", "clip, padded with !", whole=True)
    content = {path: path.read_bytes() for place in made.values() for path in place.iterdir()}

    def read(rng: random.Random | None) -> Any:
        for place in [rng.choice(sorted(made.values()))] if rng else made.values():
            names = [path for path in content if path.parent == place]
            chosen = rng.choice(names) if rng else None
            for path in names:
                if path != chosen:
                    path.write_bytes(content[path])
                elif path.suffix == ".json" and rng.random() < 0.8:
                    path.write_bytes(as_json(json.loads(content[path]), rng))
                else:
                    path.write_bytes(spoilt(content[path], rng))
            text.Tokenizer.open(place)(["a cat, 2 dogs", ""])

    return read


def run_configs(folder: pathlib.Path) -> Reader:
    config = plain(recipes.load("configs/digits.py"))
    path = folder / "config.json"

    def read(rng: random.Random | None) -> Any:
        path.write_bytes(as_json(config, rng) if rng else json.dumps(config).encode())
        return workdir.read_config(folder)

    return read


def headers(folder: pathlib.Path) -> Reader:
    network_folders(folder, "autoencoder_kl_flux")
    place = folder / "autoencoder_kl_flux"
    path = place / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()

    def read(rng: random.Random | None) -> Any:
        path.write_bytes(header_altered(content, rng) if rng else content)
        tensor_files.open_tensors(path)
        return interchange.load(place)

    return read


KINDS = {
    "pth": Kind(pth, (limits.Refused,)),
    "npz": Kind(arrays, (limits.Refused,)),
    "statistics": Kind(feature_statistics, (statistics.StatisticsError,)),
    "pickles": Kind(pickled_statistics, (statistics.StatisticsError,)),
    "scheduler": Kind(scheduler_configs, (interchange.Refusal, limits.Refused)),
    "networks": Kind(network_configs, (interchange.Refusal, interchange.Mismatch, limits.Refused)),
    "tokenizers": Kind(tokenizer_folders, (limits.Refused,)),
    "runs": Kind(run_configs, (workdir.WorkdirError, ConfigError)),
    "safetensors": Kind(headers, (interchange.Mismatch, limits.Refused)),
}


def kinds() -> dict[str, Kind]:
    """All kinds of files by name: those of this module and of the modules fuzzed_*."""
    # These modules import this one, so they cannot be imported at the top.
    from tests.reliability import fuzzed_additions, fuzzed_data, fuzzed_models, fuzzed_readers

    modules = (fuzzed_data, fuzzed_readers, fuzzed_models, fuzzed_additions)
    return {**KINDS, **{name: kind for module in modules for name, kind in module.KINDS.items()}}


def fault(kind: Kind, reader: Reader, seed: int) -> str:
    """What is wrong with how a reader treats the input of a seed; "" if the input is read or properly refused."""
    try:
        with warnings.catch_warnings(action="ignore"):
            reader(random.Random(seed))
    except kind.refusals as refusal:
        return "" if str(refusal) else "a refusal that says nothing"
    except ValueError as error:
        known = type(error) is ValueError and (
            "is not known. Valid: " in str(error) or "no length" in str(error) or "leaves no room" in str(error)
        )
        return "" if known else traceback.format_exc(limit=-4)
    except BaseException:
        return traceback.format_exc(limit=-4)
    return ""


def held() -> int:
    """The size of this process's data segment in bytes, as RLIMIT_DATA counts it."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024


def main(name: str, first: int, last: int) -> None:
    """Reads the inputs of some seeds; prints a line when a seed begins, and a line for each fault."""
    kind = kinds()[name]
    with tempfile.TemporaryDirectory() as folder:
        reader = kind.prepare(pathlib.Path(folder))
        reader(None)
        for seed in range(first, last):
            print("seed", seed, flush=True)
            if seed % 50 == 0:
                jax.clear_caches()
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
            before = peak()
            resource.setrlimit(resource.RLIMIT_DATA, (held() + 2 * MEMORY, resource.RLIM_INFINITY))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # after so much processor time the kernel ends this process
            wrong = fault(kind, reader, seed)
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            if (grown := peak() - before) > MEMORY:
                wrong += f"it took {limits.size(grown)}"
            if wrong:
                print("fault", json.dumps(wrong), flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
