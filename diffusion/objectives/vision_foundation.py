"""VA-VAE's alignment of an autoencoder's latents with the features of a frozen vision model."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_shape
from diffusion.objectives.autoencoder_terms import Coded, adaptive_weight
from diffusion.objectives.feature_losses import unit_vectors
from diffusion.objectives.few_step import player
from diffusion.objectives.objective_facts import Head


class VisionFoundation(NamedTuple):
    """The term of `kl_autoencoder` that aligns its latents with the features f of the frozen network "encoder".

        term = weight lambda (marginal_cosine(W z, f, m_1) + marginal_distance_matrix(W z, f, m_2))

    W is a linear map of the channels at each position, trained with the autoencoder. lambda is the `adaptive_weight` of
    the reconstruction loss and the term, from their gradients with respect to the kernel of the encoder's last layer.

    Attributes:
        weight: weight of the term; 0.1 in the paper.
        cosine_margin: margin m_1; 0.5 in the paper.
        distance_margin: margin m_2; 0.25 in the paper.
        adaptive: whether lambda is the adaptive weight; otherwise it is 1.

    Reference: Yao, Yang and Wang 2025, "Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion
    Models", section 3.2 and the authors' code, which compares the projected latents in both terms.
    """

    weight: float = 0.1
    cosine_margin: float = 0.5
    distance_margin: float = 0.25
    adaptive: bool = True


def marginal_cosine(z: Array, f: Array, margin: float = 0.5) -> Array:
    """`[B]` hinge loss on cosines of features at the same position: mean_i max(0, 1 - margin - cos(z_i, f_i)).

    Args:
        z: latents `[B, N, D]`, mapped to the space of the features.
        f: features `[B, N, D]`.
        margin: margin m_1, by which a cosine may fall short of 1.

    Raises:
        ValueError: if the shapes differ.

    Reference: Yao, Yang and Wang 2025, equation 4.
    """
    require_shape(z, f.shape, "marginal_cosine: the latents, which are compared with features,")
    cosine = jnp.sum(unit_vectors(z) * unit_vectors(f), axis=-1)
    return jnp.mean(jax.nn.relu(1 - margin - cosine), axis=1)


def marginal_distance_matrix(z: Array, f: Array, margin: float = 0.25) -> Array:
    """`[B]` hinge loss on cosines between positions: mean_ij max(0, |cos(z_i, z_j) - cos(f_i, f_j)| - margin).

    Args:
        z: latents `[B, N, C]`.
        f: features `[B, N, D]` at the same positions.
        margin: margin m_2, by which two cosines may differ.

    Raises:
        ValueError: if the numbers of positions differ.

    Reference: Yao, Yang and Wang 2025, equation 5.
    """
    require_shape(z[..., 0], f.shape[:2], "marginal_distance_matrix: the positions of the latents, like the features,")
    cosines = lambda h: jnp.einsum("bic,bjc->bij", unit_vectors(h), unit_vectors(h))
    return jnp.mean(jax.nn.relu(jnp.abs(cosines(z) - cosines(f)) - margin), axis=(1, 2))


def latent_alignment(
    networks: Mapping[str, Callable], aligned: VisionFoundation, error: Callable[[Array], Array], x: Array, coded: Coded
) -> tuple[Array, dict[str, Array]]:
    """The weighted alignment of an autoencoder's latents with the features of a frozen encoder.

    Args:
        networks: networks by name: "encoder", (x, clock, condition) -> features `[B, N, D]`, and "projection", from
            `HEADS`.
        aligned: the term's weights and margins.
        error: reconstructions `[B, H, W, C]` -> losses `[B]`, whose gradient is compared with the term's.
        x: `[B, H, W, C]` the pictures.
        coded: the autoencoder's output for x, with its latents.

    Returns:
        (`[B]` losses, {"foundation": the unweighted term `[B]`, "foundation_weight": lambda `[B]`}).

    Raises:
        ValueError: if the encoder has another number of positions than the latents.
    """
    features = jax.lax.stop_gradient(player(networks, "encoder")(x, None, None))
    latents, recode = coded.latents, coded.recode
    assert latents is not None and recode is not None  # `coding.kl_network` returns both
    places = latents.shape[1] * latents.shape[2]
    if features.shape[1] != places:
        raise ValueError(
            f"kl_autoencoder: the encoder has {features.shape[1]} patches for a picture, but the latents have "
            f"{places} positions. Valid: an encoder, or an encoder.size, with as many patches as the latents have "
            "positions"
        )

    def term(z):
        projected = player(networks, PROJECTION)(z)
        cosine = marginal_cosine(projected, features, aligned.cosine_margin)
        return cosine + marginal_distance_matrix(projected, features, aligned.distance_margin)

    weight = jnp.asarray(1.0)
    if aligned.adaptive:
        ours = jax.grad(lambda kernel: jnp.mean(error(recode(kernel)[0])))(coded.first)
        theirs = jax.grad(lambda kernel: jnp.mean(term(recode(kernel)[1])))(coded.first)
        weight = adaptive_weight(ours, theirs, limit=1e8)
    distance = term(latents)
    metrics = {"foundation": distance, "foundation_weight": jnp.full(x.shape[0], weight)}
    return aligned.weight * weight * distance, metrics


def _init_projection(key: Array, features: int, to: int) -> Array:
    """A linear map without a bias, as in the authors' code."""
    bound = features**-0.5
    return jax.random.uniform(key, (features, to), jnp.float32, -bound, bound)


def _project(kernel: Array, z: Array) -> Array:
    return z.reshape(z.shape[0], math.prod(z.shape[1:-1]), z.shape[-1]) @ kernel


PROJECTION = "projection"
HEADS = {PROJECTION: Head(0, _init_projection, _project)}  # the linear map W
