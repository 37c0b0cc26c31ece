"""Losses that pull the embeddings of a picture and its caption together, and push all other pairs of the batch apart.

Two of them are pure functions of the embeddings of pictures and captions, by `models.clip.CLIP` or any two networks.
They contrast the whole global batch: under `jit` on a mesh, B is the global batch, and the compiler gathers the
embeddings. The third is an objective for the train step, with networks["model"](x, clock, condition) -> (texts [B, D],
images [B, D], scale []) for pictures x in [-1, 1] and, as the condition, the tokens of their captions.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.promotion import promoted
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Examples, Trained

MOST_SCALE = 100.0  # Radford et al., 2021, section 2.5


def contrastive(images: Array, texts: Array, scale: Array | float) -> Array:
    """CLIP's loss: cross-entropy of each picture's caption among the batch's captions, and of each caption's picture.

        z_ij = scale x_i . y_j
        loss_i = -1/2 (log softmax_j(z_ij)[j = i] + log softmax_j(z_ji)[j = i])

    Args:
        images: embeddings x [B, D], of length one.
        texts: embeddings y [B, D] of their captions, of length one.
        scale: learned factor [], > 0: exp of a parameter that starts at ln(1 / 0.07); the paper clips the scale at 100.

    Returns:
        losses [B], float32 or wider.

    Raises:
        ValueError: if images and texts do not have the same shape [B, D].

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3.
    """
    logits = scale * _products(images, texts)
    to_texts, to_images = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return (to_texts + to_images) / 2 - jnp.diagonal(logits)


def sigmoid(images: Array, texts: Array, scale: Array | float, bias: Array | float) -> Array:
    """SigLIP's loss: for each of the B^2 pairs, binary cross-entropy of whether picture and caption belong together.

        z_ij = scale x_i . y_j + bias
        loss_i = -sum_j log sigmoid(z_ij if i = j else -z_ij)

    Args:
        images: embeddings x [B, D], of length one.
        texts: embeddings y [B, D] of their captions, of length one.
        scale: learned factor [], > 0: exp of a parameter that starts at ln(10).
        bias: learned offset [], which starts at -10 because most pairs do not belong together.

    Returns:
        losses [B], float32 or wider; the paper's loss is their mean.

    Raises:
        ValueError: if images and texts do not have the same shape [B, D].

    Reference: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, algorithm 1.
    """
    logits = scale * _products(images, texts) + bias
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    return -jax.nn.log_sigmoid(signs * logits).sum(axis=1)


def contrastive_pretraining() -> Objective:
    """CLIP's training: `contrastive`, with the scale clipped at 100.

    Facts:
        loss: -1/2 (log softmax over texts + log softmax over images) at the pairs that belong together
        networks: model (both towers), conditioned on the captions' tokens
        optimum: scale x . y = log(p(x, y) / (p(x) p(y))) up to a constant, for B to infinity
        paper: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros: there is no time), and "found", whether a
        picture's caption is the nearest to it in the batch, each `[B]`.
    """

    def loss(networks, schedule, keys, batch, step):
        x = batch["x"]
        texts, images, scale = player(networks, "model")(x, jnp.zeros(x.shape[0]), batch["condition"])
        losses = contrastive(images, texts, jnp.minimum(scale, MOST_SCALE))
        cosines = _products(images, texts)
        nearest = (jnp.diagonal(cosines) >= cosines.max(axis=1)).astype(jnp.float32)
        return losses, {"t": jnp.zeros(x.shape[0]), "found": nearest}

    return Objective(loss, reads=None, network=Trained(kind="towers"), examples=Examples(block=None))


def _products(images: Array, texts: Array) -> Array:
    """x_i . y_j, [B, B]."""
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(
            f"images and texts must be embeddings [B, D] with one row for each pair; got {images.shape} and "
            f"{texts.shape}"
        )
    wide = promoted(images.dtype)
    # Accelerators multiply with 8 significant bits by default: at a scale of 100, a logit would be off by 0.4.
    return jnp.matmul(images.astype(wide), texts.astype(wide).T, precision=jax.lax.Precision.HIGHEST)
