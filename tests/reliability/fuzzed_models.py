"""Kinds of fuzzed files around published models and runs: folders of pipelines, shards, pictures' settings, keys.

The readers stop before anything is computed. They may open files only in the folder of the input.
"""

import json
import pathlib
import random
import shutil
import tarfile

import jax
import numpy as np
import safetensors.numpy
from PIL import Image, PngImagePlugin

from diffusion import text, text_to_image
from diffusion.adapters import ip_adapter_files
from diffusion.data import captions as caption_table, latent_cache
from diffusion.data.latent_cache import CacheError
from diffusion.data.sources import DamagedRecord
from diffusion.experiments import compare
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import class_models
from diffusion.io import limits, pictures
from diffusion.models import interchange
from diffusion.models.image_encoders import picture_fitting
from diffusion.models.interchange import language_tables, tensor_files
from diffusion.published.qwen_vl import picture_sizes
from diffusion.recipe import ConfigError
from diffusion.sampling import watermarks
from diffusion.sampling.watermarks import key_files
from diffusion.text_to_image import comfyui, png
from diffusion.text_to_image.requests import Request
from diffusion.training.checkpointing import checkpoints
from tests.adapters import test_ip_adapter
from tests.data import test_captions, test_latent_cache
from tests.models.interchange import test_language_tables
from tests.reliability.fuzzed_data import watched
from tests.reliability.fuzzed_readers import lines, renamed
from tests.reliability.fuzzing import FIXTURES, Kind, Reader, altered, as_json, header_altered, spoilt
from tests.text import vocabularies
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_comfyui import BASIC

REFUSALS = (interchange.Refusal, interchange.Mismatch, limits.Refused)
PIPELINES = ("sd", "flux", "stable_cascade", "ltx2")


def one_altered(place: pathlib.Path, names: str = "*") -> Reader:
    """A function that alters one of a folder's files without weights, and restores all others."""
    content = {path: path.read_bytes() for path in sorted(place.rglob(names)) if path.is_file()}
    content = {path: data for path, data in content.items() if path.suffix != ".safetensors"}

    def alter(rng: random.Random | None) -> None:
        for path, data in content.items():
            path.write_bytes(data)
        if rng is None:
            return
        path = rng.choice(sorted(content))
        if rng.random() < 0.03:
            path.unlink()
        elif path.suffix == ".json" and rng.random() < 0.85:
            path.write_bytes(as_json(json.loads(content[path]), rng))
        else:
            path.write_bytes(spoilt(content[path], rng))

    return alter


def pipelines(folder: pathlib.Path) -> Reader:
    alter = {name: one_altered(made_pipelines.folder(name, folder / name)) for name in PIPELINES}

    def read(rng: random.Random | None) -> None:
        for name in [rng.choice(PIPELINES)] if rng else PIPELINES:
            alter[name](rng)
            try:
                with watched(folder):
                    text_to_image.described(folder / name, weights=False)
            except REFUSALS as refusal:
                if str(folder / name) not in str(refusal):
                    raise RuntimeError(f"it names no file: {refusal!r}") from refusal
                raise

    return read


def class_model_folders(folder: pathlib.Path) -> Reader:
    names = ("class_ddim", "class_consistency", "class_dit")
    alter = {name: one_altered(made_pipelines.folder(name, folder / name)) for name in names}

    def read(rng: random.Random | None) -> None:
        for name in [rng.choice(names)] if rng else names:
            alter[name](rng)
            class_models.config_of(folder / name)  # unwatched: it compiles a program, which JAX's cache may write
            class_models.classes_of(folder / name)

    return read


