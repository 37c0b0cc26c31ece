"""Wan's transformer of diffusers, small and at the published sizes, and under the names of its authors' files."""

import functools

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.translated import Translated

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "ffn_dim": 40,
    "num_layers": 2,
}
PICTURED = {"in_channels": 12, "image_dim": 20, "added_kv_proj_dim": 32}
WORDS = 512  # of a text; with pictures diffusers knows no other number
ORIGINAL = {  # parts of the names of the authors' files
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
}


def inputs(name: str, channels: int, words: int = 5, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "x": drawn(f"{name} x", 2, 3, 4, 6, channels),
        "t": np.array([3.25, 731.5], np.float32),
        "text": drawn(f"{name} text", 2, words, SMALL["text_dim"]),
        **more,
    }


def run(module: torch.nn.Module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of one time for a video, and of one for each frame, as a first frame that is given has its own."""
    patches = None
    if "patches" in a:  # with learned positions those of two pictures, which are examples of their own
        patches = a["patches"]
        if module.config.pos_embed_seq_len:
            patches = patches.reshape(-1, patches.shape[1] // 2, patches.shape[2])
    call = lambda t: last(module(first(a["x"]), t, a["text"], patches).sample)
    by_frame = a["t"][:, None] * torch.tensor([0.0, 0.5, 1.0])
    by_token = by_frame.repeat_interleave(a["x"].shape[2] * a["x"].shape[3] // 4, dim=1)
    return {"output": call(a["t"]), "by_frame": call(by_token)}


def original() -> Translated:
    """Under the names of the authors' files."""
    module = WanTransformer3DModel(**SMALL | PICTURED)
    renamed = {}
    for name, tensor in module.state_dict().items():
        parts = sorted(ORIGINAL, key=len, reverse=True)
        top = name == "scale_shift_table"
        for part in parts:
            at = f".{name}".find(f".{part}")
            if at >= 0 and (f".{name}"[at + 1 + len(part) :] or ".")[0] == ".":
                name = name[:at] + ORIGINAL[part] + name[at + len(part) :]
        renamed["head.modulation" if top else name] = tuple(tensor.shape)
    return Translated(module, renamed, convert_wan_transformer_to_diffusers)


two = drawn("wan two pictures", 2, 6, 20)
CASES = {
    "wan": Case(lambda: WanTransformer3DModel(**SMALL), inputs("wan", 4), run),
    "wan_plain": Case(lambda: WanTransformer3DModel(**SMALL, cross_attn_norm=False), inputs("wan plain", 4), run),
    "wan_pictured": Case(
        lambda: WanTransformer3DModel(**SMALL | PICTURED),
        inputs("wan pictured", 12, WORDS, patches=drawn("wan picture", 2, 3, 20)),
        run,
    ),
    "wan_first_and_last": Case(
        lambda: WanTransformer3DModel(**SMALL | PICTURED, pos_embed_seq_len=6),
        inputs("wan first and last", 12, WORDS, patches=two),
        run,
    ),
    "wan_original": Case(original, inputs("wan original", 12, WORDS, patches=drawn("wan picture", 2, 3, 20)), run),
}
FULL = {
    "1_3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "14b": {},
    "i2v_14b": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "ti2v_5b": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
}
LISTINGS = {f"wan_full_{name}": functools.partial(WanTransformer3DModel, **fields) for name, fields in FULL.items()}
