"""Stable Diffusion with IP-Adapters, by diffusers: one fixture for their files, their image encoder and their pictures.

It runs in the peers' environment, without this library:

    python -m tests.peers.ip_adapters tests/fixtures/text_to_image/ip_adapter.safetensors

The networks, the adapters and the pictures are made from names, so that the fixture holds names, shapes, configs and
the latents of the whole pipeline alone: from a prompt, a negative prompt and pictures, by DDIM.

    python -m tests.peers.ip_adapters opened FILE OUT

writes the latents of the pipeline with the adapter in FILE; "opened_flux" the output of Flux's transformer with one in
XLabs' names.
"""

import gzip
import json
import pathlib
import sys
import tempfile

import diffusers
import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from tests.peers import pipelines
from tests.peers.cases import last
from tests.peers.families import flux
from tests.peers.families.stable_diffusion import SD_1, stable_diffusion
from tests.peers.made_weights import drawn, made

STEPS, GUIDANCE = 4, 5.0
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 20,
}
WIDTH, INNER, HEAD, DEPTH = 24, 32, 64, 4


def layers() -> dict[str, tuple[int, ...]]:
    """The keys and values of the U-Net of `pipelines`: six attentions, of which every second is to the text."""
    return {f"ip_adapter.{n}.to_{part}_ip.weight": (32, WIDTH) for n in (1, 3, 5, 7) for part in ("k", "v")}


