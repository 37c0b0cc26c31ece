"""The decoder of a representation autoencoder (RAE), which learns to decode noised features of a frozen encoder.

networks["encoder"](x, clock, condition) returns the frozen features `[B, N, D]` of a picture's patches, and
networks["model"](features, keys, condition, size=(H, W)) the `Coded` pictures. The critic is a second player, as for
the autoencoders of `diffusion.objectives.autoencoding`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.objectives.autoencoder_terms import PIXELS, Coded, choice, picture_error
from diffusion.objectives.autoencoding import critic_of, reconstruction_objective
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective, Second

NOISES = {
    "half_normal": lambda key: jnp.abs(jax.random.normal(key, (), jnp.float32)),
    "uniform": lambda key: jax.random.uniform(key, (), jnp.float32),
}


def rae_decoder(
    pixels: str = "l1",
    perceptual: float = 1.0,
    adversarial: float = 0.75,
    start: int = 20_018,
    tau: float = 0.8,
    noise: str = "half_normal",
    channel_weights: Sequence[Array] | None = None,
) -> Objective:
    """The loss of a representation autoencoder's decoder, which learns to decode noised features.

        y = D(E(x) + sigma eps),    sigma = tau |n| with n ~ N(0, 1),    eps ~ N(0, I),    one sigma an example
        loss = mean |x - y| / 2 + perceptual P(x, y) + adversarial lambda mean -C(y)

    The factor 1/2 appears because the authors' code compares pictures in [0, 1]. E is frozen.

    Facts:
        loss: mean |x - y| / 2 + P + adversarial lambda mean -C(y); the last term from step `start` on
        networks: model (the decoder), encoder, features and critic (optional)
        optimum: none by itself: a game with `rae_critic`
        paper: Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders", sections 3.1 and 4.3, and
            the authors' code

    Args:
        pixels: "l1", or "l2": (x - y)^2 / 4.
        perceptual, adversarial, channel_weights: weights, as in `kl_autoencoder`.
        start: step from which the adversarial term counts; 8 of 16 epochs of ImageNet in batches of 512.
        tau: scale of the noise, >= 0; 0.8 in the paper.
        noise: distribution of sigma: "half_normal" (the paper), or "uniform" in (0, tau) (the authors' code).

    Returns:
        An objective, as by `kl_autoencoder`, with the additional metric "sigma" `[B]`.

    Raises:
        ValueError: if `pixels` or `noise` is unknown, or tau is negative.
    """
    distance = choice(PIXELS, pixels, "pixels")
    code = _noised_decoding(tau, noise)

    def losses_of(networks, x, coded, reconstruction):
        return picture_error(networks, lambda d: distance(d / 2), perceptual, channel_weights, x, reconstruction)

    objective = reconstruction_objective(losses_of, {"sigma": 0.0}, adversarial, start, code=code)  # among the metrics
    return dataclasses.replace(
        objective,
        network=objective.network._replace(kind="decoder"),
        beside=objective.beside._replace(encoder=True),
        second=Second("critic", by=rae_critic, optional=True, separate=True),
        shares=("features", tau, noise),
    )


def rae_critic(loss: str = "hinge", start: int = 15_013, tau: float = 0.8, noise: str = "half_normal") -> Objective:
    """The discriminator's loss for `rae_decoder`: that of `patch_critic`, on reconstructions from noised features.

    Facts:
        loss: as `patch_critic`
        networks: critic, model (the decoder), encoder
        optimum: as `patch_critic`
        paper: Zheng et al. 2025, "Diffusion Transformers with Representation Autoencoders", section 3.1

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns; 6 of 16 epochs of ImageNet in batches of 512.
        tau, noise: scale and distribution of the noise, as in `rae_decoder`.

    Returns:
        An objective, as by `patch_critic`.

    Raises:
        ValueError: if loss or noise is unknown, or tau is negative.
    """
    return critic_of(loss, start, _noised_decoding(tau, noise), None, ("features", tau, noise))


def _noised_decoding(tau: float, noise: str) -> Callable[..., Coded]:
    """The decoder's reconstructions from the noised features of pictures."""
    draw = choice(NOISES, noise, "noise")
    if not traced(tau) and not tau >= 0:
        raise ValueError(f"tau = {tau} must not be negative (0.8 in the paper)")

    def code(networks, x, keys, condition):
        features = jax.lax.stop_gradient(player(networks, "encoder")(x, None, None))
        sigma_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        sigma = tau * jax.vmap(draw)(sigma_keys)
        eps = jax.vmap(lambda key: jax.random.normal(key, features.shape[1:], features.dtype))(noise_keys)
        coded = player(networks, "model")(features + sigma[:, None, None] * eps, keys, condition, size=x.shape[1:3])
        return coded._replace(penalties={**coded.penalties, "sigma": sigma})

    return code
