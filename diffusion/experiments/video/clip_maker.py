"""Clips of a trained run: from captions, from first frames, and longer ones by windows."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, videos
from diffusion.data.shapes import motions
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.sampling import generate
from diffusion.experiments.sampling.trained_run import Trained
from diffusion.metrics import chunks
from diffusion.timesteps import plan


def check(recipe: Recipe) -> None:
    """Refuses a sampler and a guidance that do not go on from given frames.

    Args:
        recipe: of a run on moving drawings, for the examples of its data.

    Raises:
        ConfigError: naming the field.
    """
    generate.check_given_frames(recipe, {"vector": jnp.zeros((1, len(motions.WORDS)))})


def maker(run: Trained, batch_size: int = 32) -> Callable[..., np.ndarray]:
    """What makes clips: (captions, seeds, first frames [N, K, H, W, C] or None, frames T) -> [N, T, H, W, C], uint8.

    The first frames stand unchanged at the beginning. T is F, the frames of the run's clips, or K + n (F - K): then
    windows of F frames each see the last K before them (`videos.rollout`). One program is compiled for each K and T.
    """
    denoiser = generate.denoiser(run.recipe)
    steps = plan(run.grid)
    window = run.shape[0]

    def program(frames: int) -> Callable[[Array, Array, Array], Array]:
        @jax.jit
        def made(vectors: Array, seeds: Array, known: Array) -> Array:
            denoise = denoiser(run.params, {"vector": vectors})
            first, rest = generate.keys(seeds)
            x = samplers.prior(run.schedule, first, (frames - known.shape[1], *run.shape[1:]))
            walk = (run.sampler, denoise, run.schedule, x, steps, rest)
            if not known.shape[1]:
                return to_uint8(samplers.sample(*walk))
            return to_uint8(videos.rollout(*walk, to_model(known), window))

        return made

    programs: dict[int, Callable[..., Array]] = {}

    def make(
        captions: Sequence[str], seeds: Sequence[int], known: np.ndarray | None = None, frames: int = window
    ) -> np.ndarray:
        vectors = np.stack([motions.words(caption) for caption in captions])
        known = np.zeros((len(vectors), 0, *run.shape[1:]), np.uint8) if known is None else known
        made = programs.setdefault(frames, program(frames))
        rows = (vectors, np.asarray(seeds), known)
        return chunks.applied(lambda rows: made(*rows), rows, min(batch_size, len(vectors)))

    return make
