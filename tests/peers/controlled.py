"""Stable Diffusion with ControlNets in diffusers, tiny and with made weights: the latents that its pipelines end at.

    python -m tests.peers.controlled tests/fixtures/text_to_image

The base is the pipeline "sd" of pipelines.py. The fixture holds config, names and shapes of the two ControlNets, whose
weights are those of made_weights.py under their names, and the latents of each of CASES.
"""

import gzip
import json
import pathlib
import sys
import tempfile

import diffusers
import torch
from safetensors.torch import save_file

from tests.peers.cases import last
from tests.peers.families.stable_diffusion import SD_1, stable_diffusion
from tests.peers.made_weights import drawn, made
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS, UNET
from tests.peers.pipelines import fill

STEPS = 10
NETS = ("edges", "depth")
# The ControlNets in use, the scale of each, and the parts of the steps between which they act.
CASES = {
    "one": (("edges",), (1.0,), (0.0, 1.0)),
    "one, weak, in the middle": (("depth",), (0.6,), (0.25, 0.75)),
    "two": (("edges", "depth"), (0.8, 0.5), (0.0, 1.0)),
}


def control_net(name: str) -> diffusers.ControlNetModel:
    """A ControlNet for the U-Net of "sd"; it is not small where it ends, so that the pictures follow."""
    config = {field: value for field, value in UNET.items() if field not in ("sample_size", "up_block_types")}
    net = diffusers.ControlNetModel(
        cross_attention_dim=24, conditioning_embedding_out_channels=(8, 16), **config
    ).eval()
    with torch.no_grad():
        for key, tensor in net.named_parameters():
            tensor.copy_(torch.from_numpy(made(f"{name}.{key}", tuple(tensor.shape))))
    return net


def picture(name: str, side: int = 16) -> torch.Tensor:
    """The picture of a control, in [0, 1], [1, 3, side, side]: whole numbers of 255ths, as a file has them."""
    pixels = (drawn(f"picture {name}", side, side, 3) * 40 + 128).clip(0, 255).round() / 255
    return torch.from_numpy(pixels).movedim(-1, 0)[None]


def main(folder: str) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    nets = {name: control_net(name) for name in NETS}
    about = {
        "config": {**nets["edges"].config},
        "shapes": {key: list(tensor.shape) for key, tensor in nets["edges"].state_dict().items()},
        "cases": {name: list(case) for name, case in CASES.items()},
        "steps": STEPS,
    }
    with tempfile.TemporaryDirectory() as place:
        base = stable_diffusion(pathlib.Path(place))
    fill(base)
    x = torch.from_numpy(drawn("latents", 2, 8, 8, 4)).movedim(-1, 1)
    arrays = {}
    for name, (used, scales, (start, end)) in CASES.items():
        several = len(used) > 1
        pipe = diffusers.StableDiffusionControlNetPipeline(
            **base.components,
            controlnet=[nets[one] for one in used] if several else nets[used[0]],
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(SD_1)
        images = [picture(one).repeat(2, 1, 1, 1) for one in used]
        with torch.no_grad():
            found = pipe(
                PROMPTS, image=images if several else images[0], negative_prompt=[NEGATIVE] * 2, latents=x.clone(),
                num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=16, width=16, output_type="latent",
                controlnet_conditioning_scale=list(scales) if several else scales[0],
                control_guidance_start=start, control_guidance_end=end,
            ).images  # fmt: skip
        print(name, f"latents up to {found.abs().max():.2f}")
        arrays[f"latents/{name}"] = last(found).contiguous()
    about["config"]["_class_name"] = "ControlNetModel"
    text = json.dumps(about, default=list)
    arrays["about"] = torch.tensor(list(gzip.compress(text.encode(), mtime=0)), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, torch)}
    path = pathlib.Path(folder) / "controlled.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": f"python -m {__spec__.name}"})
    path.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
