"""Wan of diffusers: its transformer, by both kinds of names, small and at the published sizes; its pipelines."""

import functools
import importlib
import pathlib
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from PIL import Image

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import SHIFTED, Pipeline, by_channel, changed, first_frame, parts_of, t5_tokenizer
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


def vace(module: torch.nn.Module, a: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With a branch on a control."""
    return {"output": last(module(first(a["x"]), a["t"], a["text"], None, first(a["control"])).sample)}


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
    "wan_vace": Case(
        lambda: WanVACETransformer3DModel(**SMALL | {"num_layers": 4}, vace_layers=[0, 2, 3], vace_in_channels=16),
        inputs("wan vace", 4, control=drawn("wan vace control", 2, 3, 4, 6, 16)),
        vace,
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
LISTINGS["wan_full_vace_1_3b"] = functools.partial(
    WanVACETransformer3DModel, **FULL["1_3b"], vace_layers=[*range(0, 30, 2)]
)


WAN_FLOW = {  # as it is published, for 480 pixels
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_p": None,
    "solver_type": "bh2",
    "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
}


def pipeline(
    folder: pathlib.Path, second: bool = False, image: bool = False, ends: bool = False
) -> diffusers.DiffusionPipeline:
    """Wan 2.1 of prompts, or from an image, which CLIP sees, or two; with a second transformer as 2.2."""
    vae = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True],
           "scale_factor_temporal": 2, "scale_factor_spatial": 2}  # fmt: skip
    transformer = lambda: diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=10 if image else 4,
        out_channels=4,
        text_dim=32,
        ffn_dim=40,
        num_layers=2,
        **({"image_dim": 24, "added_kv_proj_dim": 32} if image else {}),
        **({"pos_embed_seq_len": 10} if ends else {}),  # two images of four patches and a class token
    )
    seen = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 8, "patch_size": 4, "hidden_act": "gelu"}  # fmt: skip
    sides = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    eyes = {
        "image_encoder": transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**seen)),
        "image_processor": transformers.CLIPImageProcessor(**sides),
    }
    config = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    return (diffusers.WanImageToVideoPipeline if image else diffusers.WanPipeline)(
        tokenizer=t5_tokenizer(folder / "t5"),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**config)),
        vae=diffusers.AutoencoderKLWan(latents_mean=[-0.7, 0.1, 0.9, -0.2], latents_std=[2.8, 1.4, 0.7, 1.9], **vae),
        scheduler=diffusers.UniPCMultistepScheduler.from_config(WAN_FLOW),
        transformer=transformer(),
        **({"transformer_2": transformer(), "boundary_ratio": 0.875} if second else {}),
        **(eyes if image else {}),
    )


def large(folder: pathlib.Path, image: bool = False) -> diffusers.DiffusionPipeline:
    """Wan 2.2 with a residual autoencoder, a first frame of which has a time of its own."""
    base = pipeline(folder)
    fields = {"is_residual": True, "patch_size": 2, "dim_mult": [1, 1], "scale_factor_spatial": 4}
    parts = parts_of(base) | {"vae": changed(base.vae, **fields, in_channels=12, out_channels=12)}
    mend_letters()
    kind = diffusers.WanImageToVideoPipeline if image else diffusers.WanPipeline
    return kind(**parts, expand_timesteps=True)


def mend_letters() -> None:
    """A library mends letters that these texts do not have."""
    module = importlib.import_module("diffusers.pipelines.wan.pipeline_wan_i2v")
    module.ftfy = mock.MagicMock(fix_text=lambda text: text)


def from_image(folder: pathlib.Path, ends: bool = False) -> diffusers.DiffusionPipeline:
    mend_letters()
    return pipeline(folder, image=True, ends=ends)


def of_vace(folder: pathlib.Path) -> diffusers.DiffusionPipeline:
    """Wan with a branch on a control: four channels for the pixels of a latent."""
    base = pipeline(folder)
    fields = {name: value for name, value in base.transformer.config.items() if not name.startswith("_")}
    transformer = WanVACETransformer3DModel(**fields, vace_layers=[0, 1], vace_in_channels=2 * 4 + 4)
    module = importlib.import_module("diffusers.pipelines.wan.pipeline_wan_vace")
    module.ftfy = mock.MagicMock(fix_text=lambda text: text)
    return diffusers.WanVACEPipeline(**parts_of(base) | {"transformer": transformer})


def alone(pipe, usual: dict) -> dict:
    """Of one prompt, since VACE takes no more."""
    one = {"prompt": usual["prompt"][0], "negative_prompt": usual["negative_prompt"][0]}
    return usual | one | {"latents": usual["latents"][:1]}


def filled_arguments(pipe, usual: dict) -> dict:
    """Between two frames that are known; the others are made, and 0 after the change of range."""
    image = first_frame(usual["height"])
    ends = [np.asarray(one, np.float32) / 255 for one in (image, image.transpose(Image.Transpose.ROTATE_180))]
    video = np.full((usual["num_frames"], *ends[0].shape), 0.5, np.float32)
    video[0], video[-1] = ends
    mask = np.ones_like(video)
    mask[0] = mask[-1] = 0
    frames = lambda clip: torch.from_numpy(clip).movedim(-1, 1)[None]
    return alone(pipe, usual) | {"video": frames(video), "mask": frames(mask)}


def image_arguments(pipe, usual: dict) -> dict:
    return usual | {"image": first_frame(usual["height"])}


def ends_arguments(pipe, usual: dict) -> dict:
    """The last frame is the first one, turned by half a turn."""
    image = first_frame(usual["height"])
    return usual | {"image": image, "last_image": image.transpose(Image.Transpose.ROTATE_180)}


def decode(pipe, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each frame as the decoder has it, since the peer cuts what lies outside [-1, 1]."""
    mean, deviation = (by_channel(pipe.vae.config[f"latents_{one}"]) for one in ("mean", "std"))
    parts = []
    hook = pipe.vae.decoder.register_forward_hook(lambda *called: parts.append(called[-1]))
    pipe.vae.decode(latents * deviation + mean)
    hook.remove()
    patch = pipe.vae.config.get("patch_size")
    picture = torch.cat(parts, dim=2)
    return latents, unpatchify(picture, patch) if patch else picture


CLIP = Pipeline(
    pipeline, SHIFTED, latents=(3, 8, 8, 4), size={"height": 16, "width": 16, "num_frames": 5}, decoded=decode
)
LARGE = CLIP._replace(build=large, size={"height": 32, "width": 32, "num_frames": 5})
PIPELINES = {
    "wan": CLIP._replace(scheduler=WAN_FLOW, trajectories={"unipc": ("UniPCMultistepScheduler", {})}),
    "wan_of_two": CLIP._replace(build=functools.partial(pipeline, second=True)),
    "wan_from_image": CLIP._replace(build=from_image, arguments=image_arguments),
    "wan_first_and_last": CLIP._replace(build=functools.partial(from_image, ends=True), arguments=ends_arguments),
    "wan_vace": CLIP._replace(build=of_vace, arguments=alone),
    "wan_vace_first_and_last": CLIP._replace(build=of_vace, arguments=filled_arguments),
    "wan_5b": LARGE,
    "wan_5b_from_image": LARGE._replace(build=functools.partial(large, image=True), arguments=image_arguments),
}
