"""Training on clips and pictures in one batch: a picture is a clip of one frame."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.objectives.entry import ROWS, entry
from diffusion.objectives.objective import Objective, check_objective


def frame_by_frame(network: Callable[..., Any]) -> Callable[..., Any]:
    """A network of clips that receives each frame as a separate clip, under the clip's condition.

        out[:, f] = network(x[:, f : f + 1], t[f], condition)

    Args:
        network: (x `[B, F, ...]`, clock `[]`, `[B]` or `[B, F]`, or a tuple of two clocks, condition) -> output. Each
            frame receives the further arguments of its clip, such as `dropout_keys` `[B]`.

    Returns:
        A network with the same inputs.
    """

    def apply(x, clock, condition, **more):
        batch, frames = x.shape[:2]
        repeat = lambda leaf: jnp.repeat(leaf, frames, axis=0)
        by_frame = lambda t: t if jnp.ndim(t) == 0 else (repeat(t) if jnp.ndim(t) == 1 else t.reshape(-1))
        repeated = jax.tree.map(repeat, (condition, more))
        output = network(x.reshape(-1, 1, *x.shape[2:]), jax.tree.map(by_frame, clock), repeated[0], **repeated[1])
        return output.reshape(batch, frames, *output.shape[2:])

    return apply


def with_pictures(objective: Objective, share: float = 0.25) -> Objective:
    """An objective that treats each frame of some of the batch's clips as a picture.

        loss of a clip = mean over its frames of their losses as pictures,   for a share of the examples
                         the objective's loss,                               for the others

    In each step the network learns from clips and pictures at once. Each step draws which examples are pictures. The
    cost is the cost of the clips, minus the attention between frames in the pictures.

    Facts:
        loss: the wrapped objective's, on clips, and on clips of one frame
        networks: the wrapped objective's
        optimum: the wrapped objective's, for clips and for pictures
        paper: Ho et al. 2022, "Video Diffusion Models", section 3.1; Ma et al. 2024, "Latte: Latent Diffusion
            Transformer for Video Generation"

    Args:
        objective: the objective to wrap; it has only the network "model" and does not read features.
        share: share of the examples that are treated as pictures, in (0, 1); at least one example of a batch.

    Returns:
        An objective with the metrics of the wrapped one.

    Raises:
        ValueError: if share is out of range, or the objective has heads, features or a teacher; when called, if the
            batch has only one example.
    """
    check_objective(objective)
    if not 0 < share < 1:
        raise ValueError(f"with_pictures: share = {share}. Valid: above 0 and below 1")
    if objective.blocks.features or objective.heads or objective.network.kind != "backbone" or objective.teacher:
        raise ValueError(
            "with_pictures: the objective has terms on features, heads or a teacher, which apply only to clips. "
            "Valid: e.g. flow_matching or denoising without terms"
        )

    @entry(entries=None)
    def mixed(networks, schedule, keys, batch, step):
        size = batch["x"].shape[0]
        pictures = min(max(round(share * size), 1), size - 1)
        if size < 2:
            raise ValueError(
                "with_pictures: a batch of one example cannot be split into clips and pictures. Valid: at least 2 "
                "examples"
            )
        choices, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        order = jax.random.permutation(choices[0], size)
        alone = {**networks, "model": frame_by_frame(networks["model"])}
        parts = []
        for nets, rows in ((alone, order[:pictures]), (networks, order[pictures:])):
            take = lambda leaf, rows=rows: leaf[rows]
            part = {name: jax.tree.map(take, batch[name]) for name in ROWS if name in batch}
            part.setdefault("index", rows)
            parts.append(objective.loss(nets, schedule, keys[rows], {**batch, **part}, step))
        back = lambda *leaves: (
            jnp.zeros((size, *np.shape(leaves[0])[1:]), leaves[0].dtype).at[order].set(jnp.concatenate(leaves))
        )
        return jax.tree.map(back, *parts)

    return dataclasses.replace(objective, loss=mixed, examples=objective.examples._replace(real=False, block=None))
