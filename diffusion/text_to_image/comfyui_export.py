"""Writes requests as ComfyUI workflows, in the format of its API.

graph = comfyui_export.written(request, source, model, (height, width))    # a dict, for a .json file
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.io import limits
from diffusion.models.interchange import schedulers
from diffusion.models.layers.choices import look_up
from diffusion.text.long_prompts import BREAK
from diffusion.text_to_image import comfyui, comfyui_steps
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import settings

USED = ("prompts", "negative", "steps", "guidance", "seeds", "sampler", "height", "width", "image", "strength",
        "batch_size", "emphasis", "windows", "controls", "mask", "kept_noise", "perturbed_guidance")  # fmt: skip
SCALES = ("image_guidance", "late_guidance")  # scales without an effect at 1


def written(request: Request, source: Mapping[str, Any], model: TextToImage, size: tuple[int, int]) -> dict:
    """A request of one prompt as a workflow, in the format of ComfyUI's API.

    Args:
        request: a resolved request, with the model's own steps, guidance and sampler.
        source: the files, {"model": folder, "loras": {file: weight}, "attachments": {name: file}}; the workflow states
            their names without folders, because ComfyUI looks for files in folders of its own.
        model: the model; one of ComfyUI's schedulers must have the same steps.
        size: height and width of the pictures in pixels.

    Returns:
        {name of a node: {"class_type": its class, "inputs": {name: value}}}.

    Raises:
        ValueError: if no node has a setting of the request, or no scheduler of ComfyUI has the model's steps.
    """
    _check_settings(request, source)
    comfyui.check_reading(request, model)
    first = request.first_step(request.steps or 1, begun="shift" in model.process.fields)
    steps = (request.steps or 1) - first
    # ComfyUI takes int(steps / denoise) as the number of all steps; 0.5 keeps rounding errors from losing one.
    denoise = steps / ((request.steps or 1) + 0.5) if first else 1.0
    if request.image is not None and not request.keeps and not first:
        raise ValueError("strength: with all steps ComfyUI would begin at noise alone. Valid: a smaller strength")
    seeds: Any = request.seeds
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))) or (request.image is not None and len(seeds) > 1):
        raise ValueError(
            f"seeds = {limits.short(seeds)}: a workflow has one seed, and a batch uses the seeds that follow it"
        )
    graph = Graph()
    network, clip, vae = _loaded(graph, source)
    if request.perturbed_guidance:
        network = [graph.add(comfyui.PERTURBED, model=network, scale=request.perturbed_guidance), 0]
    flow, shift = _shift(model, size)
    if shift is not None:
        network = [graph.add(comfyui_steps.FLOWS[model.name], model=network, **shift), 0]
    escape = lambda text: text if request.emphasis == "from_empty" else re.sub(r"[()]", r"\\\g<0>", text)
    conditions = [
        [graph.add("CLIPTextEncode", clip=clip, text=escape(text or "")), 0]
        for text in (next(iter(request.prompts)), request.negative)
    ]
    guidance = max(request.guidance or 1.0, 1.0)  # a scale below 1 means no guidance, which ComfyUI writes as 1
    if model.distilled:
        conditions[0] = [graph.add("FluxGuidance", conditioning=conditions[0], guidance=request.guidance), 0]
        guidance = 1.0
    conditions = _controlled(graph, request, source, conditions)
    if request.image is None:
        empty = "EmptyLatentImage" if flow is None else "EmptySD3LatentImage"
        latent = [graph.add(empty, height=size[0], width=size[1], batch_size=len(seeds)), 0]
    else:
        conditions, latent = _encoded(graph, request, model.sees_mask, conditions, vae)
    scheduler = _scheduler(request, model, size, flow)
    latents = graph.add("KSampler", model=network, positive=conditions[0], negative=conditions[1], latent_image=latent,
                        seed=seeds[0], steps=steps, cfg=guidance, sampler_name=request.sampler, scheduler=scheduler,
                        denoise=denoise)  # fmt: skip
    decoded = graph.add("VAEDecode", samples=[latents, 0], vae=vae)
    graph.add("SaveImage", images=[decoded, 0], filename_prefix="diffusion")
    return graph


class Graph(dict):
    """A workflow, {name of a node: its class and its inputs}; the input [name, i] is output i of the node `name`."""

    def add(self, kind: str, **inputs: Any) -> str:
        """Adds a node of the class `kind`, and returns the node's name."""
        name = str(len(self) + 1)
        self[name] = {"class_type": kind, "inputs": inputs}
        return name


