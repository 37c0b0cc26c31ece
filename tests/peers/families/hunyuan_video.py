"""HunyuanVideo of diffusers: its transformer, small, at the published size, by its authors' names; its pipeline."""

import pathlib
import re

import diffusers
import numpy as np
import torch
import transformers
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video as hunyuan
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import CLIP, Pipeline, clip_tokenizer
from tests.peers.translated import Tensors, Translated, dense, under

INPUTS = {
    "x": drawn("hunyuan_video x", 2, 3, 4, 6, 4),
    "t": np.array([0.003, 0.7315], np.float32),
    "text": drawn("hunyuan_video text", 2, 5, 10),
    "text_mask": np.arange(5) < np.array([[5], [3]]),
    "pooled": drawn("hunyuan_video pooled", 2, 8),
    "strength": np.array([6.0, 1.0], np.float32),
}


def small(**options) -> HunyuanVideoTransformer3DModel:
    fields = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 2,
        "text_embed_dim": 10,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    }
    return HunyuanVideoTransformer3DModel(**fields | options)


def original() -> Translated:
    """Under the names of the authors' files."""
    width, text, pooled, box = 32, 10, 8, 16
    embedder = lambda name, inputs, hidden, out: dense(
        **{f"{name}{hidden}": (inputs, width), f"{name}{out}": (width,) * 2}
    )
    norms = lambda *names: {f"{name}.weight": (16,) for name in names}
    shapes = {
        **under("img_in", {"proj.weight": (width, 4, 1, 2, 2), "proj.bias": (width,)}),
        **embedder("time_in__mlp__", 256, 0, 2),
        **embedder("guidance_in__mlp__", 256, 0, 2),
        **embedder("vector_in__", pooled, "in_layer", "out_layer"),
        **dense(txt_in__input_embedder=(text, width)),
        **embedder("txt_in__t_embedder__mlp__", 256, 0, 2),
        **embedder("txt_in__c_embedder__", text, "linear_1", "linear_2"),
        **dense(final_layer__linear=(width, box), final_layer__adaLN_modulation__1=(width, 2 * width)),
    }
    refined = {
        **dense(
            self_attn_qkv=(width, 3 * width), self_attn_proj=(width, width), adaLN_modulation__1=(width, 2 * width)
        ),
        **dense(mlp__fc1=(width, 4 * width), mlp__fc2=(4 * width, width)),
        **{f"norm{i}.{leaf}": (width,) for i in (1, 2) for leaf in ("weight", "bias")},
    }
    stream = {
        **dense(mod__linear=(width, 6 * width), attn_qkv=(width, 3 * width), attn_proj=(width, width)),
        **dense(mlp__fc1=(width, 4 * width), mlp__fc2=(4 * width, width)),
        **norms("attn_q_norm", "attn_k_norm"),
    }
    joint = {f"{name}_{leaf}": shape for name in ("img", "txt") for leaf, shape in stream.items()}
    single = {
        **dense(linear1=(width, 7 * width), linear2=(5 * width, width), modulation__linear=(width, 3 * width)),
        **norms("q_norm", "k_norm"),
    }
    blocks = {"txt_in.individual_token_refiner.blocks": refined, "double_blocks": joint, "single_blocks": single}
    for name, layer in blocks.items():
        for i in range(2):
            shapes |= under(f"{name}.{i}", layer)
    return Translated(small(), shapes, converted)


def converted(tensors: Tensors) -> Tensors:
    """By diffusers, which splits the first layer of a single block at the published width alone: that is split here."""
    parts = {}
    for name in [name for name in tensors if ".linear1." in name]:
        block, leaf = name.replace("single_blocks", "single_transformer_blocks").split(".linear1.")
        ends = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        parts |= {f"{block}.{end}.{leaf}": part for end, part in zip(ends, tensors.pop(name).split((32, 32, 32, 128)))}
    renamed = convert_hunyuan_video_transformer_to_diffusers(dict(tensors))
    tensors.clear()
    return renamed | parts


def run(module: HunyuanVideoTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mask = a["text_mask"].long()
    out = module(first(a["x"]), 1000 * a["t"], a["text"], mask, a["pooled"], 1000 * a["strength"]).sample
    return {"output": last(out)}


CASES = {"hunyuan_video": Case(small, INPUTS, run), "hunyuan_video_original": Case(original, INPUTS, run)}
LISTINGS = {"hunyuan_video_full": HunyuanVideoTransformer3DModel}
FLOW = {"shift": 7.0}


def llama_tokenizer():
    """Bytes, of which the words of HunyuanVideo's task are merged, so that the prompt fits behind it."""
    task = hunyuan.DEFAULT_PROMPT_TEMPLATE["template"].replace("{}", "")
    words = [word.replace(" ", "Ġ") for word in re.findall(r" ?[a-zA-Z]+", re.sub(r"<\|.*?\|>", "", task))]
    merges = list(dict.fromkeys((word[:i], word[i]) for word in words for i in range(1, len(word))))
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    letters = sorted(bytes_to_unicode().values())
    known = dict.fromkeys([*letters, *("".join(pair) for pair in merges), "<|endoftext|>", *special])
    tokenizer = transformers.Qwen2Tokenizer({word: i for i, word in enumerate(known)}, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    tokenizer, of_clip = llama_tokenizer(), clip_tokenizer(folder / "clip")
    of_clip.model_max_length = 77
    config = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(transformers.LlamaConfig(**config)),
        tokenizer=tokenizer,
        transformer=small(
            num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=24
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 16),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW),
        text_encoder_2=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**CLIP | {"max_position_embeddings": 77})
        ),
        tokenizer_2=of_clip,
    )


def arguments(pipe, usual: dict) -> dict:
    """Its guidance is distilled in."""
    del usual["negative_prompt"]
    return usual


SIZE = {"height": 16, "width": 16, "num_frames": 9}
PIPELINES = {"hunyuan_video": Pipeline(pipeline, FLOW, latents=(3, 2, 2, 4), size=SIZE, arguments=arguments)}
