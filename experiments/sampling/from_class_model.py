"""Samples from a published class-conditional model, for diffusion sample: `--model` without a prompt.

    diffusion sample --model=DiT-XL-2-256 --labels=207,360 -n 8
    diffusion sample --model=DiT-XL-2-256 --labels="golden retriever" --steps=250 --guidance=1.5
    diffusion sample --model=cd_imagenet64 --labels=207 --steps=2 --config.sample.grid.chosen="(0, 22)"

The command writes samples.npz, samples.json and the pictures that show them into --out, as for a run.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from diffusion.experiments import flag_errors
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import class_models, model_flags, prompt_flags, requested, run_samples
from diffusion.io.content_credentials import Signer
from diffusion.models.quantised import KINDS
from diffusion.recipe import ConfigError, as_config_errors, checks
from diffusion.sampling import watermarks

SHARED = ("steps", "guidance", "watermark")  # flags of a request by a prompt that apply here too
RUN_FLAGS = ("weights", "average", "step", "infill")
PROMPT_FLAGS = ("seed", "lora", "embedding", "attach", "drop_text")


def main(
    config: ConfigDict,
    folder: str,
    out: str | None,
    labels: Sequence[str] | None,
    condition: str | None,
    signer: Signer | None,
) -> Any:
    """Makes the samples that the flags describe.

    Args:
        config: the config of the folder, with the changes of `--config.a.b=value`.
        folder: the folder of the published model.
        out: the folder to write to; None for "pictures".
        labels: the classes, by their numbers or words; None for all classes in turn.
        condition: the condition of a model without classes, as in `requested.conditions`; None for the conditions of
            its data.
        signer: the signer of content credentials for the pictures; None for none.

    Returns:
        The pictures, uint8 `[N, H, W, C]`.

    Raises:
        ConfigError: for a mistake in the flags, a folder that cannot be read, or a run's folder as `out`.
    """
    _check_flags()
    workdir.require_no_other_run(out or "pictures")
    given = {name: prompt_flags.SETTINGS[name].value for name in ("steps", "guidance")}
    config.sample.steps = config.sample.steps if given["steps"] is None else given["steps"]
    if given["guidance"] is not None:
        config.sample.guidance.scale = float(given["guidance"])
    if prompt_flags.NUMBER.present:
        config.sample.number = prompt_flags.NUMBER.value
    config.train.dtype = model_flags.DTYPE.value
    recipe = checks.on_its_data(checks.validate(config))
    with as_config_errors():
        key = prompt_flags.SETTINGS["watermark"].value
        mark = watermarks.load(key) if key else None
        words = class_models.classes_of(folder)
        conditions = None if labels is None else requested.labels(labels, recipe, config.sample.number, words)
        if condition is not None:
            conditions = requested.conditions(condition, recipe)
        model = class_models.load(folder)
    description = {"model": model.name, "sha256": model.sha256}
    weights = run_samples.Weights(model.params, model.name, model.name, description, {"sha256": model.sha256})
    quantised = model_flags.QUANTISED.value
    return run_samples.sample_weights(recipe, weights, out or "pictures", conditions, mark, signer, quantised)


def _check_flags() -> None:
    """Refuses flags of runs, and of requests by prompts."""
    others = [name for name in prompt_flags.SETTINGS if name not in SHARED]
    flag_errors.refuse(
        (*RUN_FLAGS, *PROMPT_FLAGS, *others),
        "is not valid for a model without a text encoder. Valid: --labels, -n, --steps, --guidance, and as for a run "
        "--config.sample.FIELD=VALUE, such as --config.sample.seed=1.",
    )
    if prompt_flags.NUMBER.value < 1:
        raise ConfigError(f"-n = {prompt_flags.NUMBER.value} must be at least 1.")
    if model_flags.QUANTISED.value not in ("", *KINDS):
        raise ConfigError(
            f"--quantised={model_flags.QUANTISED.value} is only for text-to-image models. Valid: {', '.join(KINDS)}."
        )