def shards(folder: pathlib.Path) -> Reader:
    place = folder / "network"
    place.mkdir()
    parts = {"a.safetensors": ("x", "y"), "b.safetensors": ("z",)}
    tensors = {"x": np.ones((2, 3), np.float32), "y": np.ones(0, np.float16), "z": np.arange(4)}
    content = {
        file: safetensors.numpy.save({name: tensors[name] for name in names}, {"format": "pt"})
        for file, names in parts.items()
    }
    index = {"metadata": {"total_size": 56}, "weight_map": {name: f for f, names in parts.items() for name in names}}
    (folder / "outside.safetensors").write_bytes(content["a.safetensors"])

    def read(rng: random.Random | None) -> None:
        shutil.rmtree(place)
        place.mkdir()
        for file, data in content.items():
            changed = header_altered(data, rng) if rng and rng.random() < 0.3 else data
            (place / file).write_bytes(spoilt(changed, rng) if rng and rng.random() < 0.1 else changed)
        said = json.loads(json.dumps(index))
        if rng and rng.random() < 0.4:
            files = (
                "../outside.safetensors",
                str(folder / "outside.safetensors"),
                "b.safetensors",
                "c",
                "",
                ".",
                "a\0b",
            )
            said["weight_map"][rng.choice("xyzw")] = rng.choice(files)
        path = place / "model.safetensors.index.json"
        path.write_bytes(as_json(said, rng) if rng and rng.random() < 0.6 else json.dumps(said).encode())
        with watched(place):
            opened = tensor_files.open_tensors(place)
            for name in opened.shapes:
                opened.read(name)

    return read


def language_models(folder: pathlib.Path) -> Reader:
    kinds = ("llada", "dream")
    known = {}
    for kind in kinds:
        (folder / kind).mkdir()
        place = test_language_tables.folder(folder / kind, kind)
        known[kind] = (place, one_altered(place))

    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice(kinds)] if rng else kinds:
            place, alter = known[kind]
            alter(rng)
            with watched(folder):
                language_tables.load(place)

    return read


def vocabulary_folders(folder: pathlib.Path) -> Reader:
    kinds = ("t5", "bert", "gemma")
    places = {kind: vocabularies.folder_of(folder / kind, kind) for kind in kinds}
    alter = {kind: one_altered(place) for kind, place in places.items()}

    def read(rng: random.Random | None) -> None:
        for kind in [rng.choice(kinds)] if rng else kinds:
            alter[kind](rng)
            with watched(folder):
                text.Tokenizer.open(places[kind])(["a cat, 2 dogs", ""])

    return read


def picture_settings(folder: pathlib.Path) -> Reader:
    model = {"format": 1, "model": "sd", "dtype": "float32", "loras": {"a": 0.5}, "embeddings": {"b": "<c>"}, "seed": 1,
             "checkpoint": "0" * 64, "attachments": {"d": "e"}, "quantised": "", "prompt": "a cat", "seeds": [1, 2],
             "at": 1, "files": {"a": "f" * 64}, "versions": {"jax": "0"}, "device": "cpu"}  # fmt: skip
    request = Request(prompts=("a cat",), seeds=(1, 2))
    about = json.loads(json.dumps({**model, **{name: getattr(request, name) for name in png.PLAIN}, "controls": []}))
    path = folder / "a.png"

    def read(rng: random.Random | None) -> None:
        chunks = PngImagePlugin.PngInfo()
        said = as_json(about, rng) if rng else json.dumps(about).encode()
        chunks.add_itxt(pictures.KEY, said.decode("utf-8", "replace"), zip=bool(rng and rng.random() < 0.5))
        Image.new("RGB", (2, 2)).save(path, pnginfo=chunks)
        if rng and rng.random() < 0.2:
            path.write_bytes(spoilt(path.read_bytes(), rng))
        with watched(folder):
            stated = png.read(path)
            png.is_complete(stated)
            png.request(stated, request)

    return read


def watermark_keys(folder: pathlib.Path) -> Reader:
    path = folder / "a.json"
    entries = []
    for name in sorted(watermarks.WATERMARKS):
        path.unlink(missing_ok=True)
        key_files.make(path, name)
        entries.append(json.loads(path.read_text()))

    def read(rng: random.Random | None) -> None:
        for entry in [rng.choice(entries)] if rng else entries:
            path.write_bytes(as_json(entry, rng) if rng else json.dumps(entry).encode())
            with watched(folder):
                key_files.load(path)

    return read


