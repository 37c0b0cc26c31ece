"""The U-Net of Stable Diffusion 1, 2 and XL, small and at its published sizes, by diffusers' and the original names."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import save_file

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn, made

# Groups of several channels: the norm of a group of one takes away what the time adds to it.
FEW = {"norm_num_groups": 8}
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
SMALL_XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": (1, 4),
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
    "transformer_layers_per_block": 2,
    "use_linear_projection": True,
}
XL = {
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
}


def unet(widths: tuple[int, ...], attends: tuple[int, ...], text: int, **options) -> UNet2DConditionModel:
    """A U-Net with attention (1) or without (0) at each level."""
    return UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=tuple(DOWN[a] for a in attends),
        cross_attention_dim=text,
        up_block_types=tuple(UP[a] for a in reversed(attends)),
        **options,
    )


def inputs(name: str, channels: int = 4, text: int = 24, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "x": drawn(f"{name} x", 2, 8, 16, channels),
        "t": np.array([3.0, 731.0], np.float32),
        "text": drawn(f"{name} text", 2, 5, text),
        **more,
    }


def run(module: torch.nn.Module, a: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One call with every entry of the condition."""
    entries = {}
    if "text_mask" in a:
        entries["encoder_attention_mask"] = a["text_mask"]
    if "size" in a:
        entries["added_cond_kwargs"] = {"text_embeds": a["pooled"], "time_ids": a["size"]}
    if module.config.class_embed_type == "projection":
        entries["class_labels"] = a["pooled"]
    elif "label" in a:
        entries["class_labels"] = a["label"]
    if "strength" in a:  # the scale of the guidance, embedded as their pipelines do
        embed, size = StableDiffusionPipeline.get_guidance_scale_embedding, module.config.time_cond_proj_dim
        entries["timestep_cond"] = embed(None, a["strength"] - 1, size)
    return {"output": last(module(first(a["x"]), a["t"], a["text"], **entries).sample)}


