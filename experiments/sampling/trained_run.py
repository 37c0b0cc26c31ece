"""A trained run as an object for the library's functions, for editing and for experiments in notebooks.

To edit ten test images:

    run = trained_run.load("runs/digits")
    images, labels = run.real("test", 10)
    edited = editing.sdedit(run.sampler, run.denoise(labels), run.schedule, images, run.grid, 0.6, run.noise(10)[1])
"""

import pathlib
from collections.abc import Mapping
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
    """The parameters that a run has learned, and how its config samples them."""

    recipe: Recipe  # recipe of the run, with the changes of `load`
    params: Any  # parameters of the moving average
    schedule: NoiseSchedule  # the recipe's schedule
    sampler: samplers.Sampler  # the recipe's sampler
    grid: np.ndarray  # `[steps + 1]` decreasing times, of config.sample
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
        """The run as it continues known frames of a clip.

        A run that samples chunk after chunk (`samplers.per_frame`) does so by the sampler of its chunks, in which the
        known frames take the place of the earlier chunks. Every other run stays as it is.
        """
        if not self.sampler.frames:
            return self
        sampler = self.config.sample.sampler.sampler.to_dict()
        return self.changed({"sample.sampler": sampler, "sample.plan": {"name": "plan"}})

    def denoise(self, labels: Any) -> Any:
        """The denoiser of these classes, int `[B]`, or conditions, guided as config.sample.guidance says."""
        return run_denoiser.denoiser(self.recipe)(self.params, generate.as_condition(labels))

    def noise(self, number: int) -> tuple[Array, Array]:
        """The start of `samplers.sample` for the seeds of diffusion sample: (x `[B, ...]`, keys)."""
        seeds = generate.seeds(self.config, number)
        first, rest = generate.keys(seeds)
        return samplers.prior(self.schedule, first, self.shape), rest

    def real(self, split: str, number: int) -> tuple[Array, np.ndarray]:
        """The first real images of a split, the classes in turn: (float32 `[B, H, W, C]` in [-1, 1], int `[B]`).

        For padded examples, the second is the pytree of their conditions, with the mask of what is real.

        Raises:
            ConfigError: for a run on latents, whose network takes no images, or a split that is not there.
        """
        if self.recipe.on_latents:
            place = self.config.data.latents.dir or "of the autoencoder that trained with it"
            raise ConfigError(
                f"the run is on latents ({place}), so its network takes no images. Encode them by "
                "`diffusion.experiments.sampling.autoencoder_folders`."
            )
        real = real_images.split_of(self.config, split)
        rows = real_images.balanced_order(real.labels)[:number]
        conditions = real.labels if real.conditions is None else real.conditions
        x = jnp.asarray(real.images[rows])
        return to_model(x) if x.dtype == jnp.uint8 else x, jax.tree.map(lambda leaf: leaf[rows], conditions)


def load(
    folder: str | pathlib.Path,
    changes: Mapping[str, Any] | None = None,
    step: int | None = None,
    any_kind: bool = False,
) -> Trained:
    """Loads the moving average of a run, at a step of its checkpoints; None for the latest.

    `folder` may also be a published model of classes, a folder with model_index.json (see `class_models`), or the name
    of a model that ships with the package, such as "digits" (see `shipped_models`).
    `changes` are dotted fields of the config and their values, e.g. {"sample.guidance.scale": 4.0}. `any_kind` says
    whether to accept a run that trains a flow map, as for `from_config`.

    Raises:
        ConfigError: if a field is not known, or the run trains a flow map and a denoiser is needed.
        WorkdirError, CheckpointError: if there is no run, or no checkpoint.
    """
    if class_folders.is_of_classes(folder):
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
        ConfigError: if the config cannot run, or the run trains a flow map and a denoiser is needed.
    """
    params = jax.tree.map(jnp.asarray, params)  # files hold NumPy's arrays, which a call outside of jit cannot index
    recipe = checks.on_its_data(checks.validate(config))
    if not any_kind:
        run_denoiser.denoiser(recipe)  # refuses a flow map
    recipe = generate.trained(recipe, params)
    return Trained(
        recipe, params, recipe.schedule, recipe.sampling.sampler, recipe.sampling.plan.grid, recipe.examples.shape
    )