def workflows(folder: pathlib.Path) -> Reader:
    def read(rng: random.Random | None) -> None:
        graph = altered(BASIC, rng) if rng else BASIC
        with watched(folder):
            comfyui.read(graph, "flow.json")

    return read


def runs(folder: pathlib.Path) -> Reader:
    """Two run folders to compare, of which one has an altered config, report, settings of samples, or metrics."""
    with tarfile.open(FIXTURES / "run_folders/digits.tar.gz") as archive:
        members = [name for name in archive.getnames() if name.endswith("config.json")]
        (config,) = (json.loads(archive.extractfile(name).read()) for name in members)  # type: ignore[union-attr]
    figure = {"value": 1.0, "interval": [0.5, 1.5], "ratio": 2.0, "ratio_interval": [1.0, 3.0], "samples": 5}
    near = {name: {"quantiles": {"0.5": 0.5}, "count": 5} for name in ("samples", "held_out")}
    report = {
        "protocol": {"distance": {"N": 8}, "dataset": {"split": "test", "split_size": 8}},
        "figures": {
            "asked_class": {"share": 0.5, "interval": [0.4, 0.6], "count": 8},
            "frechet": {"inception": {**figure, "distance": 1.0, "extractor": "a"}},
            "distances": {"energy": figure},
            "trained_on": {"count": 0},
            "neighbours": near,
        },
        "model": {"loss": {"value": 1.0, "standard_error": 0.1}},
        "inception": {"figures": {"fid": figure}, "records": {"split": "test", "count": 8, "trained_on": None}},
        "encoders": {"dinov2": {"protocol": "dgm-eval", "reference": "b", "figures": {"fd": figure}}},
    }
    loss = {"average": {"loss": 1.0, "standard_error": 0.1}, "draws": 8, "trained": None}
    metrics = [{"step": step, "loss": 1.0, "held_out_loss": loss, "evaluate": {"fid": 2.0}} for step in (1, 2)]
    tables = {"config.json": config, "report.json": report, "samples.json": {"sample": config["sample"]}}
    for name in ("a", "b"):
        (folder / name).mkdir()

    def read(rng: random.Random | None) -> None:
        changed = rng.choice((*tables, "metrics.jsonl")) if rng else ""
        for name in ("a", "b"):
            for file, table in tables.items():
                alters = rng is not None and (name, file) == ("b", changed)
                (folder / name / file).write_bytes(as_json(table, rng) if alters else json.dumps(table).encode())
            alters = rng is not None and (name, "metrics.jsonl") == ("b", changed)
            (folder / name / "metrics.jsonl").write_bytes(lines(metrics, rng if alters else None))
        with watched(folder):
            compare.tables(compare.compare([folder / "a", folder / "b"]))

    return read


def checkpoint_files(folder: pathlib.Path) -> Reader:
    """A checkpoint with an altered description and a valid checksum, or with spoilt bytes in another file."""
    shutil.unpack_archive(FIXTURES / "run_folders/digits.tar.gz", folder)
    run = next(folder.rglob("checkpoints")).parent
    place = run / "checkpoints/2"
    content = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    about = place / "about/metadata"

    def read(rng: random.Random | None) -> None:
        for path, data in content.items():
            path.write_bytes(data)
        if rng and rng.random() < 0.6:
            stated = altered(json.loads(content[about])["about"], rng)
            about.write_text(json.dumps({"about": stated, "sha256": checkpoints.digest(stated)}))
        elif rng:
            path = rng.choice(sorted(path for path in content if "training" not in path.parts))
            path.write_bytes(spoilt(content[path], rng))
        with watched(folder):
            checkpoints.load_ema(run)

    return read


