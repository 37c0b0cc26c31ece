"""A U-Net and a text encoder with LoRA, by diffusers and peft: one fixture for the files that people share.

It runs in the peers' environment, without this library:

    python -m tests.peers.loras tests/fixtures/text_to_image/lora.safetensors

The networks and the factors have the weights of made_weights.py, so that the fixture holds names, shapes and outputs
alone: of the file that diffusers' `save_lora_weights` writes, with peft's metadata, and of the file that diffusers'
converter makes of it for kohya's programs. Both are loaded by diffusers again before the networks are called.

    python -m tests.peers.loras spellings tests/fixtures/text_to_image/lora_spellings.safetensors

writes what diffusers and peft make of further spellings and kinds: the weights that each file changes, merged by them.
"""

import gzip
import json
import pathlib
import sys
import tempfile

import diffusers
import numpy as np
import peft
import torch
import transformers
from diffusers import FluxPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.peers import pipelines
from tests.peers.cases import fill, first, last
from tests.peers.families import flux
from tests.peers.made_weights import drawn, made

UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
    "norm_num_groups": 8,
    "transformer_layers_per_block": 2,
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 9,
    "projection_dim": 24,
    "eos_token_id": 50,
}
# Attention, both layers of the MLP, convolutions of one pixel and of three, one layer of another rank and alpha.
OF_UNET = {
    "r": 3, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2",
                                                "proj_in", "conv1", "time_emb_proj", "conv_shortcut"],
    "rank_pattern": {"^mid_block.resnets.0.conv1": 2}, "alpha_pattern": {"^mid_block.resnets.0.conv1": 1},
}  # fmt: skip
OF_TEXT = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj", "out_proj", "fc1"]}
INPUTS = {
    "x": drawn("lora x", 2, 8, 8, 4),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("lora text", 2, 5, 24),
    "ids": np.array([[58, 3, 17, 2, 50, 59, 59, 0, 0], [58, 9, 30, 31, 32, 33, 59, 1, 50]], np.int32),
}


def networks():
    """The two, with their made weights."""
    unet = UNet2DConditionModel(**UNET).eval()
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)).eval()
    for network in (unet, text):
        fill(network)
    return unet, text


def outputs(unet, text) -> dict[str, torch.Tensor]:
    """What both make of the inputs."""
    a = {name: torch.from_numpy(value) for name, value in INPUTS.items()}
    with torch.no_grad():
        return {
            "unet": last(unet(first(a["x"]), a["t"], a["text"]).sample),
            "text_encoder": text(input_ids=a["ids"].long()).last_hidden_state,
        }


def loaded(path: str) -> dict[str, torch.Tensor]:
    """Outputs of the networks with a LoRA file loaded as diffusers' pipelines load it."""
    unet, text = networks()
    read = StableDiffusionPipeline.lora_state_dict
    state, alphas, metadata = read(path, return_lora_metadata=True, unet_config=unet.config)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    StableDiffusionPipeline.load_lora_into_text_encoder(state, alphas, text, metadata=metadata)
    return outputs(unet, text)


def main(path: str) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    unet, text = networks()
    before = outputs(unet, text)
    for network, config in ((unet, OF_UNET), (text, OF_TEXT)):
        network.add_adapter(LoraConfig(init_lora_weights=False, **config))
    factors = {}
    for component, network in (("unet", unet), ("text_encoder", text)):
        state = get_peft_model_state_dict(network, adapter_name="default")
        factors[component] = {
            name: torch.from_numpy(made(f"{component}.{name}", tuple(value.shape))) for name, value in state.items()
        }
    about = {"unet_config": dict(unet.config), "text_config": text.config.to_dict()}
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=factors["unet"],
            text_encoder_lora_layers=factors["text_encoder"],
            **_collate_lora_metadata({"unet": unet, "text_encoder": text}),
        )
        (saved,) = pathlib.Path(folder).glob("*.safetensors")
        with safe_open(saved, framework="numpy") as file:
            about["peft"] = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
            about["metadata"] = file.metadata()
            for name in file.keys():
                np.testing.assert_array_equal(file.get_tensor(name), made(name, tuple(about["peft"][name])))
        found = {"peft": loaded(str(saved))}
        packed = {f"{component}.{name}": value for component in factors for name, value in factors[component].items()}
        kohya = convert_state_dict_to_kohya(packed)
        alphas = {}
        for name in kohya:
            if name.endswith(".alpha"):  # the converter says the rank: that alpha is not what was trained with
                alphas[name] = float(len(kohya[name.replace(".alpha", ".lora_down.weight")]) * 0.75)
                kohya[name] = torch.tensor(alphas[name])
        same = {
            name: next(key for key, value in packed.items() if value is tensor)
            for name, tensor in kohya.items()
            if name not in alphas
        }
        path_of_kohya = pathlib.Path(folder) / "kohya.safetensors"
        save_file({name: value.contiguous() for name, value in kohya.items()}, path_of_kohya)
        found["kohya"] = loaded(str(path_of_kohya))
    about |= {"kohya": same, "alphas": alphas}
    shapes = lambda network: {name: list(value.shape) for name, value in network.state_dict().items()}
    for component, network in zip(("unet", "text_encoder"), networks()):
        about[f"{component}_shapes"] = {k: v for k, v in shapes(network).items() if not k.endswith("position_ids")}
    arrays = {f"in/{name}": torch.from_numpy(value) for name, value in INPUTS.items()}
    for kind, by_component in {"before": before, **found}.items():
        for component, value in by_component.items():
            change = (value - before[component]).abs().max() / before[component].abs().max()
            print(kind, component, f"{float(change):.2f} of the largest output")
            arrays[f"out/{kind}/{component}"] = value.contiguous()
    versions = {library.__name__: library.__version__ for library in (diffusers, transformers, peft, torch)}
    packed = gzip.compress(json.dumps(about, default=str).encode(), mtime=0)
    arrays["about"] = torch.tensor(list(packed), dtype=torch.uint8)
    command = "python -m tests.peers.loras tests/fixtures/text_to_image/lora.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": command})
    pathlib.Path(path).chmod(0o644)


