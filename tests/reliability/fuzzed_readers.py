"""Kinds of fuzzed files that people share besides data: GGUF, meshes, LoRA, words, votes of an arena, sweeps.

A reader may open files only in the folder of the input, and no socket; see `fuzzed_data.watched`.
"""

import json
import pathlib
import random

import gguf
import numpy as np
import safetensors.numpy

from diffusion import text_to_image
from diffusion.adapters import lora_files, word_embeddings
from diffusion.experiments.arena import votes
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sweeps import sweep_folder
from diffusion.io import limits, mesh_files
from diffusion.models.interchange import tensor_files
from diffusion.models.interchange.rows import Mismatch
from tests.adapters import test_lora_files
from tests.io.test_mesh_files import TEXTS
from tests.metrics import torch_writer
from tests.reliability.fuzzed_data import watched
from tests.reliability.fuzzing import ODD, Kind, Reader, as_json, header_altered, spoilt
from tests.text_to_image import made_pipelines

NUMBERS = (0, 1, 2, 3, 7, 8, 9, 12, 31, 64, 255, 2**16, 2**20, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
WORDS = ("", "0", "-1", "1", "10", str(10**30), str(-(10**30)), "9" * 5000, "nan", "inf", "1e400", "1e-400", "/", "1//",
         "a", "f", "v", "v 0 0 0", "#", "\0", "\x85", "\u2028", "ä", "f" + " 1" * 3000, "1\n" * 3000)  # fmt: skip


def gguf_files(folder: pathlib.Path) -> Reader:
    path = folder / "a.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("words", ["a", "bc", ""])
    writer.add_array("flags", [True, False])
    writer.add_array("comfy.gguf.orig_shape.odd", [3, 2])
    writer.add_custom_alignment(32)
    kinds = gguf.GGMLQuantizationType
    writer.add_tensor("odd", np.arange(6, dtype=np.float32))
    writer.add_tensor("half", np.arange(4, dtype=np.float16).reshape(2, 2))
    for kind in (kinds.Q8_0, kinds.Q4_K, kinds.IQ2_XXS):
        size = gguf.GGML_QUANT_SIZES[kind][1]
        writer.add_tensor(kind.name, np.arange(2 * size, dtype=np.uint8).reshape(2, size), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    begin = gguf.GGUFReader(path).data_offset

    def read(rng: random.Random | None) -> None:
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 4)) if rng else 0):
            at, size = rng.randrange(4, begin - 8), rng.choice((4, 8))
            data[at : at + size] = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little")
        if rng and rng.random() < 0.5:
            data = bytearray(spoilt(bytes(data[:begin]), rng)) + data[begin:]
        path.write_bytes(data)
        with watched(folder):
            tensors = tensor_files.open_tensors(path)
            for name in tensors.shapes:
                tensors.read_quantised(name)
                tensors.read(name)

    return read


def meshes(folder: pathlib.Path) -> Reader:
    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice(sorted(TEXTS))] if rng else TEXTS:
            lines = TEXTS[kind].split("\n")
            for _ in range(rng.choice((1, 1, 2, 5)) if rng else 0):
                number = rng.randrange(len(lines))
                words = lines[number].split(" ")
                match rng.randrange(4):
                    case 0:
                        lines[number : number + 1] = [lines[number]] * rng.choice((0, 2, 200))
                    case 1:
                        word = rng.choice(WORDS)
                        words[rng.randrange(len(words)) :] = [word] * (rng.choice((1, 5000)) if len(word) < 50 else 1)
                        lines[number] = " ".join(words)
                    case _:
                        words[rng.randrange(len(words))] = rng.choice(WORDS)
                        lines[number] = " ".join(words)
            content = "\n".join(lines).encode()
            path = folder / f"a.{kind}"
            path.write_bytes(spoilt(content, rng) if rng and rng.random() < 0.4 else content)
            with watched(folder):
                mesh = mesh_files.read(path)
                mesh_files.surface_points(mesh, 3, np.random.default_rng(0))

    return read


