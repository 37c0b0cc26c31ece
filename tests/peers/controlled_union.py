"""Stable Diffusion XL with a union ControlNet in diffusers, tiny: the latents that its pipeline ends at.

    python -m tests.peers.controlled_union tests/fixtures/text_to_image

The base is the pipeline "xl" of pipelines.py, the fixture's form that of controlled_transformers.py. Diffusers'
union attends over the pictures of a batch, which all have the same control here, as in every call of its pipeline with
one picture: attention to equal tokens is their value, as attention to oneself is.
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
from tests.peers.controlled import picture
from tests.peers.controlled_transformers import Used
from tests.peers.families.stable_diffusion import stable_diffusion_xl
from tests.peers.made_weights import drawn, made
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS, UNET
from tests.peers.pipelines import fill

STEPS = 5
CASES = {
    "one of a union": Used(("union",), (0.8,), modes=(2,)),
    "two of a union, in the middle": Used(("union", "union"), (0.6, 0.9), (0.2, 0.8), modes=(0, 2)),
}


def union() -> diffusers.ControlNetUnionModel:
    """A ControlNet of three kinds; it is not small where it ends, so that the pictures follow."""
    of_unet = {name: value for name, value in UNET.items() if name not in ("sample_size", "up_block_types")}
    width = UNET["block_out_channels"][0]
    net = diffusers.ControlNetUnionModel(
        **of_unet,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        use_linear_projection=True,
        conditioning_embedding_out_channels=(8, 16),
        num_control_type=3,
        num_trans_channel=width,
        num_trans_head=2,
        num_proj_channel=width,
    ).eval()
    with torch.no_grad():
        for key, tensor in net.named_parameters():
            tensor.copy_(torch.from_numpy(made(f"union.{key}", tuple(tensor.shape))))
    return net


def main(folder: str) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        base = stable_diffusion_xl(pathlib.Path(place))
    fill(base)
    net = union()
    about = {
        "config": {"union": {**net.config, "_class_name": type(net).__name__}},
        "shapes": {"union": {key: list(tensor.shape) for key, tensor in net.state_dict().items()}},
        "cases": {name: case._asdict() for name, case in CASES.items()},
        "steps": STEPS,
    }
    x = torch.from_numpy(drawn("latents", 2, 8, 8, 4)).movedim(-1, 1)
    arrays = {}
    for name, case in CASES.items():
        number = len(case.modes)
        images = [picture(one).repeat(2, 1, 1, 1) for one in ("edges", "depth")][:number]
        several = {"start": [case.between[0]] * number, "end": [case.between[1]] * number, "scale": list(case.scales)}
        how = several if number > 1 else {key: value[0] for key, value in several.items()}
        pipe = diffusers.StableDiffusionXLControlNetUnionPipeline(
            **base.components, controlnet=[net] * number if number > 1 else net, add_watermarker=False
        )
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            found = pipe(
                PROMPTS, control_image=images, control_mode=list(case.modes),
                negative_prompt=[NEGATIVE] * 2, latents=x.clone(), num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                height=16, width=16, output_type="latent", controlnet_conditioning_scale=how["scale"],
                control_guidance_start=how["start"], control_guidance_end=how["end"],
            ).images  # fmt: skip
        print(name, f"latents up to {found.abs().max():.2f}")
        arrays[f"latents/{name}"] = last(found).contiguous()
    packed = gzip.compress(json.dumps(about, default=list).encode(), mtime=0)
    arrays["about"] = torch.tensor(list(packed), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, torch)}
    path = pathlib.Path(folder) / "controlled_xl.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": f"python -m {__spec__.name}"})
    path.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
