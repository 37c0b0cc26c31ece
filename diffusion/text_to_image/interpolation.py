"""Pictures that interpolate between two prompts or two noises."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import limits
from diffusion.sampling import editing
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job, check_finite, compiled
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request


def between(
    model: TextToImage, prompts: list[str], seeds: tuple[int, int], weights: np.ndarray, *, guidance: float, steps: int
) -> np.ndarray:
    """Pictures on the way from one prompt and seed to another, in the model's own size.

    With a weight w, the condition is (1 - w) c_1 + w c_2. The noise is `editing.slerp` of the noises of both seeds,
    which has the norm of standard normal noise for any w. With equal seeds, all w have the same noise. A stochastic
    sampler draws the noise of its steps from the first seed for all w.

    Args:
        model: model of `text_to_image.load`.
        prompts: two prompts.
        seeds: seed of each prompt's noise, two.
        weights: weights of the second prompt and noise, [N] in [0, 1].
        guidance: scale of the guidance, >= 1 where there is any.
        steps: steps of the sampler, >= 1.

    Returns:
        Pictures of the weights, uint8 [N, H, W, 3].

    Raises:
        ValueError: for other than two prompts and two seeds, weights of another form, or settings that the model does
            not take; or if no picture is finite.
    """
    request = Request.make(prompts, seeds, guidance=guidance, steps=steps)
    if (len(request.prompts), len(request.seeds)) != (2, 2):
        raise ValueError(f"between: {len(request.prompts)} prompts and {len(request.seeds)} seeds. Valid: two of each.")
    weights = np.asarray(weights, np.float32)
    if weights.ndim != 1 or not weights.size or not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(f"between: weights = {limits.short(weights.tolist())}. Valid: [N] numbers in [0, 1].")
    job = Job.prepare(model, request)
    weight = jnp.asarray(weights)
    conditions = [
        jax.tree.map(lambda ends: _mixed(ends, weight), branch) for branch in job.conditions(model, len(weights))
    ]
    begin = compiled(model, job.course, programs.begin)
    start = begin(model.params["vae"], job.keys(), None, None)
    row = lambda i: lambda leaf: jnp.repeat(leaf[i : i + 1], len(weights), axis=0)
    one, other = (row(i)(start.x) for i in (0, 1))
    x = one if request.seeds[0] == request.seeds[1] else editing.slerp(one, other, weight)
    sampled = compiled(model, job.course, programs.sampled)
    start = programs.Start(x, row(0)(start.keys), beside=jax.tree.map(row(0), start.beside))
    decoded, _ = sampled(model.drawing, start, *conditions, job.scale(model))
    check_finite(job.request, len(weights), int((~np.asarray(decoded.finite)).sum()))
    return np.asarray(decoded.pictures)


def _mixed(ends: jax.Array, weight: jax.Array) -> jax.Array:
    """Values [N, ...] between the two rows of an array; a mask has what either row has."""
    if ends.dtype == bool:
        return jnp.repeat(ends.any(0, keepdims=True), len(weight), axis=0)
    weight = weight.reshape(-1, *[1] * (ends.ndim - 1))
    return ((1 - weight) * ends[:1] + weight * ends[1:]).astype(ends.dtype)
