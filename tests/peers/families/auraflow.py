"""AuraFlow of diffusers: its transformer, small, by both kinds of names, and at the published size; its pipeline."""

import pathlib

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AuraFlowTransformer2DModel
from diffusers.loaders.single_file_utils import convert_auraflow_transformer_checkpoint_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import VAE, Pipeline
from tests.peers.translated import Translated, dense, under

# Patches on both sides whose middle in the table is not the rounded middle of the rest.
INPUTS = {
    "x": drawn("auraflow x", 2, 6, 10, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("auraflow text", 2, 7, 24),
}


def small(**options) -> AuraFlowTransformer2DModel:
    fields = {
        "num_mmdit_layers": 2,
        "num_single_dit_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "caption_projection_dim": 32,
        "pos_embed_max_size": 64,
    }
    return AuraFlowTransformer2DModel(**fields | options)


def run(module: AuraFlowTransformer2DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"output": last(module(first(a["x"]), a["text"], a["t"]).sample)}


def original() -> Translated:
    """Under the names of the authors' single files."""
    width, hidden = 32, 256
    weight = lambda **layers: {name: shape for name, shape in dense(**layers).items() if name.endswith(".weight")}
    mlp = weight(c_fc1=(width, hidden), c_fc2=(width, hidden), c_proj=(hidden, width))
    shapes = dense(
        t_embedder__mlp__0=(256, width), t_embedder__mlp__2=(width, width), init_x_linear=(16, width)
    ) | weight(cond_seq_linear=(24, width), modF__1=(width, 2 * width), final_linear=(width, 16))
    shapes |= {"register_tokens": (1, 8, width), "positional_encoding": (1, 64, width)}
    attention = lambda *numbers: weight(**{f"attn__w{n}{part}": (width, width) for n in numbers for part in "qkvo"})
    for i in range(2):
        block = weight(modX__1=(width, 6 * width), modC__1=(width, 6 * width)) | attention(1, 2)
        shapes |= under(f"double_layers.{i}", block | under("mlpX", mlp) | under("mlpC", mlp))
        block = weight(modCX__1=(width, 6 * width)) | attention(1) | under("mlp", mlp)
        shapes |= under(f"single_layers.{i}", block)
    return Translated(small(), shapes, convert_auraflow_transformer_checkpoint_to_diffusers)


CASES = {"auraflow": Case(small, INPUTS, run), "auraflow_original": Case(original, INPUTS, run)}
LISTINGS = {"auraflow_full": lambda: AuraFlowTransformer2DModel(pos_embed_max_size=9216)}


AURAFLOW = {"shift": 1.73}  # as it is published


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """With Llama's kind of vocabulary, as Pile-T5 has, which ends a text and does not begin it."""
    words = ["<pad>", "</s>", "<s>", "<unk>", *(chr(code) for code in range(33, 127)), "\u2581", "ca", "cat"]
    tokenizer = transformers.LlamaTokenizer(
        {word: i for i, word in enumerate(words)},
        [("c", "a"), ("ca", "t")],
        pad_token="<pad>",
        add_bos_token=False,
        add_eos_token=True,
    )
    config = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    return diffusers.AuraFlowPipeline(
        vae=diffusers.AutoencoderKL(**VAE),
        tokenizer=tokenizer,
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**config)),
        transformer=small(sample_size=8, num_mmdit_layers=1, joint_attention_dim=32, pos_embed_max_size=25),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(AURAFLOW),
    )


PIPELINES = {"auraflow": Pipeline(pipeline, AURAFLOW)}
