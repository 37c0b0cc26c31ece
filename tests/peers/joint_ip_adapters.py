"""Stable Diffusion 3.5 with an IP-Adapter, by diffusers: a fixture for its file, its image encoder and its latents.

It runs in the peers' environment, without this library:

    python -m tests.peers.joint_ip_adapters tests/fixtures/text_to_image/ip_adapter_mmdit.safetensors
    python -m tests.peers.joint_ip_adapters opened FILE OUT

The second writes the latents of the pipeline with the adapter in FILE. The base is the pipeline "mmdit" of
pipelines.py, whose queries and keys are normalised here, as 3.5's are. All weights are made from names, those of the
adapter from SHAPES.
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
from tests.peers.families import mmdit
from tests.peers.families.image_encoders import SMALL
from tests.peers.ip_adapters import picture
from tests.peers.made_weights import drawn, made

STEPS, GUIDANCE, SCALE = 4, 5.0, 0.7
WIDTH, HEADS, LAYERS, SEEN = 32, 4, 2, 32  # of the transformer, and the encoder's features
INNER, HEAD, DEPTH, TOKENS, TIMES = 16, 64, 4, 3, 8


def dense(name: str, out: int, into: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias")}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file as InstantX publishes it."""
    found = {"latents": (1, TOKENS, INNER), **dense("proj_in", INNER, SEEN), **dense("proj_out", WIDTH, INNER)}
    found |= norm("norm_out", WIDTH)
    found |= dense("time_embedding.linear_1", INNER, TIMES) | dense("time_embedding.linear_2", INNER, INNER)
    for i in range(DEPTH):
        mixed, mlp = f"layers.{i}.0", f"layers.{i}.1"
        found |= norm(f"{mixed}.norm1", INNER) | norm(f"{mixed}.norm2", INNER) | norm(f"{mlp}.0", INNER)
        found |= dense(f"{mixed}.to_q", HEAD, INNER, False) | dense(f"{mixed}.to_kv", 2 * HEAD, INNER, False)
        found |= dense(f"{mixed}.to_out", INNER, HEAD, False) | dense(f"layers.{i}.2.1", 4 * INNER, INNER)
        found |= dense(f"{mlp}.1", 4 * INNER, INNER, False) | dense(f"{mlp}.3", INNER, 4 * INNER, False)
    found = {f"image_proj.{name}": shape for name, shape in found.items()}
    for i in range(LAYERS):
        found |= dense(f"ip_adapter.{i}.norm_ip.linear", 2 * WIDTH, INNER)
        found |= {f"ip_adapter.{i}.to_{part}_ip.weight": (WIDTH, WIDTH) for part in "kv"}
        found |= {f"ip_adapter.{i}.norm_{part}.weight": (WIDTH // HEADS,) for part in ("q", "k", "ip_k")}
    return found


SHAPES = shapes()


def weights() -> dict[str, np.ndarray]:
    return {name: made(f"joint {name}", shape) for name, shape in SHAPES.items()}


def pipe_with(folder: pathlib.Path, file: pathlib.Path) -> diffusers.DiffusionPipeline:
    pipe = mmdit.pipeline(folder)
    config = {name: value for name, value in pipe.transformer.config.items() if name[0] != "_"}
    pipe.register_modules(
        transformer=diffusers.SD3Transformer2DModel.from_config(config | {"qk_norm": "rms_norm"}),
        image_encoder=transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL)),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 28, "width": 28}),
    )
    pipelines.fill(pipe)
    pipe.load_ip_adapter(str(file.parent), weight_name=file.name, subfolder="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(SCALE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: diffusers.DiffusionPipeline) -> torch.Tensor:
    found = pipe(
        "a cat",
        negative_prompt="bad",
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        latents=torch.from_numpy(drawn("latents", 1, 8, 8, 4)).movedim(-1, 1),
        height=16,
        width=16,
        output_type="latent",
        ip_adapter_image=picture("first", 42, 63),
    ).images
    return last(found).contiguous()


def main(to: pathlib.Path) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        save_file({name: torch.from_numpy(a) for name, a in weights().items()}, place / "adapter.safetensors")
        pipe = pipe_with(place, place / "adapter.safetensors")
        latents = run(pipe)
        pipe.set_ip_adapter_scale(0.0)
        print(f"latents up to {latents.abs().max():.2f}, {(run(pipe) - latents).abs().max():.2f} from those without")
        pipe.image_encoder.save_pretrained(place / "encoder")
        with safe_open(place / "encoder" / "model.safetensors", "numpy") as file:
            encoder = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
            for name, shape in encoder.items():
                assert np.array_equal(file.get_tensor(name), made(f"image_encoder.{name}", tuple(shape))), name
        bare = {key: list(tensor.shape) for key, tensor in plain(pipe.transformer)}
        config = {**pipe.transformer.config, "_class_name": "SD3Transformer2DModel"}
        about = {
            "config": json.loads((place / "encoder" / "config.json").read_text()),
            "encoder": encoder,
            "file": SHAPES,
            "base": {
                "files": {"transformer/config.json": json.dumps(config, default=list)},
                "shapes": {"transformer/diffusion_pytorch_model.safetensors": bare},
            },
        }
    packed = np.frombuffer(gzip.compress(json.dumps(about).encode(), mtime=0), np.uint8)
    save_file({"latents": latents, "about": torch.from_numpy(packed.copy())}, to)
    to.chmod(0o644)


def plain(transformer: torch.nn.Module):
    """The tensors of a transformer without those of the adapter."""
    ours = lambda name: not name.startswith("image_proj.") and ".processor." not in name
    return [(name, tensor) for name, tensor in transformer.state_dict().items() if ours(name)]


def opened(file: pathlib.Path, to: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        save_file({"latents": run(pipe_with(pathlib.Path(place), file))}, to)


if __name__ == "__main__":
    if sys.argv[1] == "opened":
        opened(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        main(pathlib.Path(sys.argv[1]))
