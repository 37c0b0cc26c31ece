"""Custom diffusion by diffusers: what a U-Net puts out with our small file, and with the files that diffusers writes.

It runs in the peers' environment: python -m tests.peers.custom_diffusions FOLDER FILE PLACE, where FOLDER is a pipeline
and FILE what we wrote. PLACE gets outputs.safetensors, by the names "ours" and those of `SAVED`, and diffusers' files
as NAME.safetensors or NAME.bin.
"""

import pathlib
import sys

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from safetensors.torch import save_file

from tests.peers.made_weights import drawn
from tests.peers.tunings import INPUTS

SAVED = {"keys.safetensors": False, "keys.bin": False, "queries.bin": True}  # whether queries and outputs too


def output(unet) -> torch.Tensor:
    """The output of a U-Net, channels last."""
    x, t, text = (torch.from_numpy(INPUTS[name]) for name in ("x", "t", "text"))
    with torch.no_grad():
        return unet(x.permute(0, 3, 1, 2), t, text).sample.permute(0, 2, 3, 1).contiguous()


def with_layers(unet, queries: bool):
    """The U-Net with processors of custom diffusion, as diffusers' training script has them, of made weights."""
    text = unet.config.cross_attention_dim
    made = {}
    for name in unet.attn_processors:
        cross = name.endswith("attn2.processor")
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        how = {"hidden_size": width, "cross_attention_dim": text} if cross else {}
        made[name] = CustomDiffusionAttnProcessor2_0(train_kv=cross, train_q_out=queries and cross, **how)
        for key, tensor in made[name].state_dict().items():
            tensor.copy_(torch.from_numpy(drawn(f"{name} {key}", *tensor.shape)) * 0.3)
    unet.set_attn_processor(made)
    return unet


def main(folder: str, file: str, place: str) -> None:
    """Opens our file, and makes and writes theirs."""
    torch.set_num_threads(1)
    to = pathlib.Path(place)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    before = output(pipe.unet)
    path = pathlib.Path(file)
    pipe.unet.load_attn_procs(str(path.parent), weight_name=path.name, _pipeline=pipe)
    found = {"before": before, "ours": output(pipe.unet)}
    for name, queries in SAVED.items():
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        unet = with_layers(pipe.unet, queries)
        unet.save_attn_procs(to, weight_name=name, safe_serialization=name.endswith(".safetensors"))
        found[name] = output(unet)
    save_file(found, to / "outputs.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
