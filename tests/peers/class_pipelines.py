"""Whole pipelines of diffusers without a text encoder, tiny and with made weights: their folders, and what they draw.

It runs in the peers' environment, without this library:

    python -m tests.peers.class_pipelines tests/fixtures/text_to_image

A fixture, NAME.safetensors, holds the folder as those of pipelines.py do, and the sample after the last step, before it
is clipped or decoded, for several numbers of steps and scales of guidance, of the two labels LABELS where the network
has classes; of a DiT also the picture, and how often each network was called.
"""

import contextlib
import gzip
import json
import pathlib
import sys
import tempfile
from unittest import mock

import diffusers
import torch
from safetensors.torch import save_file

from tests.peers.cases import last
from tests.peers.families.unet_2d import ADM, DDPM, PLAIN, RESNET, types
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import VAE, made_noise
from tests.peers.pipelines import fill, saved

LABELS = [3, 0]
# As google/ddpm-cifar10-32 is published, and facebook/DiT-XL-2-256.
CIFAR10 = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000,
           "trained_betas": None, "clip_sample": True}  # fmt: skip
DIT = {**CIFAR10, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0, "prediction_type": "epsilon"}
U_NET = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}


def ddpm(**scheduler):
    unet = diffusers.UNet2DModel(**U_NET, **types("-a", *PLAIN), **DDPM)
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler.from_config(CIFAR10 | scheduler))


def ddim():
    unet = diffusers.UNet2DModel(**U_NET, **types("-a", *PLAIN), **DDPM)
    return diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler.from_config(CIFAR10))


def consistency():
    of_classes = {"num_class_embeds": 5, "attn_norm_num_groups": 8}
    unet = diffusers.UNet2DModel(**U_NET, **of_classes, **types("-a", *RESNET), **ADM)
    return diffusers.ConsistencyModelPipeline(unet, diffusers.CMStochasticIterativeScheduler())


def dit():
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(transformer, diffusers.AutoencoderKL(**VAE), diffusers.DDIMScheduler.from_config(DIT))


def converted_dit():
    """Every block has the same embeddings, as in the published files."""
    return dit()


PIPELINES = {  # and the arguments of its calls
    "class_ddpm": (lambda: ddpm(variance_type="fixed_large"), [{"num_inference_steps": 8}]),
    "class_ddpm_small": (lambda: ddpm(variance_type="fixed_small", clip_sample=False), [{"num_inference_steps": 8}]),
    "class_ddim": (ddim, [{"num_inference_steps": 8}]),
    "class_consistency": (
        consistency,
        [{"num_inference_steps": 1}, {"num_inference_steps": 3}, {"num_inference_steps": None, "timesteps": [22, 0]}],
    ),
    "class_dit": (dit, [{"num_inference_steps": 8, "guidance_scale": scale} for scale in (4.0, 1.0)]),
    "class_dit_converted": (converted_dit, [{"num_inference_steps": 8, "guidance_scale": 4.0}]),
}


def write(name: str, folder: pathlib.Path) -> None:
    """Writes one fixture."""
    make, calls = PIPELINES[name]
    pipe = make()
    fill(pipe)
    if name == "class_dit_converted":
        blocks = pipe.transformer.transformer_blocks
        blocks[1].norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    arrays = {}
    with tempfile.TemporaryDirectory() as place:
        about = saved(pipe, pathlib.Path(place))
    arrays |= {f"kept/{key}": torch.from_numpy(array) for key, array in about.pop("kept").items()}
    pipe.set_progress_bar_config(disable=True)
    about["evaluations"] = []
    module = sys.modules[type(pipe).__module__]
    first = lambda shape, **_: torch.from_numpy(drawn("latents", shape[0], *shape[2:], shape[1])).movedim(-1, 1)
    network = getattr(pipe, "unet", None) or pipe.transformer
    for i, call in enumerate(calls):
        labels = {"class_labels": LABELS} if name.startswith(("class_dit", "class_consistency")) else {}
        number = {} if name.startswith("class_dit") else {"batch_size": 2}
        steps, evaluations = [], []
        step = pipe.scheduler.step
        keep = lambda *given, step=step, steps=steps, **more: keep_last(steps, step(*given, **more))
        hook = network.register_forward_hook(lambda *called, evaluations=evaluations: evaluations.append(1))
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(module, "randn_tensor", first))
            stack.enter_context(mock.patch.object(pipe.scheduler, "step", keep))
            stack.enter_context(made_noise(pipe.scheduler))
            stack.enter_context(torch.no_grad())
            pictures = pipe(output_type="np", **labels, **number, **call).images
        hook.remove()
        about["evaluations"].append(len(evaluations))
        arrays[f"sample/{i}"] = last(steps[-1][:2]).contiguous()
        if name.startswith("class_dit"):
            arrays[f"picture/{i}"] = torch.from_numpy(pictures)
        print(name, call, f"up to {steps[-1].abs().max():.2f}, evaluations: {len(evaluations)}")
    arrays["about"] = torch.tensor(list(gzip.compress(json.dumps(about).encode(), mtime=0)), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, torch)}
    path = folder / f"{name}.safetensors"
    command = f"python -m tests.peers.class_pipelines {folder}"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": command})
    path.chmod(0o644)


def keep_last(steps: list, made):
    """What a step made, which is noted."""
    steps.append(made[0] if isinstance(made, tuple) else made.prev_sample)
    return made


def main(folder: str) -> None:
    torch.set_num_threads(1)
    for name in PIPELINES:
        write(name, pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