def _last(path: Any) -> str:
    """The name of a file or folder without the folders above it."""
    return str(path).rstrip("/").rpartition("/")[2]


def _loaded(graph: Graph, source: Mapping[str, Any]) -> tuple[list, list, list]:
    """The outputs of the nodes that load the network and the text encoder, with their LoRAs, and the autoencoder."""
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=f"{_last(source['model'])}.safetensors")
    network, clip, vae = [loader, 0], [loader, 1], [loader, 2]
    comfyui.check_loras(source.get("loras", {}))
    for file, weight in source.get("loras", {}).items():
        if not isinstance(weight, (int, float)):
            raise ValueError(f"loras: {file} acts in an interval of t, which none of the supported nodes can express")
        both = {"strength_model": weight, "strength_clip": weight}
        lora = graph.add("LoraLoader", model=network, clip=clip, lora_name=_last(file), **both)
        network, clip = [lora, 0], [lora, 1]
    return network, clip, vae


def _controlled(graph: Graph, request: Request, source: Mapping[str, Any], conditions: list[list]) -> list[list]:
    """The positive and the negative condition behind the request's control networks."""
    for control in request.controls:
        if control.mask is not None or control.mode is not None:
            raise ValueError("controls: a control has a mask or a mode, which none of the supported nodes can express")
        # An attachment that is not in the source belongs to the model's folder, and its name is its file's.
        file = source.get("attachments", {}).get(control.attachment, control.attachment)
        net = graph.add("ControlNetLoader", control_net_name=_last(file))
        shown = graph.add("LoadImage", image=_last(control.picture))
        name = graph.add("ControlNetApplyAdvanced", positive=conditions[0], negative=conditions[1],
                         control_net=[net, 0], image=[shown, 0], strength=control.weight,
                         start_percent=1 - control.times[1], end_percent=1 - control.times[0])  # fmt: skip
        conditions = [[name, 0], [name, 1]]
    return conditions


def _encoded(
    graph: Graph, request: Request, sees_mask: bool, conditions: list[list], vae: list
) -> tuple[list[list], list]:
    """The conditions and the first latent of a request with an image.

    If the network sees the mask, its conditions receive the image and the mask, too.
    """
    pixels = [graph.add("LoadImage", image=_last(request.image)), 0]
    if request.mask is None:
        return conditions, [graph.add("VAEEncode", pixels=pixels, vae=vae), 0]
    mask = [graph.add("LoadImageMask", image=_last(request.mask), channel="red"), 0]
    if sees_mask:
        name = graph.add("InpaintModelConditioning", positive=conditions[0], negative=conditions[1], pixels=pixels,
                         vae=vae, mask=mask, noise_mask=False)  # fmt: skip
        return [[name, 0], [name, 1]], [name, 2]
    latent = [graph.add("VAEEncode", pixels=pixels, vae=vae), 0]
    return conditions, [graph.add("SetLatentNoiseMask", samples=latent, mask=mask), 0]


