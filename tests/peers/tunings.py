"""What a run has taught a Stable Diffusion, opened by diffusers and peft: the outputs of its networks.

It runs in the peers' environment: python -m tests.peers.tunings KIND FOLDER FILE OUT, where FOLDER is a pipeline, FILE
what we wrote, and KIND "lora", "loha" or "lokr".
"""

import sys

import numpy as np
import peft
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file as save

from tests.peers.made_weights import drawn

INPUTS = {
    "x": drawn("tuning x", 2, 8, 8, 4),
    "t": np.array([3.0, 731.0], np.float32),
    "text": drawn("tuning text", 2, 12, 24),
}
PROMPTS = ["a cat", "a dog"]


def with_lycoris(unet, kind, tensors):
    """The network with a LoHa or LoKr of LyCORIS' names, by peft's own layers."""
    layers = {f"lora_unet_{name.replace('.', '_')}": name for name, _ in unet.named_modules()}
    found = {}
    for name, tensor in tensors.items():
        stem, part = name.split(".", 1)
        found.setdefault(layers[stem], {})[part] = tensor
    parts = next(iter(found.values()))
    factor = {"loha": "hada_w1_a", "lokr": "lokr_w2_a"}[kind]
    rank = next(each[factor].shape[1] for each in found.values() if factor in each)
    alpha = float(parts["alpha"])
    config = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind]
    names = sorted(found)
    model = peft.get_peft_model(unet, config(r=rank, alpha=alpha, target_modules=names))
    for name, module in model.base_model.model.named_modules():
        if name in found:
            for part, tensor in found[name].items():
                if part != "alpha":
                    parameter = getattr(module, part)["default"]
                    assert parameter.shape == tensor.shape, (name, part, parameter.shape, tensor.shape)
                    parameter.data = tensor
    return model


def main(kind: str, folder: str, file: str, out: str) -> None:
    """Opens the file, and calls what it changes."""
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    unet = pipe.unet
    if kind == "lora":
        pipe.load_lora_weights(file)
    else:
        unet = with_lycoris(unet, kind, load_file(file))
    inputs = {name: torch.from_numpy(np.array(array)) for name, array in INPUTS.items()}
    length = pipe.tokenizer.model_max_length
    fill = {"padding": "max_length", "max_length": length, "truncation": True}
    ids = pipe.tokenizer(PROMPTS, return_tensors="pt", **fill).input_ids
    with torch.no_grad():
        x = inputs["x"].permute(0, 3, 1, 2)
        noise = unet(x, inputs["t"], inputs["text"]).sample.permute(0, 2, 3, 1)
        text = pipe.text_encoder(ids)[0]
    save({"unet": noise.contiguous(), "text": text.contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