def dense(name: str, out: int, into: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"image_proj.{name}.weight": (out, into)} | ({f"image_proj.{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"image_proj.{name}.{part}": (width,) for part in ("weight", "bias")}


def plus() -> dict[str, tuple[int, ...]]:
    shapes = {"image_proj.latents": (1, 3, INNER), **dense("proj_in", INNER, 32), **dense("proj_out", WIDTH, INNER)}
    shapes |= norm("norm_out", WIDTH)
    for i in range(DEPTH):
        shapes |= norm(f"layers.{i}.0.norm1", INNER) | norm(f"layers.{i}.0.norm2", INNER)
        shapes |= dense(f"layers.{i}.0.to_q", HEAD, INNER, False) | dense(f"layers.{i}.0.to_kv", 2 * HEAD, INNER, False)
        shapes |= dense(f"layers.{i}.0.to_out", INNER, HEAD, False) | norm(f"layers.{i}.1.0", INNER)
        shapes |= dense(f"layers.{i}.1.1", 4 * INNER, INNER, False) | dense(f"layers.{i}.1.3", INNER, 4 * INNER, False)
    return shapes


FILES = {
    "global": {**dense("proj", 4 * WIDTH, 20), **norm("norm", WIDTH), **layers()},
    "full": {**dense("proj.0", 32, 32), **dense("proj.2", WIDTH, 32), **norm("proj.3", WIDTH), **layers()},
    "plus": {**plus(), **layers()},
}


def weights(kind: str) -> dict[str, np.ndarray]:
    return {name: made(f"{kind} {name}", shape) for name, shape in FILES[kind].items()}


def picture(name: str, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3], smooth enough to be resized."""
    coarse = drawn(f"picture {name}", 6, 7, 3) * 60 + 128
    return np.clip(np.kron(coarse, np.ones((height // 6, width // 7, 1))), 0, 255).astype(np.uint8)


PICTURES = {"first": (42, 63), "second": (60, 35)}


def pipe_with(folder: pathlib.Path, *files: pathlib.Path) -> diffusers.DiffusionPipeline:
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    pipe = stable_diffusion(folder / "tokenizer")
    encoder = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**ENCODER))
    size = {"shortest_edge": 28}
    extractor = transformers.CLIPImageProcessor(size=size, crop_size={"height": 28, "width": 28})
    pipe.register_modules(image_encoder=encoder, feature_extractor=extractor)
    pipelines.fill(pipe)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(SD_1)
    pipe.load_ip_adapter(
        [str(file.parent) for file in files],
        subfolder=[""] * len(files),
        weight_name=[file.name for file in files],
        image_encoder_folder=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: diffusers.DiffusionPipeline, scales: list, pictures: list, masks=None) -> np.ndarray:
    pipe.set_ip_adapter_scale(scales)
    latents = torch.from_numpy(drawn("latents", 1, 8, 8, 4)).movedim(-1, 1)
    how = {} if masks is None else {"cross_attention_kwargs": {"ip_adapter_masks": masks}}
    found = pipe(
        "a cat",
        negative_prompt="bad",
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        latents=latents,
        output_type="latent",
        ip_adapter_image=pictures,
        **how,
    ).images
    return last(found).contiguous().numpy()


def main(to: pathlib.Path) -> None:
    outputs = {}
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for kind in FILES:
            save_file({name: torch.from_numpy(a) for name, a in weights(kind).items()}, place / f"{kind}.safetensors")
        first, second = (picture(name, *size) for name, size in PICTURES.items())
        for kind in FILES:
            pipe = pipe_with(place / kind, place / f"{kind}.safetensors")
            outputs[kind] = run(pipe, [0.7], [first])
        pipe = pipe_with(place / "two", place / "global.safetensors", place / "plus.safetensors")
        outputs["two"] = run(pipe, [0.7, 0.4], [first, second])
        left = np.zeros((16, 16), np.uint8)
        left[:, :8] = 255
        masks = diffusers.image_processor.IPAdapterMaskProcessor().preprocess([left, 255 - left], height=16, width=16)
        outputs["masked"] = run(pipe, [0.7, 0.4], [first, second], [masks[:1], masks[1:]])
        pipe.image_encoder.save_pretrained(place / "encoder")
        with safe_open(place / "encoder" / "model.safetensors", "numpy") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
            for name, shape in shapes.items():
                assert np.array_equal(file.get_tensor(name), made(f"image_encoder.{name}", tuple(shape))), name
        about = {
            "config": json.loads((place / "encoder" / "config.json").read_text()),
            "shapes": shapes,
            "files": FILES,
        }
    packed = np.frombuffer(gzip.compress(json.dumps(about).encode(), mtime=0), np.uint8)
    tensors = {f"latents/{name}": torch.from_numpy(a) for name, a in outputs.items()}
    save_file({**tensors, "about": torch.from_numpy(packed.copy())}, to)


def opened(file: pathlib.Path, to: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        pipe = pipe_with(pathlib.Path(place), file)
        save_file({"latents": torch.from_numpy(run(pipe, [0.7], [picture("first", *PICTURES["first"])]))}, to)


FLUX = {
    "x": drawn("flux ip x", 2, 8, 8, 4),
    "t": np.array([0.1, 0.7], np.float32),
    "text": drawn("flux ip text", 2, 5, 32),
    "pooled": drawn("flux ip pooled", 2, 24),
    "strength": np.array([3.5, 3.5], np.float32),
}
FEATURES = drawn("flux ip features", 2, 20)


def opened_flux(file: pathlib.Path, to: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        pipe = flux.pipeline(pathlib.Path(place))
        pipelines.fill(pipe)
        how = {"weight_name": file.name, "image_encoder_pretrained_model_name_or_path": None}
        pipe.load_ip_adapter(str(file.parent), **how)
    pipe.set_ip_adapter_scale(0.7)
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in FLUX.items()}
    seen = {"ip_adapter_image_embeds": [torch.from_numpy(np.array(FEATURES))[:, None]]}
    with torch.no_grad():
        save_file({"output": flux.call(pipe.transformer, inputs, joint_attention_kwargs=seen).contiguous()}, to)


if __name__ == "__main__":
    if sys.argv[1] in ("opened", "opened_flux"):
        {"opened": opened, "opened_flux": opened_flux}[sys.argv[1]](
            pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
        )
    else:
        main(pathlib.Path(sys.argv[1]))
