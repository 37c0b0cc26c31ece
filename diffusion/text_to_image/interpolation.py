"""Pictures that interpolate between two prompts or two noises."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.sampling import editing
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job, compiled
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.requests import Request


def between(
    model: TextToImage, prompts: list[str], seeds: tuple[int, int], weights: np.ndarray, *, guidance: float, steps: int
) -> np.ndarray:
    """Pictures on the way from one prompt and seed to another, in the model's own size.

    With a weight w, the condition is (1 - w) c_1 + w c_2. The noise is `editing.slerp` of the noises of both seeds,
    which has the norm of standard normal noise for any w. With equal seeds, all w have the same noise.

    Args:
        model: model of `text_to_image.load`.
        prompts: two prompts.
        seeds: seed of each prompt's noise.
        weights: weights of the second prompt and noise, [N] in [0, 1].
        guidance: scale of the guidance, >= 1 where there is any.
        steps: steps of the sampler, >= 1.

    Returns:
        Pictures of the weights, uint8 [N, H, W, 3].

    Raises:
        ValueError: for settings that the model does not take.
    """
    job = Job.prepare(model, Request.make(prompts, guidance=guidance, steps=steps))
    weight = jnp.asarray(weights, jnp.float32)
    conditions = [
        jax.tree.map(lambda ends: _mixed(ends, weight), branch) for branch in job.conditions(model, len(weights))
    ]
    begin = compiled(model, job.course, programs.begin)
    start = begin(model.params["vae"], jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)), None, None)
    row = lambda i: lambda leaf: jnp.repeat(leaf[i : i + 1], len(weights), axis=0)
    one, other = (row(i)(start.x) for i in (0, 1))
    x = one if seeds[0] == seeds[1] else editing.slerp(one, other, weight)
    keys = jax.random.split(jax.random.key(seeds[0]), len(weights))
    sampled = compiled(model, job.course, programs.sampled)
    start = programs.Start(x, keys, beside=jax.tree.map(row(0), start.beside))
    return np.asarray(sampled(model.drawing, start, *conditions, job.scale(model))[0].pictures)


def _mixed(ends: jax.Array, weight: jax.Array) -> jax.Array:
    """Values [N, ...] between the two rows of an array; a mask has what either row has."""
    if ends.dtype == bool:
        return jnp.repeat(ends.any(0, keepdims=True), len(weight), axis=0)
    weight = weight.reshape(-1, *[1] * (ends.ndim - 1))
    return ((1 - weight) * ends[:1] + weight * ends[1:]).astype(ends.dtype)
