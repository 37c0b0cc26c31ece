"""A trained run as an object for the library's functions, for editing and for experiments in notebooks.

To edit ten test images:

    run = trained_run.load("runs/digits")
    images, labels = run.real("test", 10)
    edited = editing.sdedit(run.sampler, run.denoise(labels), run.schedule, images, run.grid, 0.6, run.noise(10)[1])
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from diffusion import samplers
from diffusion.data.transforms import to_model
from diffusion.experiments.evaluation import real_images
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import class_models, generate, run_denoiser
from diffusion.objectives import Jumps
from diffusion.recipe import ConfigError, checks, class_folders
from diffusion.recipe.recipe import Recipe
from diffusion.schedules import NoiseSchedule
from diffusion.training.checkpointing import checkpoints


class Trained(NamedTuple):
    """The parameters that a run has learned, and the sampling of its config."""

    recipe: Recipe  # recipe of the run, with the changes of `load`
    params: Any  # parameters of the moving average
    schedule: NoiseSchedule  # the recipe's schedule
    sampler: samplers.Sampler  # the recipe's sampler
    grid: np.ndarray  # `[steps + 1]` decreasing times, from config.sample
    shape: tuple[int, ...]  # (H, W, C) of one example

    @property
    def config(self) -> ConfigDict:
        """The settings of the recipe."""
        return self.recipe.config

    def changed(self, changes: Mapping[str, Any]) -> "Trained":
        """The same run with other fields of its config, e.g. {"sample.steps": 8}.

        Raises:
            ConfigError: if a field is not known, or the parts do not fit.
        """
        config = self.config.copy_and_resolve_references()
        try:
            config.update_from_flattened_dict(changes)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the changes {dict(changes)} do not fit the run's config: {error}") from error
        return from_config(config, self.params, isinstance(self.recipe.objective.reads, Jumps))

    def continuing(self) -> "Trained":
        """The same run, for continuing known frames of a clip.

        A run that samples chunk after chunk (`samplers.per_frame`) then uses the sampler of its chunks, and the known
        frames take the place of earlier chunks. Any other run is returned unchanged.
        """
        if not self.sampler.frames:
            return self
        sampler = self.config.sample.sampler.sampler.to_dict()
        return self.changed({"sample.sampler": sampler, "sample.plan": {"name": "plan"}})

    def denoise(self, labels: Any) -> Any:
        """The denoiser for these classes, int `[B]`, or conditions, with the guidance of config.sample.guidance."""
        return run_denoiser.denoiser(self.recipe)(self.params, generate.as_condition(labels))

    def noise(self, number: int) -> tuple[Array, Array]:
        """The first arguments of `samplers.sample`, with the seeds of diffusion sample: (x `[B, ...]`, keys `[B]`)."""
        seeds = generate.seeds(self.config, number)
        first, rest = generate.keys(seeds)
        return samplers.prior(self.schedule, first, self.shape), rest

    def real(self, split: str, number: int) -> tuple[Array, np.ndarray]:
        """The first real images of a split, with the classes in turn.

        Returns:
            (float32 `[B, H, W, C]` in [-1, 1], classes int `[B]`). For padded examples, the second is the pytree of
            their conditions, with the mask of what is real.

        Raises:
            ConfigError: for a run on latents, whose network takes no images, or a split that does not exist.
        """
        return _real(self, split, lambda labels: real_images.balanced_order(labels)[:number])

    def drawn(self, split: str, number: int) -> tuple[Array, np.ndarray]:
        """At most `number` real images of a split, drawn at random; otherwise as `real`.

        Sets of two splits differ in nothing but their split, also where records are in the order of their name or time.
        """
        return _real(self, split, lambda labels: real_images.drawn_rows(len(labels), number))


def _real(run: Trained, split: str, choose: Callable[[np.ndarray], np.ndarray]) -> tuple[Array, np.ndarray]:
    if run.recipe.on_latents:
        place = run.config.data.latents.dir or "of the autoencoder that trained with it"
        raise ConfigError(
            f"the run is on latents ({place}), so its network takes no images. Encode them by "
            "`diffusion.experiments.sampling.autoencoder_folders`."
        )
    real = real_images.split_of(run.config, split)
    rows = choose(real.labels)
    conditions = real.labels if real.conditions is None else real.conditions
    x = jnp.asarray(real.images[rows])
    return to_model(x) if x.dtype == jnp.uint8 else x, jax.tree.map(lambda leaf: leaf[rows], conditions)


def load(
    folder: str | pathlib.Path,
    changes: Mapping[str, Any] | None = None,
    step: int | None = None,
    any_kind: bool = False,
) -> Trained:
    """Loads the moving average of a run.

    Args:
        folder: the run folder; or a published model of classes, a folder with model_index.json (see `class_models`); or
            the name of a model that ships with the package, such as "digits" (see `shipped_models`).
        changes: dotted fields of the config and their new values, e.g. {"sample.guidance.scale": 4.0}.
        step: the step of the checkpoint; None for the latest, and for a published model, which has none.
        any_kind: whether to accept a run that trains a flow map, as in `from_config`. A published consistency model is
            always accepted.

    Raises:
        ConfigError: if a field is unknown, a published model is loaded at a step, or the run trains a flow map and
            `any_kind` is False.
        WorkdirError, CheckpointError: if there is no run, or no checkpoint.
    """
    if class_folders.is_of_classes(folder):
        if step is not None:
            raise ConfigError(
                f"step = {step} names a checkpoint, but {folder} is a published model, which has none. Valid: no step, "
                "or the folder of a run."
            )
        model = class_models.load(folder)
        run = from_config(model.config, model.params, class_models.jumps(folder))
    else:
        run = from_config(workdir.read_config(folder), checkpoints.load_ema(folder, step)[0], any_kind)
    return run.changed(changes) if changes else run


def from_config(config: ConfigDict, params: Any, any_kind: bool = False) -> Trained:
    """The run of a config, with these parameters of its network.

    Args:
        config: the config of the run.
        params: the parameters of its network.
        any_kind: whether to accept a run that trains a flow map, which has no `denoise`; see
            `run_denoiser.build_for_sampler`.

    Raises:
        ConfigError: if the config cannot run, or the run trains a flow map and `any_kind` is False.
    """
    params = jax.tree.map(jnp.asarray, params)  # files hold NumPy arrays, which traced numbers cannot index
    recipe = checks.on_its_data(checks.validate(config))
    if not any_kind:
        run_denoiser.denoiser(recipe)  # refuses a flow map
    recipe = generate.trained(recipe, params)
    return Trained(
        recipe, params, recipe.schedule, recipe.sampling.sampler, recipe.sampling.plan.grid, recipe.examples.shape
    )
