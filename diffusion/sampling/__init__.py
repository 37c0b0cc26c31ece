"""Sampling of a trained network, for runs and for text-to-image models: the engine, caches, editing and steering.

- `engine`: from a network to its denoiser and its samples.
- `caching`: a part of the network runs only in some steps.
- `editing`, `videos`: editing and continuation of pictures and clips.
- `steering`: particles, searches and drivers that follow rewards and measurements.
- `watermarks`: watermarks in the initial noise, or in the finished picture.

    guide = lambda branches: guidance.classifier_free(branches, scale=4.0)
    denoise = sampling.denoiser(network, schedule, parameterization, (condition, null), guide, cache=cache, merge=0.25)
    x = sampling.marked(watermark, "noise", noise, keys)
    x, work = sampling.samples(sampler, denoise, schedule, x, plan, keys)
    sampling.skipped(work, module, sampler, plan)    # the share of the blocks that the cache skipped
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.sampling import (
        caching as caching,
        editing as editing,
        steering as steering,
        videos as videos,
        watermarks as watermarks,
    )
    from diffusion.sampling.engine import (
        batches as batches,
        check_finite as check_finite,
        denoiser as denoiser,
        finite as finite,
        in_batches as in_batches,
        marked as marked,
        samples as samples,
        skipped as skipped,
    )

public.declare(__name__)
