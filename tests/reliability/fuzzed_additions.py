"""Kinds of fuzzed files that extend models (attachments, with their weights) or that commands read and write.

A reader may open files only in the folder of the input, and no socket; see `fuzzed_data.watched`.
"""

import contextlib
import json
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import flax.serialization
import jax
import msgpack
import numpy as np
import safetensors.numpy

from diffusion import text
from diffusion.adapters import custom_diffusion_files, lora_files
from diffusion.data.proteins import pdb
from diffusion.experiments import convert
from diffusion.experiments.arena import comparisons
from diffusion.experiments.evaluation import comparison, records
from diffusion.experiments.prompt_benchmark.benchmarks import BENCHMARKS
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import limits
from diffusion.metrics.prompt_following.readers import PromptsError
from diffusion.models import interchange
from diffusion.models.interchange import flax_files, folders
from diffusion.published.flux.network import Flux
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter
from diffusion.text import qwen_chat
from diffusion.text_to_image import attached
from tests.metrics.prompt_following import test_dpg_bench
from tests.models.interchange import published, test_other_formats
from tests.reliability.fuzzed_data import watched
from tests.reliability.fuzzed_models import REFUSALS, one_altered
from tests.reliability.fuzzed_readers import renamed
from tests.reliability.fuzzing import ODD, Kind, Reader, altered, as_json, header_altered, spoilt
from tests.text import vocabularies
from tests.text_to_image import made_pipelines


def weights_altered(place: pathlib.Path) -> Callable[[random.Random | None], None]:
    """A function that alters one file of a folder, which may hold weights, and restores all other files."""
    small = one_altered(place)
    stored = {path: path.read_bytes() for path in sorted(place.rglob("*.safetensors"))}

    def alter(rng: random.Random | None) -> None:
        weights = rng is not None and rng.random() < 0.6
        small(None if weights else rng)
        for path, content in stored.items():
            path.write_bytes(content)
        if not (rng and weights):
            return
        path = rng.choice(sorted(stored))
        content = stored[path]
        match rng.randrange(10):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(spoilt(content, rng))
            case 2 | 3 | 4:
                path.write_bytes(header_altered(content, rng))
            case _:
                path.write_bytes(
                    safetensors.numpy.save(renamed(safetensors.numpy.load(content), rng), {"format": "pt"})
                )

    return alter


def attachments(places: dict[str, tuple[pathlib.Path, Any, Any]], folder: pathlib.Path) -> Reader:
    """A reader of attachments, from {name: (the attachment's folder, the denoiser, the denoiser's parameters)}."""
    alter = {name: weights_altered(place) for name, (place, _, _) in places.items()}

    def read(rng: random.Random | None) -> None:
        for name in [rng.choice(sorted(places))] if rng else places:
            place, denoiser, params = places[name]
            alter[name](rng)
            with watched(folder):
                attached.load(place, denoiser, params)

    return read


def control_nets(folder: pathlib.Path) -> Reader:
    of = {
        "control_net": "conditional_unet_adapters",
        "flux_control_net_union": "flux_dev",
        "mmdit_control_net": "mmdit_sd3",
    }
    bases = {base: interchange.load(published.case(base).folder(folder / base)) for base in of.values()}
    places = {name: (published.case(name).folder(folder / name), *bases[base]) for name, base in of.items()}
    return attachments(places, folder)


