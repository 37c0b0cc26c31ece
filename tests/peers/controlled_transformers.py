"""SD 3 and Flux with ControlNets in diffusers, tiny and with made weights: the latents that its pipelines end at.

    python -m tests.peers.controlled_transformers tests/fixtures/text_to_image

The bases are the pipelines "mmdit" and "flux" of pipelines.py; Flux has three layers of both kinds here, so that two
residuals can be spread over them. Of each base a fixture holds configs, names and shapes
of its ControlNets, whose weights are those of made_weights.py under their names, and the latents of each of its cases.
A ControlNet reads the mean of latents: diffusers' pipelines draw them, here from a distribution without width.
"""

import gzip
import json
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import save_file

from tests.peers.cases import last
from tests.peers.controlled import picture
from tests.peers.made_weights import drawn, made
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS
from tests.peers.pipelines import PIPELINES, fill

STEPS = 5


class Used(NamedTuple):
    """ControlNets in use.

    Attributes:
        nets: their names.
        scales: of each.
        between: the parts of the steps between which they act.
        modes: of a union, the kind of each picture.
        side: of the pictures, in pixels; the latents have 8.
        inpaints: whether the pictures have `MASK`, where they are painted anew.
        in_numbers: whether the caller states `between` as two numbers, as the pipeline has them by default.
    """

    nets: tuple[str, ...]
    scales: tuple[float, ...]
    between: tuple[float, float] = (0.0, 1.0)
    modes: tuple[int, ...] = ()
    side: int = 16
    inpaints: bool = False
    in_numbers: bool = False


MASK = np.zeros((16, 16), bool)  # of cells of 2 x 2 pixels, some in part
MASK[3:11, 5:14] = True
SD_3 = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "caption_projection_dim": 32,
    "joint_attention_dim": 56,
    "pooled_projection_dim": 48,
    "pos_embed_max_size": 8,
}
FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
UNSHIFTED = {"force_zeros_for_pooled_projection": True}
NETS: dict[str, dict[str, dict[str, Any]]] = {
    "mmdit": {
        "edges": SD_3 | UNSHIFTED,
        "depth": SD_3 | UNSHIFTED,
        "pooled": SD_3 | {"force_zeros_for_pooled_projection": False},
        "inpaint": SD_3 | {"force_zeros_for_pooled_projection": False, "extra_conditioning_channels": 1},
        "of pictures": SD_3 | UNSHIFTED | {"joint_attention_dim": None, "use_pos_embed": False},
    },
    "flux": {
        "edges": FLUX,
        "union": FLUX | {"num_mode": 3, "num_single_layers": 0, "guidance_embeds": False},
        "pixels": FLUX
        | {"num_layers": 2, "num_single_layers": 2, "conditioning_embedding_channels": 4, "patch_size": 2},
    },
}
CASES = {
    "mmdit": {
        "one": Used(("edges",), (0.8,)),
        "one, pooled, in the middle": Used(("pooled",), (1.0,), (0.2, 0.8)),
        "one, of pictures": Used(("of pictures",), (0.7,)),
        "two": Used(("edges", "depth"), (0.8, 0.5)),
        "one, to inpaint": Used(("inpaint",), (0.9,), inpaints=True),
    },
    "flux": {
        "one": Used(("edges",), (0.8,)),
        "union, of two kinds": Used(("union", "union"), (0.6, 0.9), modes=(2, 0)),
        "union, of two kinds, in numbers": Used(("union", "union"), (0.6, 0.9), modes=(2, 0), in_numbers=True),
        "one, of pixels": Used(("pixels",), (0.8,), side=64),
    },
}
CLASSES = {
    "mmdit": (diffusers.SD3ControlNetModel, diffusers.StableDiffusion3ControlNetPipeline),
    "flux": (diffusers.FluxControlNetModel, diffusers.FluxControlNetPipeline),
}
DEEP = {"num_layers": 3, "num_single_layers": 3}  # of the transformer of Flux
TABLE = "pos_embed.pos_embed"  # computed, and equal to the base's


