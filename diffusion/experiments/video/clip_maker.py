"""Clips of a trained run: from captions, from first frames, and longer ones by windows."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import guidance, samplers, videos
from diffusion.data.shapes import motions
from diffusion.data.transforms import to_model
from diffusion.experiments.sampling import generate
from diffusion.experiments.sampling.trained_run import Trained
from diffusion.timesteps import plan


def maker(run: Trained, batch_size: int = 32) -> Callable[..., np.ndarray]:
    """What makes clips: (captions, seeds, first frames [N, K, H, W, C] or None, frames T) -> [N, T, H, W, C], uint8.

    The first frames stand unchanged at the beginning. T is F, the frames of the run's clips, or K + n (F - K): then
    windows of F frames each see the last K before them (`videos.rollout`). One program is compiled for each K and T.
    """
    recipe = run.recipe
    scale = float(run.config.sample.guidance.scale)
    steps = plan(run.grid)
    window = run.shape[0]
    network = lambda x, t, condition: recipe.network.apply(run.params, x, t, condition)

    def program(frames: int) -> Callable[[Array, Array, Array], Array]:
        @jax.jit
        def made(vectors: Array, seeds: Array, known: Array) -> Array:
            conditions = ({"vector": vectors}, {"vector": jnp.zeros_like(vectors)})
            both = guidance.together(network, run.schedule, recipe.parameterization, conditions)
            denoise = guidance.classifier_free(both, scale)
            first, rest = generate.keys(seeds)
            x = samplers.prior(run.schedule, first, (frames - known.shape[1], *run.shape[1:]))
            walk = (run.sampler, denoise, run.schedule, x, steps, rest)
            x = videos.rollout(*walk, known, window) if known.shape[1] else samplers.sample(*walk)
            return jnp.clip(jnp.round(127.5 * (x + 1)), 0, 255).astype(jnp.uint8)

        return made

    programs: dict[int, Callable[..., Array]] = {}

    def make(
        captions: Sequence[str], seeds: Sequence[int], known: np.ndarray | None = None, frames: int = window
    ) -> np.ndarray:
        vectors = np.stack([motions.words(caption) for caption in captions])
        known = np.zeros((len(vectors), 0, *run.shape[1:]), np.uint8) if known is None else known
        made = programs.setdefault(frames, program(frames))
        clips = []
        size = min(batch_size, len(vectors))
        for i in range(0, len(vectors), size):
            rows = np.minimum(np.arange(i, i + size), len(vectors) - 1)  # the last batch is filled up
            new = made(vectors[rows], jnp.asarray(np.asarray(seeds)[rows]), to_model(jnp.asarray(known[rows])))
            clips.append(np.asarray(new)[: len(vectors) - i])
        return np.concatenate(clips)

    return make