def renamed(tensors: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Tensors among which a few have another name, shape or type, or are missing."""
    tensors = dict(tensors)
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = rng.choice(sorted(tensors)) if tensors else "a"
        array = tensors.pop(name, np.zeros(2, np.float32))
        match rng.randrange(5):
            case 0:
                tensors[rng.choice((name + "x", name[1:], name.replace(".", "_"), "", "x" * 10**5, "lora_unet_"))] = (
                    array
                )
            case 1:
                tensors[name] = np.zeros(rng.choice(((), (0,), (1,), (3, 0), (0, 3), (7, 7, 7), (1000, 1))), np.float32)
            case 2:
                tensors[name] = array.astype(rng.choice((np.float16, np.float64, np.int8, np.bool_, np.uint64)))
            case 3:
                tensors[name] = array.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (*array.shape, 1))))
            case _:
                end = rng.choice(("hada_w1_a", "lokr_w1", "lokr_t2", "alpha", "dora_scale", "lora_magnitude_vector"))
                tensors |= {name: array, name.rpartition(".lora")[0] + f".{end}": array}
    return tensors


def lora(folder: pathlib.Path) -> Reader:
    modules = test_lora_files.modules()
    path = folder / "a.safetensors"
    known = {kind: test_lora_files.file(kind, path).read_bytes() for kind in ("peft", "kohya")}
    tensors = {kind: safetensors.numpy.load(content) for kind, content in known.items()}
    about = {"unet.r": 3, "unet.lora_alpha": 4, "unet.alpha_pattern": {"proj_in": 2}, "unet.use_rslora": True}

    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice(sorted(known))] if rng else known:
            if rng is None:
                path.write_bytes(known[kind])
            elif rng.random() < 0.3:
                path.write_bytes(header_altered(known[kind], rng))
            else:
                arrays = renamed(tensors[kind], rng) if rng.random() < 0.7 else tensors[kind]
                text = as_json(about, rng).decode("utf-8", "replace")
                metadata = {"lora_adapter_metadata": text} if rng.random() < 0.6 else None
                path.write_bytes(safetensors.numpy.save(arrays, metadata))
            with watched(folder):
                lora_files.load(path, modules)

    return read


def words(folder: pathlib.Path) -> Reader:
    made_pipelines.folder("sd", folder / "sd")
    model = text_to_image.described(folder / "sd")
    (tower,) = word_embeddings.encoders_of(model).values()
    rows = np.ones((2, tower.width), np.float32)

    def read(rng: random.Random | None) -> None:
        name = rng.choice(("<new>", "emb_params", "clip_l", "clip_g", "")) if rng else "<new>"
        tensors = {name: rows}
        path = folder / "a.safetensors"
        if rng and rng.random() < 0.4:
            path = folder / "a.pt"
            pickled, storages = torch_writer.state({"string_to_param.*": rows, "name": np.zeros(1, np.float32)})
            torch_writer.archive(path, spoilt(pickled, rng) if rng.random() < 0.7 else pickled, storages)
            if rng.random() < 0.3:
                path.write_bytes(spoilt(path.read_bytes(), rng))
        else:
            tensors = renamed(tensors, rng) if rng and rng.random() < 0.7 else tensors
            texts = [odd for odd in ODD if isinstance(odd, str) and odd.isascii()]
            said = {"trigger_words": rng.choice(texts)} if rng else None
            content = safetensors.numpy.save(tensors, said)
            path.write_bytes(header_altered(content, rng) if rng and rng.random() < 0.5 else content)
        with watched(folder):
            word_embeddings.load(path, model)

    return read


def lines(rows: list[dict], rng: random.Random | None) -> bytes:
    """Rows as lines of JSON, of which a generator alters some."""
    alter = lambda row: as_json(row, rng) if rng and rng.random() < 0.4 else json.dumps(row).encode()
    content = b"".join(alter(row) + b"\n" for row in rows)
    return spoilt(content, rng) if rng and rng.random() < 0.3 else content


def arena_votes(folder: pathlib.Path) -> Reader:
    rows = [
        {"voter": voter, "comparison": number, "choice": choice, "left": "first"}
        for voter in ("ann", "ben")
        for number, choice in enumerate(votes.CHOICES)
    ]

    def read(rng: random.Random | None) -> None:
        (folder / votes.FILE).write_bytes(lines(rows, rng))
        with watched(folder):
            votes.read(folder, 4)

    return read


def sweeps(folder: pathlib.Path) -> Reader:
    words = ["diffusion", "train", "--config=digits", "--workdir={folder}"]
    plans = [sweep_folder.Plan(f"c={number}", {"c": number}, [words]) for number in (1, 2)]
    record = sweep_folder.Record("a", "sweep.py", ["c"], [], {"digits": {"c": 0}}, plans)
    sweep_folder.write(folder, record)
    content = json.loads((folder / "sweep.json").read_text())
    events = [
        {"time": 1.0, "status": status, "attempt": 1, "command": 0, "seconds": 2.0, "reason": ""}
        for status in sweep_folder.STATUSES
    ]
    for one in plans:
        (folder / one.name).mkdir()

    def read(rng: random.Random | None) -> None:
        both = rng is None or rng.random() < 0.5
        sound = rng and rng.random() < 0.5
        (folder / "sweep.json").write_bytes(json.dumps(content).encode() if sound or not rng else as_json(content, rng))
        (folder / "c=1/sweep.jsonl").write_bytes(lines(events, rng if both or sound else None))
        with watched(folder):
            found = sweep_folder.read(folder)
            sweep_folder.statuses(folder, found.runs)
            for one in found.runs:
                sweep_folder.commands(folder, one)

    return read


KINDS = {
    "gguf": Kind(gguf_files, (limits.Refused,)),
    "meshes": Kind(meshes, (ValueError,)),
    "lora": Kind(lora, (Mismatch, limits.Refused)),
    "words": Kind(words, (Mismatch, limits.Refused)),
    "votes": Kind(arena_votes, (WorkdirError,)),
    "sweeps": Kind(sweeps, (WorkdirError,)),
}