def _check_settings(request: Request, source: Mapping[str, Any]) -> None:
    """Refuses a request that has settings which no node can express."""
    values = {name: getattr(request, name) for name in settings(type(request)) if name not in USED}
    refused = {name: value for name, value in values.items() if not _is_neutral(request, name, value)}
    refused |= {name: source[name] for name in ("embeddings", "quantised") if source.get(name)}
    if refused:
        name, value = next(iter(refused.items()))
        raise ValueError(
            f"{name} = {limits.short(value)} cannot be exported: none of the supported nodes has this setting"
        )
    if request.windows and any(BREAK.search(text or "") for text in (*request.prompts, request.negative)):
        raise ValueError("the word BREAK ends a window of a prompt here, but it is text in ComfyUI. Valid: no BREAK")
    if len(request.prompts) > 1 or request.emphasis not in ("none", "from_empty"):
        raise ValueError("a workflow has one prompt, and the emphasis must be none or from_empty")


def _is_neutral(request: Request, name: str, value: Any) -> bool:
    """Whether a setting has no effect at this value."""
    neutral: tuple[Any, ...] = (settings(type(request))[name].default, *((None, 1.0) if name in SCALES else ()))
    return any(np.array_equal(value, one) for one in neutral)


def _shift(model: TextToImage, size: tuple[int, int]) -> tuple[comfyui_steps.Levels | None, dict[str, Any] | None]:
    """ComfyUI's levels of a flow, and the inputs of the node that shifts them as the model's folder does."""
    fields = model.process.fields
    if "shift" not in fields:
        return None, None
    flux = comfyui_steps.is_flux(model.name)
    if model.name not in comfyui_steps.FLOWS or (flux and not fields["dynamic"]):
        return comfyui_steps.levels_of_flow(model.name, model.distilled), None  # refuses other pipelines
    if flux:
        # The logarithm of the shift is linear in the number of tokens. The folder states it at two numbers of tokens
        # of its choice; the node takes it at 256 and at 4096 tokens.
        (few, base), (many, most) = fields["base"], fields["largest"]
        log_ratio = lambda tokens: base + (most - base) * (tokens - few) / (many - few)
        sides = [side * 16 // model.multiple for side in size]  # the node assumes tokens of 16 x 16 pixels
        inputs = {"max_shift": log_ratio(4096), "base_shift": log_ratio(256), "height": sides[0], "width": sides[1]}
        ratio = math.exp(log_ratio(sides[0] * sides[1] / 256))
    else:
        ratio = fields["shift"]
        inputs = {"shift": ratio}
    shift = comfyui_steps.Shift(comfyui_steps.FLOWS[model.name], ratio)
    return comfyui_steps.levels_of_flow(model.name, model.distilled, shift), inputs


def _scheduler(request: Request, model: TextToImage, size: tuple[int, int], flow: comfyui_steps.Levels | None) -> str:
    """The name of ComfyUI's scheduler whose steps are nearest to the model's own.

    The noise levels at which the steps start must agree to 0.1 %; for a flow, a difference of one level of ComfyUI's
    table is allowed too.
    """
    process, sampler, steps = model.process, request.sampler, request.steps or 1
    look_up(comfyui_steps.FLOW_SAMPLERS if flow else comfyui_steps.SAMPLERS, sampler, "sampler")
    tokens = size[0] * size[1] // model.multiple**2
    plan = schedulers.trajectory(process, sampler, steps, tokens).plan
    levels = flow or comfyui_steps.levels(process)
    log_snr = lambda: np.asarray(process.schedule.log_snr(np.asarray(plan.t)), np.float64)
    starts = np.asarray(plan.t, np.float64) if flow else np.exp(-log_snr() / 2)
    nearest: dict[float, str] = {}
    for name, spread in comfyui_steps.SCHEDULERS.items():
        begins = spread(levels, steps)
        if plan.s[-1] == 0 and len(begins) == len(starts):
            if np.allclose(begins, starts, rtol=1e-3, atol=levels.table[0] if flow else 0):
                nearest.setdefault(float(np.abs(begins / starts - 1).max()), name)
    if nearest:
        return nearest[min(nearest)]
    raise ValueError(
        f"the {steps} steps of {sampler} in this model's folder match none of the ComfyUI schedulers that can be "
        f"written ({', '.join(comfyui_steps.SCHEDULERS)})"
    )
