"""Perturbed-attention guidance in diffusers: the latents that its classes end at, on the pipelines of pipelines.py.

    python -m tests.peers.perturbed tests/fixtures/text_to_image

The fixture holds CASES and the latents of each. The base's weights are those of its own fixture, and the ControlNet is
"edges" of controlled.py.
"""

import inspect
import json
import pathlib
import sys
import tempfile

import diffusers
import torch
from safetensors.torch import save_file

from tests.peers.cases import last
from tests.peers.controlled import control_net, picture
from tests.peers.made_weights import drawn
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS
from tests.peers.pipelines import PIPELINES, fill

STEPS = 6
# The base, the class, the scale of the guidance by the prompt.
CASES = {
    "sd": ("sd", "StableDiffusionPAGPipeline", GUIDANCE),
    "sd, unguided": ("sd", "StableDiffusionPAGPipeline", 1.0),
    "sd, controlled": ("sd", "StableDiffusionControlNetPAGPipeline", GUIDANCE),
    "xl": ("xl", "StableDiffusionXLPAGPipeline", GUIDANCE),
    "mmdit": ("mmdit", "StableDiffusion3PAGPipeline", GUIDANCE),
    "pixart": ("pixart", "PixArtSigmaPAGPipeline", GUIDANCE),
    "sana": ("sana", "SanaPAGPipeline", GUIDANCE),
}
SCHEDULERS = {"sd": "DDIMScheduler", "xl": "EulerDiscreteScheduler"}


def latents(base: str, name: str, guidance: float) -> torch.Tensor:
    """The latents at the end of a class, with the scale of perturbed-attention guidance of its call."""
    pipeline = PIPELINES[base]
    kind = getattr(diffusers, name)
    with tempfile.TemporaryDirectory() as place:
        pipe = pipeline.build(pathlib.Path(place))
    fill(pipe)
    taken = inspect.signature(kind.__init__).parameters
    parts = {part: module for part, module in pipe.components.items() if part in taken}
    parts |= {"controlnet": control_net("edges")} if "ControlNet" in name else {}
    parts |= {"requires_safety_checker": False} if "safety_checker" in parts else {}
    parts |= {"add_watermarker": False} if base == "xl" else {}
    perturbed = kind(**parts)
    perturbed.set_progress_bar_config(disable=True)
    if base in SCHEDULERS:
        perturbed.scheduler = getattr(diffusers, SCHEDULERS[base]).from_config(pipeline.scheduler)
    usual = {"prompt": [*PROMPTS], "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": STEPS}
    usual |= {"guidance_scale": guidance, **pipeline.size}
    usual["latents"] = torch.from_numpy(drawn("latents", 2, *pipeline.latents)).movedim(-1, 1)
    usual |= {"image": picture("edges").repeat(2, 1, 1, 1)} if "ControlNet" in name else {}
    with torch.no_grad():
        return last(perturbed(output_type="latent", **pipeline.arguments(perturbed, usual)).images).contiguous()


def main(folder: str) -> None:
    """Writes the fixture."""
    torch.set_num_threads(1)
    arrays = {}
    for name, case in CASES.items():
        arrays[name] = latents(*case)
        print(name, f"latents up to {arrays[name].abs().max():.2f}")
    versions = {library.__name__: library.__version__ for library in (diffusers, torch)}
    about = {"versions": json.dumps(versions), "command": f"python -m {__spec__.name}", "cases": json.dumps(CASES)}
    path = pathlib.Path(folder) / "perturbed.safetensors"
    save_file(arrays, path, metadata={**about, "steps": str(STEPS)})
    path.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
