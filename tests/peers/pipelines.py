"""Whole text-to-image pipelines of diffusers, tiny and with made weights: the folder that they save, what they draw.

It runs in the peers' environment, without this library:

    python -m tests.peers.pipelines tests/fixtures/text_to_image          # all of them
    python -m tests.peers.pipelines tests/fixtures/text_to_image sd       # those whose names begin so

A fixture holds the text files of the folder (configs, vocabulary), the names and shapes of the weights, which are those
of made_weights.py, and for each sampler the latents after 30 steps with guidance 7.5 and a negative prompt; of a latent
consistency model after the steps and with the guidance that its `__call__` has by default. The initial noise and that
of the stochastic steps are made from names.
"""

import gzip
import importlib
import json
import pathlib
import sys
import tempfile
from unittest import mock

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.peers.cases import last, stated
from tests.peers.made_weights import drawn, made_in
from tests.peers.pipeline_parts import GUIDANCE, NEGATIVE, PROMPTS, Pipeline, made_noise

PIPELINES: dict[str, Pipeline] = stated("PIPELINES")
STEPS_OF = {"lcm": 4, "lcm, two steps": 2, "pndm": 25}
# The half steps of PNDM are whole numbers of the process's: of 40, not of 33.
LARGE = 10_000  # numbers of a picture that the fixture holds in part
OTHERWISE = {  # parts of the names of Mistral 3, Llava and Gemma 3 in memory, and in a file
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
SEEING = (
    transformers.Mistral3ForConditionalGeneration,
    transformers.LlavaForConditionalGeneration,
    transformers.Gemma3ForConditionalGeneration,
)


def fill(pipe) -> None:
    """Gives every network its made weights, a tensor of two names that of the first."""
    for component, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            module.eval()
            saved_as = OTHERWISE if isinstance(module, SEEING) else {}
            with torch.no_grad():
                for name, tensor in module.named_parameters():
                    for own, theirs in saved_as.items():
                        name = name.replace(own, theirs)
                    tensor.copy_(torch.from_numpy(made_in(component, name, tuple(tensor.shape))))


def saved(pipe, folder: pathlib.Path) -> dict:
    """What `save_pretrained` writes: the text of the files, the shapes of tensors, and those that no name gives."""
    pipe.save_pretrained(folder, safe_serialization=True)
    about = {"files": {}, "shapes": {}, "kept": {}}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                about["shapes"][name] = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
                for key, shape in about["shapes"][name].items():
                    if not np.array_equal(file.get_tensor(key), made_in(path.parent.name, key, tuple(shape))):
                        about["kept"][f"{path.parent.name}/{key}"] = file.get_tensor(key)
        elif path.suffix == ".model":  # tests/fixtures/text/spiece.model
            about.setdefault("sentencepiece", []).append(name)
        elif path.is_file():
            about["files"][name] = path.read_text()
    return about


def write(name: str, folder: pathlib.Path) -> None:
    """Writes one fixture."""
    pipeline = PIPELINES[name]
    with tempfile.TemporaryDirectory() as place:
        pipe = pipeline.build(pathlib.Path(place))
        fill(pipe)
        pipe.set_progress_bar_config(disable=True)
        about = saved(pipe, pathlib.Path(place) / "saved")
    arrays = {f"kept/{key}": torch.from_numpy(value) for key, value in about.pop("kept").items()}
    print(name, "kept:", ", ".join(arrays) or "none")
    arrays |= {f"image/{i}": torch.from_numpy(image) for i, image in enumerate(pipeline.images)}
    about["walks"], about["steps"] = {}, {**pipeline.further_steps}
    for trajectory, (scheduler, settings) in pipeline.trajectories.items():
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler | settings)
        about["walks"][trajectory] = {"_class_name": scheduler, **pipeline.scheduler, **settings}
        steps = about["steps"][trajectory] = STEPS_OF.get(trajectory, pipeline.steps)
        usual = {"prompt": [*PROMPTS], "negative_prompt": [NEGATIVE] * 2, "num_inference_steps": steps}
        usual |= {"guidance_scale": GUIDANCE, **pipeline.size}
        usual |= {"image": [Image.fromarray(image) for image in pipeline.images]} if pipeline.images else {}
        usual["latents"] = torch.from_numpy(drawn("latents", 2, *pipeline.latents)).movedim(-1, 1)
        with made_noise(pipe.scheduler), torch.no_grad():
            with pipeline.within(pipe, usual["latents"]):
                arguments = pipeline.arguments(pipe, usual)
                output = pipe(output_type="latent", **arguments)
            found, picture = pipeline.decoded(pipe, output.frames if "num_frames" in pipeline.size else output.images)
        if pipeline.unclipped and "picture" not in arrays:
            unclipped = mock.patch.object(pipe.image_processor, "postprocess", lambda image, **_: image)
            with made_noise(pipe.scheduler), torch.no_grad(), unclipped:
                picture = pipe(output_type="pt", **arguments).images
        print(name, trajectory, f"latents up to {found.abs().max():.2f}, picture up to {picture.abs().max():.2f}")
        arrays[f"latents/{trajectory}"] = last(found).contiguous()
        if "picture" not in arrays:
            part = last(picture)[:1, ::4].half() if picture.numel() > LARGE else last(picture)
            arrays["picture"] = part.contiguous()
    arrays |= pipeline.further(pipe)
    arrays["about"] = torch.tensor(list(gzip.compress(json.dumps(about).encode(), mtime=0)), dtype=torch.uint8)
    versions = {library.__name__: library.__version__ for library in (diffusers, transformers, torch)}
    command = "python -m tests.peers.pipelines tests/fixtures/text_to_image"
    path = folder / f"{name}.safetensors"
    save_file(arrays, path, metadata={"versions": json.dumps(versions), "command": command})
    path.chmod(0o644)


SDE_FILE = "diffusers.schedulers.scheduling_dpmsolver_sde"


def defaults(folder: pathlib.Path) -> None:
    """Writes the config that each scheduler has by default, all fields of it."""
    classes = ("DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
               "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep",
               "UniPCMultistep", "LCM", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM", "TCD",
               "DPMSolverSDE", "EDMEuler", "EDMDPMSolverMultistep")  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        found = {}
        for name in classes:
            of = diffusers
            if name == "DPMSolverSDE":  # torchsde draws its noise, and no config
                with mock.patch.dict(sys.modules, {"torchsde": mock.MagicMock()}):
                    of = importlib.import_module(SDE_FILE)
            getattr(of, f"{name}Scheduler")().save_pretrained(place)
            found[name] = json.loads((pathlib.Path(place) / "scheduler_config.json").read_text())
    (folder / "schedulers.json").write_text(json.dumps(found, indent=1) + "\n")


def main(folder: str, prefix: str = "") -> None:
    """Writes those whose names begin with the prefix."""
    torch.set_num_threads(1)
    defaults(pathlib.Path(folder))
    for name in PIPELINES:
        if name.startswith(prefix):
            write(name, pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
