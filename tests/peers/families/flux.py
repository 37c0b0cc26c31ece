"""Flux of diffusers: small transformers with each of their options, and the published size; its pipelines."""

import pathlib
from collections.abc import Callable

import diffusers
import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import (
    DYNAMIC,
    VAE,
    Pipeline,
    bytes_of,
    changed,
    clip,
    clip_tokenizer,
    decode,
    mask,
    painted,
    parts_of,
    pictured,
    t5,
    t5_tokenizer,
)
from tests.peers.translated import Tensors, Translated, dense, under

INPUTS = {
    "x": drawn("flux x", 2, 8, 12, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("flux text", 2, 5, 24),
    "pooled": drawn("flux pooled", 2, 20),
}
WIDTH, DEPTH = 32, 2


def small(**options) -> FluxTransformer2DModel:
    fields = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 20,
        "axes_dims_rope": (4, 6, 6),
    }
    return FluxTransformer2DModel(**fields | options)


def call(module: FluxTransformer2DModel, a: dict[str, torch.Tensor], **entries) -> torch.Tensor:
    """As diffusers' pipeline calls it."""
    batch, height, width, channels = a["x"].shape
    tokens = FluxPipeline._pack_latents(first(a["x"]), batch, channels, height, width)
    places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    out = module(
        tokens, a["text"], a["pooled"], a["t"], places, torch.zeros(a["text"].shape[1], 3), a.get("strength"), **entries
    ).sample
    return last(FluxPipeline._unpack_latents(out, 8 * height, 8 * width, 8))


class Part(torch.nn.Module):
    """Instead of an adapter's projection: the i-th part of its input."""

    def __init__(self, i: int):
        super().__init__()
        self.i = i

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., self.i * WIDTH : (self.i + 1) * WIDTH]


def run(module: FluxTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"output": call(module, a)}


def run_kontext(module: FluxTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the pipeline of Kontext calls it, with a picture of other sides; also with residuals of x alone."""
    packed, ids = [], []
    for i, x in enumerate((a["x"], a["picture"])):
        batch, height, width, channels = x.shape
        packed.append(FluxPipeline._pack_latents(first(x), batch, channels, height, width))
        ids.append(FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32))
        ids[-1][..., 0] = i
    tokens = torch.cat(packed, dim=1)
    words = torch.zeros(a["text"].shape[1], 3)
    further = (0, 0, 0, packed[1].shape[1])  # zeros for the picture
    residuals = {
        f"controlnet_{theirs}_samples": [torch.nn.functional.pad(a[f"{kind}_{i}"], further) for i in range(2)]
        for kind, theirs in (("joint", "block"), ("single", "single_block"))
    }
    outputs = {}
    for name, how in {"output": {}, "controlled": residuals}.items():
        out = module(tokens, a["text"], a["pooled"], a["t"], torch.cat(ids), words, a["strength"], **how).sample
        own = out[:, : packed[0].shape[1]]
        outputs[name] = last(FluxPipeline._unpack_latents(own, 8 * a["x"].shape[1], 8 * a["x"].shape[2], 8))
    return outputs


def run_adapters(module: FluxTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Also with the residuals of a ControlNet, and with the keys and values of an IP-Adapter."""
    plain = call(module, a)
    controlled = call(
        module,
        a,
        controlnet_block_samples=[a["joint_0"], a["joint_1"]],
        controlnet_single_block_samples=[a["single_0"], a["single_1"]],
    )
    for i, block in enumerate(module.transformer_blocks):
        adapter = FluxIPAdapterAttnProcessor(WIDTH, WIDTH)
        adapter.to_k_ip, adapter.to_v_ip = (torch.nn.ModuleList([Part(2 * i + j)]) for j in (0, 1))
        block.attn.set_processor(adapter)
    adapted = call(module, a, joint_attention_kwargs={"ip_hidden_states": [a["extra"]]})
    return {"output": plain, "controlled": controlled, "adapted": adapted}


def convert(
    tensors: Tensors, by: Callable[[Tensors], Tensors] = convert_flux_transformer_checkpoint_to_diffusers
) -> Tensors:
    """Diffusers' conversion, which knows the width 3072 alone: the rows that it splits are repeated to that width."""
    times = 3072 // WIDTH
    for name in [name for name in tensors if ".linear1." in name]:
        tensors[name] = tensors[name].repeat_interleave(times, dim=0)
    split = ("to_q.", "to_k.", "to_v.", "proj_mlp.")
    converted = by(tensors)
    return {
        name: tensor[::times] if name.startswith("single") and any(part in name for part in split) else tensor
        for name, tensor in converted.items()
    }


def original_layers(channels: int) -> dict[str, tuple[int, ...]]:
    """The layers that Flux and Chroma have under the same names, two of each kind."""
    norms = {"query_norm.scale": (16,), "key_norm.scale": (16,)}
    shapes = dense(txt_in=(24, WIDTH), img_in=(channels, WIDTH), final_layer__linear=(WIDTH, 16))
    for i in range(2):
        for stream in ("img", "txt"):
            block = dense(
                attn__qkv=(WIDTH, 3 * WIDTH),
                attn__proj=(WIDTH, WIDTH),
                mlp__0=(WIDTH, 4 * WIDTH),
                mlp__2=(4 * WIDTH, WIDTH),
            ) | under("attn.norm", norms)
            shapes |= {f"double_blocks.{i}.{stream}_{name}": shape for name, shape in block.items()}
        block = dense(linear1=(WIDTH, 7 * WIDTH), linear2=(5 * WIDTH, WIDTH))
        shapes |= under(f"single_blocks.{i}", block | under("norm", norms))
    return shapes


def original() -> Translated:
    """Under the names of black-forest-labs/flux, modules/layers.py; two channels are beside the latents."""
    two = lambda inputs: dense(in_layer=(inputs, WIDTH), out_layer=(WIDTH, WIDTH))
    shapes = {
        **under("time_in", two(256)),
        **under("vector_in", two(20)),
        **under("guidance_in", two(256)),
        **dense(final_layer__adaLN_modulation__1=(WIDTH, 2 * WIDTH)),
        **original_layers(channels=24),
    }
    for i in range(2):
        shapes |= dense(**{f"double_blocks__{i}__{stream}_mod__lin": (WIDTH, 6 * WIDTH) for stream in ("img", "txt")})
        shapes |= dense(**{f"single_blocks__{i}__modulation__lin": (WIDTH, 3 * WIDTH)})
    network = small(num_layers=2, num_single_layers=2, guidance_embeds=True, in_channels=24, out_channels=16)
    return Translated(network, shapes, convert)


RESIDUALS = {f"{kind}_{i}": drawn(f"flux {kind} {i}", 2, 24, WIDTH) for kind in ("joint", "single") for i in range(2)}
CASES = {
    "flux_schnell": Case(small, INPUTS, run),
    "flux_dev": Case(
        lambda: small(num_layers=DEPTH, num_single_layers=3, guidance_embeds=True),
        {
            **INPUTS,
            **RESIDUALS,
            "strength": np.array([3.5, 1.25], np.float32),
            "extra": drawn("flux extra", 2, 3, 2 * DEPTH * WIDTH),
        },
        run_adapters,
    ),
    "flux_kontext": Case(
        lambda: small(num_layers=2, num_single_layers=2, guidance_embeds=True),
        {
            **INPUTS,
            **RESIDUALS,
            "strength": np.array([3.5, 1.25], np.float32),
            "picture": drawn("flux picture", 2, 6, 4, 4),
        },
        run_kontext,
    ),
    "flux_original": Case(
        original, {**INPUTS, "x": drawn("flux wide x", 2, 4, 6, 6), "strength": np.array([3.5, 1.25], np.float32)}, run
    ),
}
LISTINGS = {"flux_full_dev": lambda: FluxTransformer2DModel(guidance_embeds=True)}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.FluxPipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=clip_tokenizer(folder / "clip"),
        tokenizer_2=t5_tokenizer(folder / "t5"),
        text_encoder=clip(),
        text_encoder_2=t5(),
        transformer=small(joint_attention_dim=32, pooled_projection_dim=24, guidance_embeds=True),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(DYNAMIC),
    )