def latents(folder: pathlib.Path) -> Reader:
    pictures = test_latent_cache.Named()
    test_latent_cache.write(folder / "latents", source=pictures, fingerprint=pictures.fingerprint())
    place = folder / "latents"
    alter = one_altered(place, "*.json")

    def read(rng: random.Random | None) -> None:
        alter(rng)
        with watched(folder):
            opened, _ = latent_cache.open_cache(place)
            opened[0]
            opened.fingerprint()
            latent_cache.require_same_records(place, pictures)

    return read


def captions(folder: pathlib.Path) -> Reader:
    caption_table.write(folder, test_captions.table(), caption_table.describe(test_captions.SPEC, "e5"))
    alter = one_altered(folder, "*.json")
    path = folder / caption_table.ARRAYS
    content = path.read_bytes()

    def read(rng: random.Random | None) -> None:
        alter(rng if rng and rng.random() < 0.5 else None)
        path.write_bytes(header_altered(content, rng) if rng and rng.random() < 0.5 else content)
        with watched(folder):
            caption_table.read(folder)

    return read


def image_prompts(folder: pathlib.Path) -> Reader:
    """IP-Adapters of three kinds, in which some tensors have another name, shape or type."""
    known = []
    small = {"tokens": 2, "inner": 64, "depth": 1, "heads": 1}
    for kind, sizes in {"global": {}, "full": {}, "plus": small}.items():
        module = ip_adapter_files.fresh(test_ip_adapter.UNET, 10, kind, **sizes)
        features = test_ip_adapter.features_for(module)
        shapes = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        ip_adapter_files.save(folder / "a.safetensors", module, params, test_ip_adapter.UNET)
        known.append(safetensors.numpy.load_file(folder / "a.safetensors"))
    path = folder / "a.safetensors"

    def read(rng: random.Random | None) -> None:
        for tensors in [rng.choice(known)] if rng else known:
            content = safetensors.numpy.save(renamed(tensors, rng) if rng else tensors)
            path.write_bytes(header_altered(content, rng) if rng and rng.random() < 0.3 else content)
            with watched(folder):
                ip_adapter_files.load(path, test_ip_adapter.UNET)

    return read


def sights(folder: pathlib.Path) -> Reader:
    """Configs of picture processors: the bounds of a picture's area (Qwen 2.5 VL), and the filter of a square."""
    path = folder / "preprocessor_config.json"
    nested = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "resample": 3}
    tables = ({"min_pixels": 3136, "max_pixels": 12845056, "resample": 3}, {"image_processor": nested}, nested)

    def read(rng: random.Random | None) -> None:
        for table in [rng.choice(tables)] if rng else tables:
            path.write_bytes(as_json(table, rng) if rng else json.dumps(table).encode())
            with watched(folder):
                bounds = picture_sizes.read_bounds(folder)
                picture_sizes.seen_size(30, 40, 28, bounds)
                picture_fitting.stated_square(folder, "")

    return read


KINDS = {
    "latents": Kind(latents, (CacheError, FileNotFoundError, limits.Refused, DamagedRecord)),
    "captions": Kind(captions, (CacheError, FileNotFoundError, limits.Refused)),
    "image_prompts": Kind(image_prompts, REFUSALS),
    "sights": Kind(sights, (limits.Refused,)),
    "pipelines": Kind(pipelines, (*REFUSALS, FileNotFoundError)),
    "class_models": Kind(class_model_folders, (*REFUSALS, FileNotFoundError, ConfigError)),
    "shards": Kind(shards, (limits.Refused, FileNotFoundError)),
    "language": Kind(language_models, (*REFUSALS, FileNotFoundError)),
    "vocabularies": Kind(vocabulary_folders, (limits.Refused, FileNotFoundError)),
    "settings": Kind(picture_settings, (ValueError,)),
    "keys": Kind(watermark_keys, (ValueError,)),
    "workflows": Kind(workflows, (ValueError,)),
    "compared": Kind(runs, (WorkdirError, ConfigError, OSError)),
    "checkpoints": Kind(checkpoint_files, (checkpoints.CheckpointError,)),
}