def control_net(base: str, name: str) -> torch.nn.Module:
    """A ControlNet; it is not small where it ends, so that the pictures follow."""
    net = CLASSES[base][0](**NETS[base][name]).eval()
    with torch.no_grad():
        for key, tensor in net.named_parameters():
            tensor.copy_(torch.from_numpy(made(f"{name}.{key}", tuple(tensor.shape))))
    return net


def write(base: str, folder: pathlib.Path) -> None:
    """Writes the fixture of a base."""
    with tempfile.TemporaryDirectory() as place:
        plain = PIPELINES[base].build(pathlib.Path(place))
        if base == "flux":
            plain.transformer = diffusers.FluxTransformer2DModel.from_config({**plain.transformer.config, **DEEP})
    fill(plain)
    nets = {name: control_net(base, name) for name in NETS[base]}
    about = {
        "config": {name: {**net.config, "_class_name": type(net).__name__} for name, net in nets.items()},
        "shapes": {
            name: {key: list(tensor.shape) for key, tensor in net.state_dict().items()} for name, net in nets.items()
        },
        "cases": {name: case._asdict() for name, case in CASES[base].items()},
        "steps": STEPS,
    }
    if base == "flux":
        deep = {"_class_name": "FluxTransformer2DModel", **plain.transformer.config}
        shapes = {key: list(tensor.shape) for key, tensor in plain.transformer.state_dict().items()}
        about["base"] = {
            "files": {"transformer/config.json": json.dumps(deep)},
            "shapes": {"transformer/diffusion_pytorch_model.safetensors": shapes},
        }
    x = torch.from_numpy(drawn("latents", 2, 8, 8, 4)).movedim(-1, 1)
    arrays = {}
    if base == "mmdit":
        arrays["table"] = nets["edges"].pos_embed.pos_embed.clone()
    for name, case in CASES[base].items():
        used = [nets[one] for one in dict.fromkeys(case.nets)]
        several = len(case.nets) > 1
        kind = diffusers.StableDiffusion3ControlNetInpaintingPipeline if case.inpaints else CLASSES[base][1]
        pipe = kind(**plain.components, controlnet=used if several else used[0])
        pipe.set_progress_bar_config(disable=True)
        # These pipelines take tensors as they are, and pictures alone from [0, 1] to [-1, 1].
        images = [2 * picture(one, case.side).repeat(2, 1, 1, 1) - 1 for one in ("edges", "depth")][: len(case.nets)]
        how: dict[str, Any] = {"latents": x.clone(), "negative_prompt": [NEGATIVE] * 2}
        if base == "flux":
            how = {"latents": plain._pack_latents(x.clone(), 2, 4, 8, 8)}
            how |= {"control_mode": list(case.modes)} if several else {}
        if case.inpaints:
            how["control_mask"] = torch.from_numpy(MASK.astype(np.float32))[None, None].repeat(2, 1, 1, 1)
        between = [[end] * len(case.nets) for end in case.between] if several and not case.in_numbers else case.between
        pipe.vae_scale_factor = case.side // 8  # of pixels no autoencoder takes part
        mean = lambda moments, generator=None: moments.mode()
        with torch.no_grad(), mock.patch.object(DiagonalGaussianDistribution, "sample", mean):
            found = pipe(
                PROMPTS, control_image=images if several else images[0], num_inference_steps=STEPS,
                guidance_scale=GUIDANCE, height=case.side, width=case.side, output_type="latent",
                controlnet_conditioning_scale=list(case.scales) if several else case.scales[0],
                control_guidance_start=between[0], control_guidance_end=between[1], **how,
            ).images  # fmt: skip
        if base == "flux":
            found = pipe._unpack_latents(found, case.side, case.side, pipe.vae_scale_factor)
        print(base, name, f"latents up to {found.abs().max():.2f}")
        arrays[f"latents/{name}"] = last(found).contiguous()
    about = gzip.compress(json.dumps(about, default=list).encode(), mtime=0)
    arrays["about"] = torch.tensor(list(about), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, torch)}
    path = folder / f"controlled_{base}.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": f"python -m {__spec__.name}"})
    path.chmod(0o644)


def main(folder: str) -> None:
    """Writes the fixtures."""
    torch.set_num_threads(1)
    for base in CASES:
        write(base, pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