def opened(path: str, to: str) -> None:
    """Writes what the networks put out with a LoRA file that this library wrote: `loras opened PATH TO`."""
    torch.set_num_threads(1)
    save_file({name: value.contiguous() for name, value in loaded(path).items()}, to)


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.{}.attn{}"
PROCESSORS = {
    f"unet.{ATTENTION.format(layer, which)}.processor.to_{part}_lora.{factor}.weight": shape
    for layer, which, part, inputs in ((0, 1, "q", 16), (1, 2, "k", 24), (1, 2, "out", 16))
    for factor, shape in (("down", (2, inputs)), ("up", (16, 2)))
}
XLABS = {
    f"{block}.0.processor.{part}.{factor}.weight": shape
    for block, part, outputs, inputs in (
        ("double_blocks", "qkv_lora1", 96, 32),
        ("double_blocks", "qkv_lora2", 96, 32),
        ("double_blocks", "proj_lora1", 32, 32),
        ("double_blocks", "proj_lora2", 32, 32),
        ("single_blocks", "qkv_lora", 96, 32),
        ("single_blocks", "proj_lora", 32, 160),
    )
    for factor, shape in (("down", (2, inputs)), ("up", (outputs, 2)))
}
# As kohya's programs name them. Diffusers takes only the published width of a single block's first layer.
COMFYUI = {
    f"diffusion_model.{layer}.{end}": shape
    for layer, outputs, inputs in (
        ("double_blocks.0.img_attn.qkv", 96, 32),
        ("double_blocks.0.txt_attn.proj", 32, 32),
        ("double_blocks.0.img_mlp.0", 128, 32),
        ("double_blocks.0.txt_mod.lin", 192, 32),
        ("single_blocks.0.linear2", 32, 160),
        ("single_blocks.0.modulation.lin", 96, 32),
    )
    for end, shape in (("lora_down.weight", (2, inputs)), ("lora_up.weight", (outputs, 2)), ("alpha", ()))
}
TARGETS = ["attn1.to_q", "attn2.to_k", "down_blocks.0.resnets.0.conv1"]
OF_PEFT = {
    "dora": LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=TARGETS),
    "rslora": LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=TARGETS),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=TARGETS),
    "loha tucker": peft.LoHaConfig(r=2, alpha=3, target_modules=TARGETS, use_effective_conv2d=True),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS),
    "lokr tucker": peft.LoKrConfig(
        r=2, alpha=3, target_modules=TARGETS, use_effective_conv2d=True, decompose_both=True, decompose_factor=4
    ),
    "lokr whole": peft.LoKrConfig(r=16, alpha=3, target_modules=TARGETS),
}


def networks_of_spellings() -> dict[str, torch.nn.Module]:
    """The networks that the spellings are of, with their made weights."""
    found = {"unet": networks()[0], "transformer": flux.small().eval()}
    fill(found["transformer"])
    return found


def fused(path: str, component: str) -> dict[str, torch.Tensor]:
    """The weights of a network into which diffusers has merged a LoRA file."""
    network = networks_of_spellings()[component]
    if component == "unet":
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            path, return_lora_metadata=True, unet_config=network.config
        )
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, network, metadata=metadata)
    else:
        state, alphas, metadata = FluxPipeline.lora_state_dict(path, return_alphas=True, return_lora_metadata=True)
        FluxPipeline.load_lora_into_transformer(state, alphas, network, metadata=metadata)
    network.fuse_lora()
    return {name.replace(".base_layer", ""): value for name, value in network.state_dict().items()}


