"""Generates clips with a trained run: from captions, from first frames, and longer clips by windows."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import Array

from diffusion import samplers, sampling, videos
from diffusion.arrays import chunks
from diffusion.data.shapes import motions
from diffusion.data.transforms import to_model, to_uint8
from diffusion.experiments.sampling import clip_coding, generate, run_denoiser, trained_run
from diffusion.recipe import recipe as recipes
from diffusion.training.runtime import progress
from examples.video.clip_judge import FRAMES

Words = Callable[[str], np.ndarray]
"""A function caption -> its vector float32 [P]: `motions.words` or `motions.words_of_both`."""


def check(recipe: recipes.Recipe, words: Words = motions.words) -> None:
    """Refuses a sampler or a guidance that cannot continue given frames.

    Args:
        recipe: the recipe of a run on moving drawings, for the examples of its data.
        words: the vector of a caption.

    Raises:
        ConfigError: naming the field.
    """
    run_denoiser.check_given_frames(recipe, {"vector": words("")[None]})


def context(run: trained_run.Trained) -> int:
    """The number K of frames from which a clip is extended: half a window, in whole latent frames for latents."""
    return 1 + clip_coding.build_coding(run.recipe).step * ((run.shape[0] + 1) // 2 - 1)


def maker(run: trained_run.Trained, batch_size: int = 32, words: Words = motions.words) -> Callable[..., np.ndarray]:
    """The function (captions, seeds, first frames [N, K, H, W, C] or None, frames T) -> clips [N, T, H, W, C], uint8.

    Clips begin with the unchanged first frames. Longer clips are made in windows of the run's length, each of which
    sees the last K frames before it (`videos.rollout`). Frames after T are dropped. One program is compiled for each K
    and T. A run that samples in chunks continues given frames by the sampler of its chunks, see `Trained.continuing`.
    """
    from_known = run.continuing()
    coder, encode, decode, step = clip_coding.build_coding(run.recipe)
    window = run.shape[0]
    window_frames = 1 + step * (window - 1)  # frames of a window

    def program(frames: int) -> Callable[..., tuple[Array, Array]]:
        @jax.jit
        def make_batch(vectors: Array, seeds: Array, known: Array) -> tuple[Array, Array]:
            source = from_known if known.shape[1] else run
            denoise = run_denoiser.build_for_sampler(source.recipe)(run.params, {"vector": vectors})
            first, rest = generate.keys(seeds)
            length = known.shape[1]
            before = 1 + (length - 1) // step if length else 0  # known frames of x
            windows = -(-(frames - length) // (window_frames - length))
            x = samplers.prior(run.schedule, first, (windows * (window - before), *run.shape[1:]))
            plan = source.recipe.sampling.plan
            walk = (source.sampler, denoise, run.schedule, x, plan, rest)
            if not length:
                x = decode(coder, samplers.sample(*walk))[:, :frames]
                return to_uint8(x), sampling.finite(x)
            coding = (lambda clips: encode(coder, clips), lambda x: decode(coder, x))
            x = videos.rollout(*walk, to_model(known), window, coding=coding)[:, :frames]
            return to_uint8(x), sampling.finite(x)

        return make_batch

    programs: dict[int, Callable[..., tuple[Array, Array]]] = {}

    def make(
        captions: Sequence[str], seeds: Sequence[int], known: np.ndarray | None = None, frames: int = FRAMES
    ) -> np.ndarray:
        vectors = np.stack([words(caption) for caption in captions])
        known = np.zeros((len(vectors), 0), np.uint8) if known is None else known
        make_batch = programs.setdefault(frames, program(frames))
        rows = (vectors, np.asarray(seeds), known)
        with progress.bar("making clips", len(vectors), "clips") as advance:
            clips, finite = chunks.applied(lambda rows: make_batch(*rows), rows, min(batch_size, len(vectors)), advance)
        generate.check_finite(run.config, len(clips), int((~finite).sum()))
        return clips

    return make