def with_channels(folder: pathlib.Path, kind: type, **fields) -> diffusers.DiffusionPipeline:
    """A pipeline of Flux's parts with a denoiser of other channels."""
    parts = parts_of(pipeline(folder))
    return kind(**parts | {"transformer": changed(parts["transformer"], **fields)})


def fill(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """4 channels of latents, 4 of what is not masked, which are made, and 2 x 2 of the mask."""
    pipe = with_channels(folder, diffusers.FluxFillPipeline, in_channels=48, out_channels=16)
    made_latents = torch.from_numpy(drawn("masked", 1, 8, 8, 4)).movedim(-1, 1)
    as_encoded = made_latents / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
    prepare = pipe.prepare_mask_latents
    pipe.prepare_mask_latents = lambda mask, masked, *rest: prepare(mask, as_encoded, *rest)
    return pipe


def control(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """4 channels of latents, and 4 of a picture's."""
    return with_channels(folder, diffusers.FluxControlPipeline, in_channels=32, out_channels=16)


def kontext(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return with_channels(folder, diffusers.FluxKontextPipeline)


def packed(pipe, usual: dict) -> dict:
    """Latents as patches."""
    return usual | {"latents": pipe._pack_latents(usual["latents"], 2, 4, 8, 8)}


def unpacked(pipe, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return decode(pipe, pipe._unpack_latents(output, 16, 16, pipe.vae_scale_factor))


def arguments(pipe, usual: dict, **more) -> dict:
    """Its guidance is distilled in, and it takes patches."""
    del usual["negative_prompt"]
    return packed(pipe, usual) | more


def fill_arguments(pipe, usual: dict) -> dict:
    return arguments(pipe, usual, image=torch.zeros(1, 3, 16, 16), mask_image=mask())


def control_arguments(pipe, usual: dict) -> dict:
    """By tokens, which it does not encode."""
    return arguments(pipe, usual, control_image=pipe._pack_latents(pictured(), 2, 4, 8, 8))


def kontext_arguments(pipe, usual: dict) -> dict:
    return arguments(pipe, usual, image=pictured(), max_area=256, _auto_resize=False)


PICTURE = bytes_of(drawn("kontext painted", 16, 16, 3))


def kontext_painted(pipe) -> dict[str, torch.Tensor]:
    """By the class that repaints, of 16 x 16 pixels."""
    paint = diffusers.FluxKontextInpaintPipeline(**pipe.components)
    latents = lambda output: paint._unpack_latents(output, 16, 16, paint.vae_scale_factor)
    size = {"height": 16, "width": 16, "max_area": 256, "_auto_resize": False}
    return {"painted/image": torch.from_numpy(PICTURE)} | painted(paint, (1.0,), PICTURE, latents, **size)


FLUX = Pipeline(pipeline, DYNAMIC, arguments=arguments, decoded=unpacked)
PIPELINES = {
    "flux": FLUX,
    "fill": FLUX._replace(build=fill, arguments=fill_arguments),
    "control": FLUX._replace(build=control, arguments=control_arguments),
    "kontext": FLUX._replace(build=kontext, arguments=kontext_arguments, further=kontext_painted),
}
