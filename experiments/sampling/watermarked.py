"""A run or a text-to-image model, to test watermarks with: marked pictures, their noise, and regenerated pictures."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusion import parameterizations, sampling, text_to_image
from diffusion.arrays import chunks
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.evaluation.watermark_robustness import Maker
from diffusion.experiments.sampling import generate
from diffusion.experiments.sampling.trained_run import Trained
from diffusion.models.autoencoders import latent_space
from diffusion.models.interchange import schedulers
from diffusion.recipe import ConfigError
from diffusion.sampling import editing, watermarks
from diffusion.sampling.watermarks.initial_noise import initial_noise
from diffusion.text_to_image import TextToImage

STEPS = 50  # steps of the inversion to noise, as in the Tree-Ring paper


def in_batches(function: Callable[..., Any], pictures: np.ndarray, size: int) -> Any:
    """Applies a compiled function of (pictures, their random keys `[size]`) to batches of one size.

    The key of a picture is derived from its row, so that no two pictures have the same noise.
    """
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(np.arange(len(pictures)))
    return chunks.applied(lambda few: function(*few), (pictures, keys), size)


def _maker(
    name: str,
    make: Callable,
    invert: Callable,
    again: Callable,
    check: Callable[[int, int], None],
    shape: tuple[int, int, int],
    size: int,
) -> Maker:
    """A `Maker` of compiled functions.

    Args:
        name, make, shape: the fields of the maker.
        invert: (pictures, keys) -> their initial noise.
        again: (pictures, t, keys) -> pictures, float, regenerated from noise of time t.
        check: (the number of regenerated pictures, the number of them that are not finite) -> None; it warns, or
            raises an error.
        size: the number of pictures in a batch.
    """

    @functools.partial(jax.jit, static_argnums=1)
    def bytes_of(pictures: Array, t: float, keys: Array) -> tuple[Array, Array]:
        x = again(pictures, t, keys)
        return to_uint8(x), sampling.finite(x)

    def regenerate(pictures: np.ndarray, t: float) -> np.ndarray:
        images, finite = in_batches(lambda few, keys: bytes_of(few, t, keys), pictures, size)
        check(len(images), int((~finite).sum()))
        return images

    return Maker(name, make, lambda pictures: in_batches(invert, pictures, size), regenerate, shape, size)


def build_run_maker(run: Trained, name: str, steps: int = STEPS) -> Maker:
    """The maker of a run on pictures.

    Raises:
        ConfigError: for a run on latents, or on data other than pictures.
    """
    recipe = run.recipe
    if not (recipe.makes_pictures and recipe.makes_bytes) or recipe.on_latents:
        raise ConfigError(
            f"--workdir={name}: watermarks can only be measured on runs on pictures, or on a pipeline by --model."
        )
    size = run.config.sample.batch_size
    network = lambda x, clock, condition: recipe.network.apply(run.params, x, clock, condition)
    null = None if recipe.examples.null is None else recipe.examples.null_condition(size)
    denoise = parameterizations.denoiser(network, run.schedule, recipe.parameterization, null)
    grid = np.linspace(run.grid[0], run.grid[-1], steps + 1)

    def make(key_file: str, number: int) -> np.ndarray:
        labels = generate.conditions_of(recipe, number)
        generator = generate.generator(recipe, watermark=watermarks.load(key_file) if key_file else None)
        return generate.checked_images(generator, run.config, run.params, labels, generate.seeds(run.config, number))

    @jax.jit
    def invert(pictures, keys):
        return initial_noise(denoise, run.schedule, to_model(pictures), grid, keys, clip=run.sampler.clip)

    def again(pictures, t, keys):
        return editing.sdedit(run.sampler, denoise, run.schedule, to_model(pictures), run.grid, t, keys)

    check = functools.partial(generate.check_finite, run.config)
    height, width, channels = recipe.examples.shape
    return _maker(name, make, invert, again, check, (height, width, channels), size)


def build_model_maker(
    model: TextToImage, name: str, prompts: Sequence[str], batch: int = 4, steps: int = STEPS
) -> Maker:
    """The maker of a text-to-image model.

    Its pictures show the prompts in turn. They are inverted and regenerated under the empty prompt, since whoever reads
    a watermark does not know the prompt.

    Raises:
        ConfigError: for a model that receives more than a prompt.
    """
    if model.sees_mask or model.sees_picture:
        made_for = "paint what is masked" if model.sees_mask else "edit pictures"
        raise ConfigError(f"--model={name} was trained to {made_for}, so it makes no picture from a prompt alone.")
    vae = model.modules["vae"]
    side = model.side
    tokens = (side // model.multiple) ** 2
    trajectory = schedulers.trajectory(model.process, "", steps, tokens)
    sampler, plan = trajectory.sampler, trajectory.plan
    empty, _ = text_to_image.conditions(model, [""] * batch, None, 1.0, side, side)
    denoise = text_to_image.denoise(model, model.weights, empty, None, 1.0)

    def encoded(pictures):
        z: Any = vae.apply({"params": model.params["vae"]}, to_model(pictures), method="encode")
        return latent_space.to_diffusion(latent_space.mean(z), vae.scale, vae.shift)

    def make(key_file: str, number: int) -> np.ndarray:
        texts = [prompts[i % len(prompts)] for i in range(number)]
        return text_to_image.generate(model, texts, seeds=range(number), batch_size=batch, watermark=key_file)

    @jax.jit
    def invert(pictures, keys):
        return initial_noise(denoise, model.process.schedule, encoded(pictures), plan.grid, keys, clip=sampler.clip)

    def again(pictures, t, keys):
        z = editing.sdedit(sampler, denoise, model.process.schedule, encoded(pictures), plan.grid, t, keys)
        z = latent_space.from_diffusion(z, vae.scale, vae.shift)
        return vae.apply({"params": model.params["vae"]}, z, method="decode")

    def check(number, infinite):
        sampling.check_finite(number, infinite, f"{steps} steps of {name}", "a model with parameters in float32")

    return _maker(name, make, invert, again, check, (side, side, 3), batch)
