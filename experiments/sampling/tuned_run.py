"""The text-to-image model that a run has tuned, for sampling: the base model with the trained changes."""

import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion import text_to_image
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import base_weights
from diffusion.io.leaf_names import checksum
from diffusion.objectives import Jumps
from diffusion.recipe.class_folders import folder_of
from diffusion.training.checkpointing import checkpoints

FEW_STEPS = "lcm"  # the sampler of requests that jumps to the end of the flow, and back to noise


def base_of(run: str | pathlib.Path) -> str:
    """The folder of the base model that a run tunes; "" for any other folder."""
    if not (pathlib.Path(run) / "config.json").is_file():
        return ""
    config = workdir.read_config(run)
    return str(folder_of(config["base"]["path"])) if config.get("tuning", {}).get("name") else ""


def _resolver(config: Mapping[str, Any]) -> Any:
    """The resolver of a run's config."""
    from diffusion.recipe.parts import Resolver  # imported here: a prompt without a run needs no part of a recipe

    return Resolver(config)


def settings_of(run: str | pathlib.Path) -> dict[str, Any]:
    """The settings that a run's few-step student was trained for.

    Returns:
        {"steps", "guidance", "sampler"}, fields of a request; {} for a run that is no student.

    Raises:
        WorkdirError: if the folder holds no run.
    """
    config = workdir.read_config(run)
    if not isinstance(_resolver(config).objective.reads, Jumps):
        return {}
    sample = config.sample
    return {"steps": sample.steps, "guidance": sample.guidance.scale, "sampler": FEW_STEPS}


def load(run: str | pathlib.Path, step: int | None = None, **how: Any) -> tuple[text_to_image.TextToImage, int, str]:
    """A run's base with the moving average of the weights that the run has trained.

    Args:
        run: the run folder.
        step: the step of the checkpoint; None for the latest.
        **how: arguments of `text_to_image.load`.

    Returns:
        (the model, the step of the checkpoint, the sha256 of the trained weights).

    Raises:
        WorkdirError, CheckpointError: if the folder holds no run that tunes a model, or no sound checkpoint, or if the
            base's folder holds other weights than the run has tuned.
        FileNotFoundError, Refusal, Mismatch: as `text_to_image.load`.
    """
    config: Mapping[str, Any] = workdir.read_config(run)
    tuned = _resolver(config).tuned
    if tuned is None:
        raise workdir.WorkdirError(f"{run} tunes no model. Valid: a run that sets config.tuning.name.")
    weights, step = checkpoints.load_ema(run, step)
    # Additions are attached after the trained changes, since these may replace the whole denoiser.
    added = {name: how.pop(name, None) for name in ("embeddings", "loras", "attachments")}
    base = str(folder_of(config["base"]["path"]))
    model = text_to_image.load(base, **how)
    require_same_base(model, base, run, step)
    model = tuned.tuning.attach(model, weights)
    model = text_to_image.with_words(model, added["embeddings"]) if added["embeddings"] else model
    model = text_to_image.with_loras(model, added["loras"]) if added["loras"] else model
    model = text_to_image.with_attachments(model, added["attachments"]) if added["attachments"] else model
    return model, step, checksum(weights)


def require_same_base(model: text_to_image.TextToImage, folder: str, run: str | pathlib.Path, step: int) -> None:
    """Refuses a base with other weights than a run has tuned.

    Args:
        model: the base as it was loaded, before anything is added.
        folder: the folder that it was loaded from.
        run: the run folder.
        step: the step of the checkpoint that records the weights.

    Raises:
        WorkdirError: naming the first leaf that differs.
        CheckpointError: if the checkpoint's description is damaged.
    """
    before = checkpoints.read_about(run, step)["base"]
    changed = base_weights.first_changed(model.params, before["leaves"], model.dtype != "float32")
    if changed is not None:
        raise workdir.WorkdirError(
            f"{folder} holds another model than {run} has tuned (from {before['path']}): {changed} differs. Valid: the "
            "same weights."
        )