def by_peft(config: peft.PeftConfig, folder: str) -> dict[str, torch.Tensor]:
    """The weights of the U-Net into which peft has merged an adapter, which it has saved in the folder before."""
    adapted = peft.get_peft_model(networks_of_spellings()["unet"], config)
    state = {
        name: torch.from_numpy(made(name, tuple(value.shape)))
        for name, value in get_peft_model_state_dict(adapted).items()
    }
    peft.set_peft_model_state_dict(adapted, state)
    adapted.save_pretrained(folder)
    saved = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
    for name, value in saved.items():
        np.testing.assert_array_equal(value.numpy(), made(name, tuple(value.shape)), err_msg=name)
    return peft.PeftModel.from_pretrained(networks_of_spellings()["unet"], folder).merge_and_unload().state_dict()


def spellings(path: str) -> None:
    """Writes the fixture of further spellings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    about, arrays = {}, {}
    before = {component: network.state_dict() for component, network in networks_of_spellings().items()}

    def put(case: str, component: str, after: dict[str, torch.Tensor], **said) -> None:
        old = before[component]
        changed = [name for name, value in old.items() if not torch.equal(value, after[name])]
        print(case, *changed)
        arrays.update({f"{case}/{name}": after[name].contiguous() for name in changed})
        about[case] = {"component": component, **said}

    files = {"processors": ("unet", PROCESSORS), "xlabs": ("transformer", XLABS), "comfyui": ("transformer", COMFYUI)}
    for case, (component, shapes) in files.items():
        with tempfile.TemporaryDirectory() as folder:
            # Diffusers goes on for ever at an alpha that is not positive.
            tensors = {
                name: torch.from_numpy(made(name, shape)) if shape else torch.tensor(1.5)
                for name, shape in shapes.items()
            }
            save_file(tensors, pathlib.Path(folder) / "pytorch_lora_weights.safetensors")
            put(case, component, fused(folder, component), shapes=shapes)
    for case, config in OF_PEFT.items():
        with tempfile.TemporaryDirectory() as folder:
            after = by_peft(config, folder)
            saved = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
            said = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
            put(case, "unet", after, shapes={name: list(value.shape) for name, value in saved.items()}, config=said)
    versions = {library.__name__: library.__version__ for library in (diffusers, peft, torch)}
    packed = gzip.compress(json.dumps(about, default=str).encode(), mtime=0)
    arrays["about"] = torch.tensor(list(packed), dtype=torch.uint8)
    command = "python -m tests.peers.loras spellings tests/fixtures/text_to_image/lora_spellings.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": command})
    pathlib.Path(path).chmod(0o644)


def fused_by_diffusers(path: str, to: str) -> None:
    """Writes the weights that diffusers' Flux has with a LoRA file merged: `loras fused_by_diffusers PATH TO`."""
    torch.set_num_threads(1)
    weights = {name: value for name, value in fused(path, "transformer").items() if "lora" not in name}
    save_file({name: value.contiguous() for name, value in weights.items()}, to)


def converted(path: str, to: str) -> None:
    """Writes the factors that diffusers reads in a LoRA file of Flux of the published width."""
    save_file({name: value.clone() for name, value in FluxPipeline.lora_state_dict(path).items()}, to)


def fused_in_pipelines(folder: str, to: str) -> None:
    """Writes the weights of transformers of pipelines.py with the LoRA files of their names in a folder merged."""
    torch.set_num_threads(1)
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with tempfile.TemporaryDirectory() as place:
            pipe = pipelines.PIPELINES[path.stem].build(pathlib.Path(place))
        pipelines.fill(pipe)
        if path.stem not in ("fill", "kontext", "chroma"):
            pipe.load_lora_weights(str(path))
        else:  # of Flux, whose pipelines change the sizes of what they load
            state, alphas, metadata = pipe.lora_state_dict(str(path), return_alphas=True, return_lora_metadata=True)
            pipe.load_lora_into_transformer(state, alphas, pipe.transformer, metadata=metadata)
        pipe.transformer.fuse_lora()
        for name, value in pipe.transformer.state_dict().items():
            if "lora" not in name:
                found[f"{path.stem}/{name.replace('.base_layer', '')}"] = value.contiguous()
    save_file(found, to)


COMMANDS = {
    command.__name__: command for command in (opened, spellings, fused_by_diffusers, fused_in_pipelines, converted)
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:]) if sys.argv[1] in COMMANDS else main(*sys.argv[1:])