def with_adapters(module: torch.nn.Module, a: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """ControlNet's residuals, and IP-Adapter's tokens, with projections that are made here and in our test."""
    residuals = [first(a[key]) for key in sorted(a) if key.startswith("residual_")]
    call = lambda text, **more: last(module(first(a["x"]), a["t"], text, **more).sample)
    controlled = call(
        a["text"], down_block_additional_residuals=residuals[:-1], mid_block_additional_residual=residuals[-1]
    )
    # Theirs stand in the order down, up, middle; the network's order is down, middle, up.
    order = sorted(
        (name for name in module.attn_processors if "attn2" in name),
        key=lambda name: ("down", "mid", "up").index(name.split("_")[0]),
    )
    processors = dict(module.attn_processors)
    for i, name in enumerate(order):
        width = module.get_submodule(name.removesuffix(".processor")).to_q.in_features
        features = a["image"].shape[-1]
        processors[name] = IPAdapterAttnProcessor2_0(width, features, num_tokens=(a["image"].shape[1],))
        for which in ("k", "v"):
            layer = getattr(processors[name], f"to_{which}_ip")[0]
            layer.weight.data = torch.from_numpy(made(f"ip {i} {which}", (width, features)))
    module.set_attn_processor(processors)
    return {"controlled": controlled, "prompted": call((a["text"], [a["image"]]))}


def with_levels(module: torch.nn.Module, a: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """T2I-Adapter's features."""
    levels = [first(a[key]) for key in sorted(a) if key.startswith("level_")]
    entries = {"added_cond_kwargs": {"text_embeds": a["pooled"], "time_ids": a["size"]}} if "size" in a else {}
    x = first(a["x"])
    return {"output": last(module(x, a["t"], a["text"], down_intrablock_additional_residuals=levels, **entries).sample)}


class Original(torch.nn.Module):
    """A U-Net under the names of its original repository, which diffusers' own conversion translates.

    CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py; Stability-AI/generative-models has the same
    names, and "label_emb" beside.
    """

    def __init__(self, network: torch.nn.Module, key: str = LDM_UNET_KEY, convert=convert_ldm_unet_checkpoint):
        super().__init__()
        self.networks = (network,)  # not a child: its own names are not to be seen
        self.config = network.config
        originals = {key + name: name for name in original_names(network)}
        self.names = convert(originals, dict(network.config))
        if sorted(self.names) != sorted(network.state_dict()) or set(self.names.values()) != set(originals.values()):
            raise ValueError("diffusers translates these names otherwise")

    def state_dict(self) -> dict[str, torch.Tensor]:
        theirs = self.networks[0].state_dict()
        return {original: theirs[name] for name, original in self.names.items()}

    def save_pretrained(self, folder: str, safe_serialization: bool = True) -> None:
        self.networks[0].save_config(folder)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, pathlib.Path(folder) / "diffusion_pytorch_model.safetensors")

    def forward(self, *arguments, **named):
        return self.networks[0](*arguments, **named)


def original_names(network: torch.nn.Module) -> Iterator[str]:
    """The names of the original code, which appends to three lists of modules in the order of the network.

    A ControlNet (lllyasviel/ControlNet, cldm/cldm.py) has two of the lists, and names of its own.
    """
    config = network.config
    both = lambda *stems: (f"{stem}.{leaf}" for stem in stems for leaf in ("weight", "bias"))

    def resnet(stem: str, block: torch.nn.Module) -> Iterator[str]:
        layers = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
        layers += ["skip_connection"] * (block.conv_shortcut is not None)
        yield from both(*(f"{stem}.{layer}" for layer in layers))

    def transformer(stem: str, block: torch.nn.Module) -> Iterator[str]:
        yield from (f"{stem}.{name}" for name in block.state_dict())  # which diffusers kept as they are

    yield from both("time_embed.0", "time_embed.2", "input_blocks.0.0")
    if hasattr(network, "controlnet_cond_embedding"):
        yield from both(*(f"zero_convs.{i}.0" for i in range(len(network.controlnet_down_blocks))))
        yield from both("middle_block_out.0", *(f"input_hint_block.{i}" for i in range(0, 15, 2)))
    else:
        yield from both("out.0", "out.2")
    if config.addition_embed_type:
        yield from both("label_emb.0.0", "label_emb.0.2")
    count = 1
    for block in network.down_blocks:
        for i, each in enumerate(block.resnets):
            yield from resnet(f"input_blocks.{count}.0", each)
            if hasattr(block, "attentions"):
                yield from transformer(f"input_blocks.{count}.1", block.attentions[i])
            count += 1
        if block.downsamplers:
            yield from both(f"input_blocks.{count}.0.op")
            count += 1
    for i, (kind, each) in enumerate(
        (
            (resnet, network.mid_block.resnets[0]),
            (transformer, network.mid_block.attentions[0]),
            (resnet, network.mid_block.resnets[1]),
        )
    ):
        yield from kind(f"middle_block.{i}", each)
    count = 0
    for block in getattr(network, "up_blocks", ()):
        for i, each in enumerate(block.resnets):
            yield from resnet(f"output_blocks.{count}.0", each)
            if hasattr(block, "attentions"):
                yield from transformer(f"output_blocks.{count}.1", block.attentions[i])
            count += 1
        if block.upsamplers:
            yield from both(f"output_blocks.{count - 1}.{2 if hasattr(block, 'attentions') else 1}.conv")


SD1 = lambda: unet((32, 64), (1, 0), 24, attention_head_dim=4, **FEW)
SD2 = lambda: unet(
    (32, 64),
    (1, 0),
    24,
    attention_head_dim=(1, 4),
    use_linear_projection=True,
    in_channels=9,
    layers_per_block=1,
    **FEW,
)
XL_SMALL = lambda: unet((32, 64), (0, 1), 24, layers_per_block=1, **SMALL_XL)
PLACES = ((4, 4, 32), (4, 4, 32), (2, 2, 32), (2, 2, 64), (2, 2, 64))  # of the residuals, in the network with adapters
LEVELS_XL = ((4, 8, 32), (4, 8, 64), (4, 8, 64))  # of its features: two levels and the middle
CONDITION_XL = {
    "pooled": drawn("unet xl pooled", 2, 24),
    "size": np.array([[512, 768, 0, 16, 1024, 1024], [8, 8, 0, 0, 8, 16]], np.float32),
}
CASES = {
    "conditional_unet_sd1": Case(SD1, inputs("unet sd1"), run),
    "conditional_unet_sd2": Case(SD2, inputs("unet sd2", 9, text_mask=np.arange(5) < np.array([[3], [5]])), run),
    "conditional_unet_xl": Case(XL_SMALL, inputs("unet xl", **CONDITION_XL), run),
    "conditional_unet_distilled": Case(  # LCM's strength, and the lists of blocks of small-sd: no middle
        lambda: unet(
            (32, 64),
            (1, 1),
            24,
            attention_head_dim=4,
            layers_per_block=1,
            mid_block_type=None,
            time_cond_proj_dim=16,
            **FEW,
        ),
        inputs("unet lcm", strength=np.array([1.5, 8.0], np.float32)),
        run,
    ),
    "conditional_unet_one_level": Case(  # the smallest with a pooled text, a size and a strength
        lambda: unet(
            (16,),
            (1,),
            24,
            layers_per_block=1,
            mid_block_type=None,
            norm_num_groups=4,
            time_cond_proj_dim=8,
            **{**SMALL_XL, "attention_head_dim": 2, "transformer_layers_per_block": 1},
        ),
        inputs("unet one level", strength=np.array([1.5, 8.0], np.float32), **CONDITION_XL),
        run,
    ),
    "conditional_unet_uneven": Case(  # SSD-1B: other depths in each block, other ones on the way up, a bare middle
        lambda: unet(
            (32, 64),
            (1, 1),
            24,
            layers_per_block=1,
            mid_block_type="UNetMidBlock2D",
            reverse_transformer_layers_per_block=[[1, 3], 2],
            **{**SMALL_XL, "transformer_layers_per_block": [[1], [2]]},
            **FEW,
        ),
        inputs("unet uneven", **CONDITION_XL),
        run,
    ),
    "conditional_unet_number": Case(
        lambda: unet(
            (32, 64), (1, 0), 24, attention_head_dim=4, layers_per_block=1, class_embed_type="timestep", **FEW
        ),
        inputs("unet number", label=np.array([7.5, 300.0], np.float32)),
        run,
    ),
    "conditional_unet_projection": Case(
        lambda: unet(
            (32, 64),
            (1, 0),
            24,
            attention_head_dim=4,
            layers_per_block=1,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=12,
            **FEW,
        ),
        inputs("unet projection", pooled=drawn("unet projection pooled", 2, 12)),
        run,
    ),
    "conditional_unet_table": Case(
        lambda: unet((32, 64), (1, 0), 24, attention_head_dim=4, layers_per_block=1, num_class_embeds=5, **FEW),
        inputs("unet table", label=np.array([4, 1], np.int32)),
        run,
    ),
    "conditional_unet_adapters": Case(
        lambda: unet((32, 64), (1, 0), 16, layers_per_block=1, attention_head_dim=4, **FEW),
        {
            "x": drawn("unet doors x", 1, 4, 4, 4),
            "t": np.array([500.0], np.float32),
            "text": drawn("unet doors text", 1, 5, 16),
            "image": drawn("unet doors image", 1, 3, 12),
            **{f"residual_{i}": drawn(f"unet doors {i}", 1, *shape) for i, shape in enumerate(PLACES)},
        },
        with_adapters,
    ),
    "conditional_unet_levels": Case(
        lambda: unet((32, 64), (1, 0), 16, layers_per_block=1, attention_head_dim=4, **FEW),
        {
            "x": drawn("unet levels x", 1, 4, 4, 4),
            "t": np.array([500.0], np.float32),
            "text": drawn("unet levels text", 1, 5, 16),
            **{f"level_{i}": drawn(f"unet level {i}", 1, *shape) for i, shape in enumerate(((4, 4, 32), (2, 2, 64)))},
        },
        with_levels,
    ),
    "conditional_unet_levels_xl": Case(
        XL_SMALL,
        {
            **inputs("unet levels xl", **CONDITION_XL),
            **{f"level_{i}": drawn(f"unet level xl {i}", 2, *shape) for i, shape in enumerate(LEVELS_XL)},
        },
        with_levels,
    ),
    "conditional_unet_original_sd1": Case(lambda: Original(SD1()), inputs("unet sd1"), run),
    "conditional_unet_original_xl": Case(lambda: Original(XL_SMALL()), inputs("unet xl", **CONDITION_XL), run),
}
FULL = {
    "sd15": lambda: unet((320, 640, 1280, 1280), (1, 1, 1, 0), 768),
    "sd21": lambda: unet(
        (320, 640, 1280, 1280), (1, 1, 1, 0), 1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    ),
    "sdxl": lambda: unet((320, 640, 1280), (0, 1, 1), 2048, **XL),
}
LISTINGS = {
    **{f"conditional_unet_full_{name}": build for name, build in FULL.items()},
    **{
        f"conditional_unet_original_full_{name}": (lambda build=build: Original(build()))
        for name, build in FULL.items()
    },
}
