"""The pipelines of text-to-image and text-to-video models by their class in diffusers, each in its family's folder.

A folder has a denoiser, an autoencoder, text encoders and a scheduler; the class in its model_index.json is in `KINDS`.
"""

import pathlib

import flax.linen as nn

from diffusion.io import opener
from diffusion.models import rooms
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.schedulers import Process
from diffusion.published.pipeline_kinds import LCM, Attachable, Kind, Usual

KINDS = rooms.Entries("pipeline", "KINDS")
"""The kinds by the names of their classes in diffusers: those of every room in `diffusion.published`."""
ATTACHED = rooms.Entries("pipeline", "ATTACHED")
"""The classes that make no pictures themselves, those of every room."""
OF_CLASSES = ("DDPMPipeline", "DDIMPipeline", "ConsistencyModelPipeline", "DiTPipeline")
"""The classes of pipelines that read no prompt, and that `diffusion sample` takes as it takes a run."""


def kind_of(name: str, folder: pathlib.Path) -> Kind:
    """The kind of a pipeline's class; the folder is for the message.

    Raises:
        Refusal: for another class; names its known relatives.
    """
    if name in KINDS:
        return KINDS[name]
    if name in ATTACHED:
        raise Refusal(
            f"{folder} is {ATTACHED[name].words}: text_to_image.load(.., attachments={{'look': FOLDER}}), "
            "--attach=look=FOLDER, and --controls=look:PICTURE"
        )
    if name in OF_CLASSES:
        raise Refusal(
            f"{folder} is a {name}, which has no prompt. Sample it like a run: diffusion sample --model={folder}; "
            f"in Python, diffusion.experiments.sampling.trained_run.load({str(folder)!r})"
        )
    family = max((kind.family for kind in KINDS.values() if name.startswith(kind.family)), key=len, default=None)
    relatives = [other for other, kind in KINDS.items() if kind.family == family]
    hint = f" Its family has {', '.join(relatives)}." if relatives else ""
    raise Refusal(f"{folder} is a {name}, which is not supported; supported: {', '.join(KINDS)}.{hint}")


def attachable(path: str | pathlib.Path) -> Attachable | None:
    """The entry of `ATTACHED` for the class in a folder's model_index.json; None for another class or path."""
    index = pathlib.Path(path).expanduser() / "model_index.json"
    return ATTACHED.get(str(opener.read_table(index).get("_class_name"))) if index.is_file() else None


def distilled(denoiser: nn.Module) -> bool:
    """Whether a denoiser reads the strength of the guidance, and so takes no negative prompt."""
    return bool(getattr(denoiser, "strength", False) or getattr(denoiser, "strength_width", 0))


def published(kind: Kind, process: Process, denoiser: nn.Module, student: bool = False) -> Usual:
    """Steps and guidance with which a model was published, as far as its folder shows.

    | the folder has                                           | steps | guidance  | source                            |
    |----------------------------------------------------------|-------|-----------|-----------------------------------|
    | Euler's schedulers, "trailing", epsilon prediction       | 1     | none      | cards of SD-Turbo and SDXL-Turbo  |
    | LCMScheduler, a denoiser that reads the strength         | 4     | 8.5       | LatentConsistencyModelPipeline    |
    | LCMScheduler, another denoiser (LCM merged, PixArt-LCM)  | 4     | none      | cards of the LCM-LoRAs            |
    | a flow with `stochastic_sampling`                        | 8     | none      | LTX-Video 0.9.6 distilled         |
    | a Flux without guidance_embeds                           | 4     | none      | card of FLUX.1-schnell            |
    | is_distilled (`student`)                                 | 4     | none      | its published use                 |
    | a Z-Image whose flow is shifted by 3                     | 8     | none      | 8 evaluations, by diffusers' page |
    | a HiDream-I1 with FlowMatchLCMScheduler, shifted by 6    | 28    | none      | its authors' code, -Dev           |
    | the same, shifted by 3                                   | 16    | none      | its authors' code, -Fast          |
    | anything else                                            | `kind.usual`      | the pipeline's `__call__`         |
    """
    few = process.sampler in ("euler", "euler_ancestral") and process.fields.get("timestep_spacing") == "trailing"
    if few and process.prediction == "epsilon":
        return Usual(1, 1.0)
    if (few_steps := kind.students.by_scheduler.get((process.sampler, process.fields.get("shift", 1.0)))) is not None:
        return few_steps
    if process.fields.get("stochastic"):
        return Usual(8, 1.0)
    if process.sampler == "lcm" and not process.fields.get("trigonometric"):
        return LCM if distilled(denoiser) else LCM._replace(guidance=1.0)
    if student and kind.students.stated is not None:
        return kind.students.stated
    return kind.usual if kind.students.undistilled is None or distilled(denoiser) else kind.students.undistilled
