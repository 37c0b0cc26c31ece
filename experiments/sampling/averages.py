"""Moving averages of any width, computed after training from the averages in a run's checkpoints."""

import pathlib
import warnings
from typing import Any

from diffusion.recipe import ConfigError
from diffusion.training import power_ema
from diffusion.training.checkpointing import checkpoints

FAR = 0.1  # a distance of profiles from which on an average is another one than was requested


def post_hoc(
    folder: str | pathlib.Path, tracked: float, width: float, step: int | None = None
) -> tuple[Any, int, dict[str, Any]]:
    """A moving average of another width than the run tracked, with the profile of a power function.

    Args:
        folder: the run folder.
        tracked: config.ema.sigma_rel of the run.
        width: the width of the wanted profile, as a fraction of the training; not much below the tracked one.
        step: the step at which the average ends; None for the latest checkpoint. The more checkpoints up to it are
            stored (config.checkpoint.keep_every), the closer the average comes to the profile.

    Returns:
        (the parameters, the step at which the average ends, a record of how it was made). Its "distance" is
        the distance of the profile from the wanted one, as a share of the wanted norm; a warning states it above FAR.

    Raises:
        ConfigError: if the run tracks no power function, has no checkpoint up to this step, or the width is out of
            range.
        CheckpointError: if a checkpoint cannot be read.

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2024, section 3.
    """
    if not tracked:
        raise ConfigError(
            "--average needs a run that tracked a power function: train it with --config.ema.sigma_rel=0.05, and with "
            "--config.checkpoint.keep_every, so that averages of many steps are stored."
        )
    step = checkpoints.latest(folder) if step is None else step
    stored_steps = [saved_step for saved_step in checkpoints.steps(folder) if saved_step > 0]
    if step is None or not stored_steps:
        raise ConfigError(f"--average={width}: {folder} has no checkpoint of a trained step. Train the run first.")
    steps = [saved_step for saved_step in stored_steps if saved_step <= step]
    if not steps:
        raise ConfigError(
            f"--average={width}: {folder} has no checkpoint at or before --step={step}. Valid: a step of at least "
            f"{min(stored_steps)}."
        )
    try:
        weights = power_ema.reconstruction_weights(steps, tracked, step, width)
    except ValueError as error:
        raise ConfigError(f"--average = {width}: {error}") from error
    distance = power_ema.distance(steps, tracked, step, width, weights)
    if distance > FAR:
        warnings.warn(
            f"--average = {width}: the profile from {len(steps)} checkpoints differs by {100 * distance:.0f} % of its "
            "norm from that width. More checkpoints come closer: train with config.checkpoint.keep_every",
            stacklevel=2,
        )
    averages = [checkpoints.load_ema(folder, saved_step)[0] for saved_step in steps]
    rounded = [float(f"{w:.6g}") for w in weights]
    description = {"average": width, "tracked": tracked, "of_steps": steps, "weights": rounded}
    description["distance"] = float(f"{distance:.3g}")
    return power_ema.reconstruct(averages, weights), step, description
