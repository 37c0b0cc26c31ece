"""Runs a ComfyUI workflow, or writes one from the settings of a picture.

    diffusion workflow --file=flow.json --model=stable-diffusion-v1-5 --comfyui=ComfyUI --out=pictures
    diffusion workflow --picture=pictures/42.png --out=flow.json

--file is a workflow in the format of ComfyUI's API, or as its page saves it. --model is the folder of its checkpoint
with model_index.json (`diffusion convert` creates one from a single file). --comfyui is the folder of ComfyUI, with
models/loras, models/controlnet and input. The supported nodes are for a checkpoint, texts, LoRA files,
ControlNets, an image, one KSampler or SamplerCustomAdvanced, and a saved picture. The command refuses any other node,
sampler or scheduler, and names it.

--own_steps uses the sampling steps of the model's folder instead of the workflow's scheduler, which is supported only
for Stable Diffusion 1, 2, 3 and 3.5, SDXL and FLUX.1. With --own_steps, pictures of a workflow without a mask carry
their settings, for `diffusion sample --again`. ComfyUI draws different noise for the same seed, so its pictures differ.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("file", None, "workflow to run, a .json file")
    flags.DEFINE_string("picture", None, "picture from diffusion sample --prompt, whose settings become a workflow")
    flags.DEFINE_string(
        "model",
        None,
        "folder of the checkpoint, with model_index.json; with --picture, by default the model of the picture",
    )
    flags.DEFINE_string("comfyui", ".", "folder of ComfyUI, with models/loras, models/controlnet and input")
    flags.DEFINE_bool(
        "own_steps", False, "use the sampling steps of the model's folder instead of the workflow's scheduler"
    )
    flags.DEFINE_string("out", None, "folder for the pictures, or the .json file for the workflow", required=True)
    command_line.begin()

import pathlib
from typing import Any

from diffusion import text_to_image
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import shipped_models
from diffusion.io import json_files, opener, pictures
from diffusion.recipe import ConfigError, as_config_errors
from diffusion.text_to_image import comfyui, comfyui_export, png
from diffusion.text_to_image.requests import Request


def run(
    file: pathlib.Path, model: str, comfyui_folder: pathlib.Path, out: pathlib.Path, own_steps: bool
) -> list[pathlib.Path]:
    """Makes the pictures of a workflow.

    Args:
        file: the workflow.
        model: the folder of its checkpoint.
        comfyui_folder: the folder of ComfyUI, whose files the workflow names.
        out: the folder of the pictures, made if missing.
        own_steps: whether to use the sampling steps of the model's folder, in place of the workflow's scheduler.

    Returns:
        The files that were written.

    Raises:
        ValueError: for a workflow that is not supported, or does not fit the model.
    """
    path = lambda folder, name: str(comfyui_folder / comfyui.FOLDERS[folder] / name)
    flow = comfyui.read(opener.read_json(file), str(file), path)
    print(f"{file}: its checkpoint {flow.checkpoint} is {model}", flush=True)
    model = str(shipped_models.folder_of_prompts(model))
    described = text_to_image.described(model)
    if described.kind.video is not None:
        raise ConfigError(
            f"{model} makes clips, which none of the supported nodes can express. Valid: a model of pictures."
        )
    flow.requested(described)  # refused before the weights are read
    if not own_steps:
        flow.stepped(described)
    source: dict[str, Any] = {"dtype": "float32", "loras": flow.loras, "attachments": flow.attachments}
    loaded = text_to_image.load(model, **source)
    request = flow.requested(loaded).resolved(loaded)
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [{"workflow": str(file)}] * request.number
    if own_steps and flow.mask is None:  # settings name pictures by their files, but a mask is only a channel of one
        records = png.records(request, png.model(model, **source))
    remaining = zip(request.rows()[1], records)
    written = []

    def write_batch(batch: text_to_image.Results) -> None:
        for picture, (seed, stored) in zip(batch.pictures, remaining):
            with pictures.reserved(out, str(seed)) as path:
                pictures.write(path, picture, stored)
            written.append(path)
            print(path, flush=True)

    text_to_image.results(loaded if own_steps else flow.stepped(loaded), request, write_batch)
    return written


def write(picture: pathlib.Path, out: pathlib.Path, model: str | None = None) -> None:
    """Writes the settings of a picture as a workflow.

    Args:
        picture: a PNG file that diffusion sample wrote.
        out: the .json file to write.
        model: the folder of the picture's model; None for the folder in its settings.

    Raises:
        ValueError: for a picture without settings, or with settings that no supported node has.
    """
    stored = png.read(picture)
    if not png.is_complete(stored) or "workdir" in stored:
        raise ConfigError(
            f"{picture} carries no settings of a published model. Valid: a picture that diffusion sample --model wrote."
        )
    folder = stored["model"] if model is None else str(shipped_models.folder_of_prompts(model))
    described = text_to_image.described(folder, dtype=stored["dtype"], weights=False)
    request = png.request({**stored, "seeds": (stored["seed"],)}, Request()).resolved(described)
    image = None if request.image is None else pictures.read(str(request.image))
    graph = comfyui_export.written(request, stored, described, request.size(described, image))
    json_files.write(out, graph)
    print(out, flush=True)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if (values.file is None) == (values.picture is None):
        raise ConfigError(
            "name either --file, a workflow that makes pictures, or --picture, whose settings become a workflow."
        )
    if values.file is not None and values.model is None:
        raise ConfigError("--model is missing: name the folder of the workflow's checkpoint, with model_index.json.")
    with as_config_errors():
        if values.file is None:
            flag_errors.refuse(["comfyui", "own_steps"], "is only for a workflow that runs: --file.")
            write(pathlib.Path(values.picture), pathlib.Path(values.out), values.model)
        else:
            run(pathlib.Path(values.file), values.model, pathlib.Path(values.comfyui), pathlib.Path(values.out),
                values.own_steps)  # fmt: skip


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
