"""Lumina-Image 2 of diffusers: its transformer, small and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import Lumina2Transformer2DModel
from diffusers.loaders.single_file_utils import convert_lumina2_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import GEMMA, VAE, Pipeline, gemma_tokenizer
from tests.peers.translated import Translated, dense, under

# Two texts of another number of paddings each.
INPUTS = {
    "x": drawn("lumina2 x", 2, 6, 10, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("lumina2 text", 2, 7, 24),
    "text_mask": np.arange(7) < np.array([[6], [4]]),
}


def small(**options) -> Lumina2Transformer2DModel:
    fields = {
        "in_channels": 4,
        "hidden_size": 64,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "multiple_of": 280,
        "axes_dim_rope": (4, 6, 6),
        "cap_feat_dim": 24,
    }
    return Lumina2Transformer2DModel(**fields | options)


def run(module: Lumina2Transformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As its pipeline calls it: the time from the noise, and the output's sign turned."""
    return {"output": -last(module(first(a["x"]), 1 - a["t"], a["text"], a["text_mask"]).sample)}


def original() -> Translated:
    """Under the names of the authors' single files, which diffusers translates for the published size alone."""
    width, time, hidden, keys = 2304, 1024, 9216, 768
    shapes = dense(x_embedder=(64, width), t_embedder__mlp__0=(256, time), t_embedder__mlp__2=(time, time))
    shapes |= dense(cap_embedder__1=(width, width), final_layer__adaLN_modulation__1=(time, width))
    shapes |= dense(final_layer__linear=(width, 64)) | {"cap_embedder.0.weight": (width,)}
    layer = {"attention.qkv.weight": (width + 2 * keys, width), "attention.out.weight": (width, width)}
    layer |= {f"attention.{part}_norm.weight": (96,) for part in "qk"}
    layer |= {f"{part}_norm{i}.weight": (width,) for part in ("attention", "ffn") for i in (1, 2)}
    layer |= {f"feed_forward.w{i}.weight": (width, hidden) if i == 2 else (hidden, width) for i in (1, 2, 3)}
    for stack, number in (("context_refiner", 2), ("noise_refiner", 2), ("layers", 26)):
        more = {} if stack == "context_refiner" else dense(adaLN_modulation__1=(time, 4 * width))
        for i in range(number):
            shapes |= under(f"{stack}.{i}", layer | more)
    made = Translated(Lumina2Transformer2DModel(cap_feat_dim=2304), shapes, convert_lumina2_to_diffusers)
    made.network()  # fails for a name or a shape that is not diffusers'
    return made


CASES = {"lumina2": Case(small, INPUTS, run)}
LISTINGS = {"lumina2_full": lambda: Lumina2Transformer2DModel(cap_feat_dim=2304), "lumina2_full_original": original}
FLOW = {"shift": 6.0}


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    return diffusers.Lumina2Pipeline(
        vae=diffusers.AutoencoderKL(shift_factor=0.1, **VAE),
        tokenizer=gemma_tokenizer(),
        text_encoder=transformers.Gemma2Model(transformers.Gemma2Config(**GEMMA)),
        transformer=small(num_layers=1, multiple_of=8),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW),
    )


PIPELINES = {"lumina2": Pipeline(pipeline, FLOW)}