def t2i_adapters(folder: pathlib.Path) -> Reader:
    unet = ConditionalUNet((16, 32), (1, 1), (2, 2), 8, groups=8)
    places = {}
    for kind, widths in (("light", (16, 32, 32)), ("full", (16, 32))):
        module = T2IAdapter(widths, 1, 2, kind=kind)
        shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
        interchange.save(folder / kind, module, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
        places[kind] = (folder / kind, unet, {})
    return attachments(places, folder)


def redux(folder: pathlib.Path) -> Reader:
    place = made_pipelines.folder("redux", folder / "redux")
    module, _ = interchange.load(place / "image_embedder")
    flux = Flux(4, 4, 24, 1, 1, 2, module.text_width, 6, (4, 4, 4), strength=True)
    return attachments({"redux": (place, flux, {})}, folder)


def custom_diffusion(folder: pathlib.Path) -> Reader:
    family, module = folders.described(made_pipelines.folder("sd", folder / "sd") / "unet")
    shapes = folders.shapes_of(family, module)
    layers = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    attentions = {name: leaf for name, leaf in folders.leaves_of(layers).items() if "cross_attention" in name}
    chosen = {name: leaf for name, leaf in attentions.items() if "/key/" in name or "/value/" in name}
    tensors = custom_diffusion_files.tensors_of(module, chosen)
    assert tensors
    path = folder / custom_diffusion_files.FILE

    def read(rng: random.Random | None) -> None:
        content = safetensors.numpy.save(renamed(tensors, rng) if rng and rng.random() < 0.7 else tensors)
        path.write_bytes(header_altered(content, rng) if rng and rng.random() < 0.4 else content)
        with watched(folder):
            lora_files.load(path, {"unet": module})

    return read


GENEVAL = [
    {"tag": "counting", "include": [{"class": "bird", "count": 4}], "exclude": [{"class": "bird", "count": 5}],
     "prompt": "four birds"},
    {"tag": "position", "include": [{"class": "cow", "count": 1}, {"class": "dog", "count": 1,
     "position": ["above", 0]}], "prompt": "a dog above a cow"},
    {"tag": "color_attr", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a red cow"},
]  # fmt: skip


def prompt_lists(folder: pathlib.Path) -> Reader:
    """The published files of the benchmarks' prompts: lines of JSON, a CSV, and lists of texts."""
    place = folder / "prompts"
    place.mkdir()
    lists = {
        "complex_val.txt": "The red car is near the tree.\nA cat and a dog.\n",
        "complex_val_spatial.txt": "The red car is near the tree.\n",
        "complex_val_action.txt": "A cat and a dog.\n",
        "color_val.txt": "a red apple and a green cup\na blue \u2028 bowl\n",
        "numeracy_val.txt": "two apples and a dog\n",
        "new_objects.txt": "apple - apples\ndog - dogs\n",
    }
    files = {
        "geneval": {"evaluation_metadata.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in GENEVAL)},
        "dpg-bench": {"dpg_bench.csv": "\n".join([test_dpg_bench.HEAD, *test_dpg_bench.LINES, ""]).encode()},
        "t2i-compbench++": {name: content.encode() for name, content in lists.items()},
    }

    def altered_lines(name: str, content: bytes, rng: random.Random) -> bytes:
        lines = content.split(b"\n")
        if name.endswith("jsonl") and rng.random() < 0.7:
            number = rng.randrange(len(GENEVAL))
            lines[number] = as_json(GENEVAL[number], rng)
        elif rng.random() < 0.5:
            number = rng.randrange(len(lines))
            cells = lines[number].split(b",")
            cells[rng.randrange(len(cells))] = str(rng.choice(ODD)).encode("utf-8", "replace")
            line = b",".join(cells)
            lines[number : number + 1] = [line] * (rng.choice((1, 1, 2, 1000)) if len(line) < 1000 else 1)
        content = b"\n".join(lines)
        return spoilt(content, rng) if rng.random() < 0.5 else content

    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice(sorted(files))] if rng else files:
            shutil.rmtree(place)
            place.mkdir()
            changed = rng.choice(sorted(files[kind])) if rng else ""
            for name, content in files[kind].items():
                (place / name).write_bytes(altered_lines(name, content, rng) if rng and name == changed else content)
            with watched(folder):
                BENCHMARKS[kind].read(place if len(files[kind]) > 1 else place / next(iter(files[kind])))

    return read


def converted(folder: pathlib.Path) -> Reader:
    """Folders of networks that `interchange.save` wrote, and the same weights as single files, for `convert`."""
    names = ("dit", "autoencoder_kl_sd", "clip_text")  # kind "networks" has larger ones, which take longer to trace
    places = {}
    for name in names:
        module, params = interchange.load(published.case(name).folder(folder / f"{name}_source"))
        interchange.save(folder / name, module, params)
        places[name] = folder / name
    alter = {name: weights_altered(place) for name, place in places.items()}

    def read(rng: random.Random | None) -> None:
        for name in [rng.choice(names)] if rng else names:
            alter[name](rng)
            single = next(places[name].glob("*.safetensors"), None) if rng and rng.random() < 0.3 else None
            with watched(folder):
                list(convert.networks(single or places[name]))
            if rng is None:  # the networks of published sizes with which a single file is compared are traced once
                with contextlib.suppress(interchange.Mismatch):
                    list(convert.networks(next(places[name].glob("*.safetensors"))))

    return read


def chats(folder: pathlib.Path) -> Reader:
    """Vocabularies with chat templates beside them, which no reader runs; a prompt in the markers of Qwen's chat."""
    kinds = {"clip": 668, "gemma": 400}  # with the next id of each vocabulary
    template = "{% for message in messages %}{{ message['role'] + message['content'] }}{% endfor %}"
    places = {}
    for kind in kinds:
        place = places[kind] = vocabularies.folder_of(folder / kind, kind)
        config = json.loads((place / "tokenizer_config.json").read_text())
        (place / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        (place / "chat_template.jinja").write_text(template)
        (place / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        markers = {"content": "<|im_start|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        (place / "added_tokens.json").write_text(json.dumps({"<|im_start|>": kinds[kind]}))
        (place / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": [markers]}))
    alter = {kind: one_altered(place) for kind, place in places.items()}

    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice([*kinds])] if rng else kinds:
            alter[kind](rng)
            with watched(folder):
                tokenizer = text.Tokenizer.open(places[kind])
                tokenizer([f"{qwen_chat.USER}a cat{qwen_chat.ANSWER}", ""])

    return read


def flax_files_of(folder: pathlib.Path) -> Reader:
    """Flax checkpoints in msgpack, with an altered tree or altered bytes."""
    path = folder / "checkpoint_7"
    whole = flax.serialization.msgpack_serialize(test_other_formats.TREE)
    # Flax stores an array as its shape, type and bytes.
    array = lambda shape, kind, content: msgpack.ExtType(1, msgpack.packb((shape, kind, content), use_bin_type=True))
    kinds = ("float32", "bfloat16", "V8", "object", "<U4", "int4", "", "float32,float32", 3)

    def read(rng: random.Random | None) -> None:
        content = whole
        if rng and rng.random() < 0.5:
            shape = rng.choice(((2, 3), (), (0,), [2, 3], (10**12,), (-1,), (2**63,), rng.choice(ODD)))
            with contextlib.suppress(OverflowError, ValueError, TypeError):  # msgpack cannot write some of the trees
                tree = {"params": {"a": array(shape, rng.choice(kinds), rng.choice((bytes(24), b"", "x")))}}
                content = msgpack.packb(rng.choice((tree, {1: tree}, {"": tree, "a.b": 1}, [tree])), use_bin_type=True)
        if rng and (content is whole or rng.random() < 0.3):
            content = spoilt(content, rng)
        path.write_bytes(content)
        with watched(folder):
            flax_files.read(path)

    return read


def arenas(folder: pathlib.Path) -> Reader:
    rows = [comparisons.Comparison(0, 1, (k, k), f"a cat {k}") for k in range(3)]
    comparisons.write(comparisons.Arena("Which is better?", 0, {"a": "f" * 64, "b": "e" * 64}, rows), folder)
    path = folder / comparisons.FILE
    content = json.loads(path.read_text())

    def read(rng: random.Random | None) -> None:
        path.write_bytes(as_json(content, rng) if rng else json.dumps(content).encode())
        with watched(folder):
            comparisons.read(folder)

    return read


def proteins(folder: pathlib.Path) -> Reader:
    path = folder / "a.pdb"
    pdb.save(path, np.random.default_rng(0).uniform(-99, 99, (5, 4, 3)))
    lines = path.read_text().split("\n")

    def read(rng: random.Random | None) -> None:
        changed = list(lines)
        for _ in range(rng.choice((1, 1, 2, 5)) if rng else 0):
            number = rng.randrange(len(changed))
            line = changed[number]
            at = rng.choice((0, 12, 16, 17, 21, 22, 26, 30, 38, 46, 54))
            word = str(rng.choice(ODD))[:9]
            changed[number : number + 1] = [line[:at] + word + line[at + len(word) :]] * rng.choice((0, 1, 1, 1, 3))
            changed = changed or [""]
        content = "\n".join(changed).encode("utf-8", "replace")
        path.write_bytes(spoilt(content, rng) if rng and rng.random() < 0.4 else content)
        with watched(folder):
            pdb.load(path)

    return read


def measurements(folder: pathlib.Path) -> Reader:
    """Records of measurements with a valid checksum, which are read and compared with an unaltered record."""
    request = comparison.Request(samples="a.npz", reference="b.npz")._asdict()
    figure = {"value": 1.0, "standard_error": 0.1, "of": "inception"}
    sound = {
        "format": records.FORMAT, "figures": {"fid": figure, "recall": figure}, "request": request,
        "samples": {"sha256": "a", "count": 8}, "reference": {"sha256": "b", "count": 8, "fingerprint": "c"},
        "weights": {"sha256": "d"}, "protocol": {"name": "adm", "resize": "x"}, "warnings": [], "sampling": None,
    }  # fmt: skip
    path = folder / "fid.json"

    def read(rng: random.Random | None) -> None:
        content = altered(sound, rng) if rng else sound
        if isinstance(content, dict):
            with contextlib.suppress(ValueError, RecursionError):  # JSON has no NaN, and a deep list has no digest
                content["sha256"] = records._digest(content)
        text = json.dumps(content).encode()
        path.write_bytes(spoilt(text, rng) if rng and rng.random() < 0.2 else text)
        with watched(folder):
            before = records.read(path)
            records.compare(before, sound)

    return read


KINDS = {
    "measurements": Kind(measurements, (records.ResultError,)),
    "control_nets": Kind(control_nets, (*REFUSALS, FileNotFoundError)),
    "t2i_adapters": Kind(t2i_adapters, (*REFUSALS, FileNotFoundError)),
    "redux": Kind(redux, (*REFUSALS, FileNotFoundError)),
    "custom_diffusion": Kind(custom_diffusion, REFUSALS),
    "prompts": Kind(prompt_lists, (PromptsError,)),
    "converted": Kind(converted, (*REFUSALS, FileNotFoundError)),
    "flax": Kind(flax_files_of, (limits.Refused,)),
    "arenas": Kind(arenas, (WorkdirError,)),
    "proteins": Kind(proteins, (ValueError,)),
    "chats": Kind(chats, (limits.Refused, FileNotFoundError)),
}
