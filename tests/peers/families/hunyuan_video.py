"""HunyuanVideo of diffusers: its transformer, small, at the published size, by its authors' names; its pipeline."""

import functools
import pathlib
import re

import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers
from diffusers.pipelines.hunyuan_video import (
    pipeline_hunyuan_video as hunyuan,
    pipeline_hunyuan_video_image2video as from_image,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import CLIP, Pipeline, changed, clip_tokenizer, decode, first_frame, parts_of
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


def beside() -> HunyuanVideoTransformer3DModel:
    """Its guidance is not distilled in."""
    return small(in_channels=9, image_condition_type="latent_concat", guidance_embeds=False)


def run_beside(module: HunyuanVideoTransformer3DModel, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = module(first(a["x"]), 1000 * a["t"], a["text"], a["text_mask"].long(), a["pooled"]).sample
    return {"output": last(out)}


CASES = {
    "hunyuan_video": Case(small, INPUTS, run),
    "hunyuan_video_original": Case(original, INPUTS, run),
    "hunyuan_video_token_replace": Case(
        lambda: small(image_condition_type="token_replace"),
        INPUTS,
        lambda module, a: dict.fromkeys(("output", "by_frame"), run(module, a)["output"]),
    ),
    "hunyuan_video_latent_concat": Case(
        beside,
        {name: value for name, value in INPUTS.items() if name != "strength"}
        | {"x": drawn("hunyuan_video latent_concat x", 2, 3, 4, 6, 9)},
        run_beside,
    ),
}
FROM_IMAGE = {
    "token_replace": {"image_condition_type": "token_replace"},
    "latent_concat": {"image_condition_type": "latent_concat", "in_channels": 33, "guidance_embeds": False},
}
LISTINGS = {
    "hunyuan_video_full": HunyuanVideoTransformer3DModel,
    **{
        f"hunyuan_video_full_{name}": functools.partial(HunyuanVideoTransformer3DModel, **fields)
        for name, fields in FROM_IMAGE.items()
    },
}
FLOW = {"shift": 7.0}
LLAMA = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip


def llama_tokenizer(
    task: str = hunyuan.DEFAULT_PROMPT_TEMPLATE["template"], merged: tuple[str, ...] = (), special: tuple[str, ...] = ()
):
    """Bytes, of which the words of a task are merged, so that the prompt fits behind it; further words, and special."""
    words = [word.replace(" ", "Ġ") for word in re.findall(r" ?[a-zA-Z]+", re.sub(r"<\|.*?\|>|{}", "", task))]
    merges = list(dict.fromkeys((word[:i], word[i]) for word in [*words, *merged] for i in range(1, len(word))))
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", *special)
    letters = sorted(bytes_to_unicode().values())
    known = dict.fromkeys([*letters, *("".join(pair) for pair in merges), "<|endoftext|>", *special])
    tokenizer = transformers.Qwen2Tokenizer({word: i for i, word in enumerate(known)}, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": [*special]})
    return tokenizer


def pipeline(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    tokenizer, of_clip = llama_tokenizer(), clip_tokenizer(folder / "clip")
    of_clip.model_max_length = 77
    return diffusers.HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel(transformers.LlamaConfig(**LLAMA | {"vocab_size": len(tokenizer)})),
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


def llava(folder: pathlib.Path) -> dict:
    """Llava and its vocabulary, with a start and two line breaks as one word, as Llama 3's."""
    start, lines = "<|begin_of_text|>", "ĊĊ"
    tokenizer = llama_tokenizer(from_image.DEFAULT_PROMPT_TEMPLATE["template"], (lines,), (start, "<image>"))
    library = tokenizer.backend_tokenizer
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.convert_tokens_to_ids(start))]
    )
    seen = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 12, "patch_size": 4}  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=seen,
        text_config=LLAMA | {"vocab_size": len(tokenizer), "model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    sides = {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}}
    return {
        "text_encoder": transformers.LlavaForConditionalGeneration(config),
        "tokenizer": tokenizer,
        "image_processor": transformers.CLIPImageProcessor(**sides),
    }


def image_pipeline(folder: pathlib.Path, **options) -> diffusers.DiffusionPipeline:
    """From an image, by either condition."""
    base = pipeline(folder)
    transformer = changed(base.transformer, **options)
    return diffusers.HunyuanVideoImageToVideoPipeline(**parts_of(base) | llava(folder) | {"transformer": transformer})


# Of the picture's tokens, nine instead of 576.
TEMPLATE = from_image.DEFAULT_PROMPT_TEMPLATE | {"image_emb_len": 9, "image_emb_end": 14}


def replacing_arguments(pipe, usual: dict) -> dict:
    return arguments(pipe, usual) | {"image": [first_frame(usual["height"])] * 2, "prompt_template": TEMPLATE}


def beside_arguments(pipe, usual: dict) -> dict:
    """Of one prompt and one negative prompt, whose black picture the pipeline makes; it keeps all latents."""
    alone = {"prompt": usual["prompt"][:1], "negative_prompt": usual["negative_prompt"][:1]}
    guided = {"true_cfg_scale": usual["guidance_scale"], "guidance_scale": 1.0, "latents": usual["latents"][:1]}

    def keep(pipe, step, time, last: dict) -> dict:
        pipe.last_latents = last["latents"]
        return {}

    image = {"image": first_frame(usual["height"]), "prompt_template": TEMPLATE, "callback_on_step_end": keep}
    return usual | alone | guided | image


def decode_behind_first(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All latents, of which the pipeline leaves the first frame out, and of the clip the frames behind its four."""
    whole = pipe.last_latents
    if not torch.equal(whole[:, :, 1:], latents):
        raise ValueError("the pipeline leaves out another frame than the first of its latents")
    return whole, decode(pipe, whole)[1][:, :, 4:]


def arguments(pipe, usual: dict) -> dict:
    """Its guidance is distilled in."""
    del usual["negative_prompt"]
    return usual


SIZE = {"height": 16, "width": 16, "num_frames": 9}
CLIP_OF_PROMPTS = Pipeline(pipeline, FLOW, latents=(3, 2, 2, 4), size=SIZE, arguments=arguments)
PIPELINES = {
    "hunyuan_video": CLIP_OF_PROMPTS,
    "hunyuan_video_from_image": CLIP_OF_PROMPTS._replace(
        build=functools.partial(image_pipeline, **FROM_IMAGE["token_replace"]), arguments=replacing_arguments
    ),
    "hunyuan_video_concat_from_image": CLIP_OF_PROMPTS._replace(
        build=functools.partial(image_pipeline, **FROM_IMAGE["latent_concat"] | {"in_channels": 9}),
        arguments=beside_arguments,
        decoded=decode_behind_first,
    ),
}
