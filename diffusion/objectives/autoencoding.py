"""Objectives for training autoencoders: reconstruction, KL or codebook, perceptual distance, and a patch discriminator.

Two players, for `training.alternating`:

    players = {"autoencoder": Player(kl_autoencoder(), "model", adam), "critic": Player(patch_critic(), "critic", adam)}

Here networks["model"](x, keys, condition) -> `Coded`: the second argument is the examples' keys, for draws from the
posterior, in place of a denoiser's clock (`diffusion.training.coding` makes such networks). networks["critic"](x,
clock, condition) returns logits `[B, h, w, 1]`, one for each patch. networks["features"], which is optional, returns a
sequence of features `[B, h, w, C]` of a frozen network, or `Perceived`. Pictures are in [-1, 1].

The decoder of a representation autoencoder is trained alone (`rae_decoder`): networks["encoder"](x, clock, condition)
returns the frozen features `[B, N, D]` of its patches, and networks["model"](features, keys, condition, size=(H, W))
what is decoded of them.
"""

__all__ = [
    "Coded",
    "Perceived",
    "adaptive_weight",
    "choice",
    "critic_of",
    "gaussian_kl",
    "hinge",
    "kl_autoencoder",
    "patch_critic",
    "perceptual_distance",
    "picture_error",
    "rae_critic",
    "rae_decoder",
    "vanilla",
    "vq_autoencoder",
]

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.objectives.equivariance import Equivariance
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Head, Objective, Second
from diffusion.objectives.objective_facts import Beside, Examples, Trained
from diffusion.objectives.vision_foundation import VisionFoundation, marginal_cosine, marginal_distance_matrix


class Coded(NamedTuple):
    """The output of an autoencoder for pictures.

    Attributes:
        x: `[B, H, W, C]` the reconstructions.
        penalties: {name: `[B]`}: "kl", or "codebook" and "commitment".
        last: the kernel of the decoder's last layer, at which gradients are compared.
        redo: kernel -> x, with this kernel in place of the last one.
        log_variance: `[]` learned log-variance of the pixels; 0 where none is learned.
        latents: `[B, h, w, D]` that were decoded, before any transformation; None where nobody reads them.
        first: the kernel of the encoder's last layer, at which gradients are compared too; None where there is none.
        recode: kernel -> (x, latents), with this kernel in place of that one.
    """

    x: Array
    penalties: Mapping[str, Array]
    last: Array
    redo: Callable[[Array], Array]
    log_variance: ArrayLike = 0.0
    latents: Array | None = None
    first: Array | None = None
    recode: Callable[[Array], tuple[Array, Array]] | None = None


class Perceived(NamedTuple):
    """Features of pictures with the weights by which they are compared.

    Attributes:
        layers: features `[B, h, w, C]` of each layer.
        weights: weights `[C]` of each layer, see `perceptual_distance`.
    """

    layers: Sequence[Array]
    weights: Sequence[Array]


# ==== Terms ====


PIXELS = {"l1": jnp.abs, "l2": jnp.square}


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """`[B]` KL(N(mean, variance) || N(0, 1)) of all components: 1/2 sum (mean^2 + variance - 1 - log variance).

    Reference: Kingma and Welling 2013, "Auto-Encoding Variational Bayes", appendix B.
    """
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


def perceptual_distance(
    features: Sequence[Array], others: Sequence[Array], weights: Sequence[Array] | None = None
) -> Array:
    """`[B]` distance of features, each normalised over its channels, as LPIPS takes it.

        sum over layers of mean over positions of sum_c w_c (f_c / |f| - g_c / |g|)^2

    Args:
        features: features of pictures, `[B, h, w, C]` for each layer.
        others: features of the pictures to compare with, in the same shapes.
        weights: weights w `[C]` of each layer, >= 0, learned from people's judgements in the paper; ones if None.

    Raises:
        ValueError: if the numbers of layers differ.

    Reference: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1.
    """
    if len(features) != len(others) or (weights is not None and len(weights) != len(features)):
        raise ValueError(
            f"perceptual_distance: {len(features)} layers of features, {len(others)} of others, and "
            f"{'no' if weights is None else len(weights)} weights"
        )
    # Added to the square, so that features of zero have a gradient.
    unit = lambda f: f * jax.lax.rsqrt(jnp.sum(jnp.square(f), axis=-1, keepdims=True) + 1e-20)
    total = jnp.asarray(0.0)
    for layer, (f, g) in enumerate(zip(features, others)):
        square = jnp.square(unit(f) - unit(g)) * (1.0 if weights is None else weights[layer])
        total += jnp.mean(jnp.sum(square, axis=-1), axis=tuple(range(1, f.ndim - 1)))
    return total


def adaptive_weight(reconstruction: Array, adversarial: Array, limit: float = 1e4, delta: float = 1e-4) -> Array:
    """lambda = |grad reconstruction loss| / (|grad adversarial loss| + delta), at the decoder's last layer.

    Args:
        reconstruction: the gradient of the reconstruction loss, of any shape.
        adversarial: the gradient of the adversarial loss.
        limit: lambda is at most this.
        delta: against division by zero, 1e-4 in the authors' code (1e-6 in the paper).

    Returns:
        `[]`, without gradient.

    Reference: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equation 7; the
    limit is taken from the authors' code.
    """
    norm = lambda gradient: jnp.sqrt(jnp.sum(jnp.square(gradient)))
    return jax.lax.stop_gradient(jnp.clip(norm(reconstruction) / (norm(adversarial) + delta), 0, limit))


def hinge(real: Array, fake: Array) -> Array:
    """`[B]` the critic's hinge loss of logits `[B, ...]`: 1/2 mean max(0, 1 - real) + 1/2 mean max(0, 1 + fake)."""
    return 0.5 * (_mean(jax.nn.relu(1 - real)) + _mean(jax.nn.relu(1 + fake)))


def vanilla(real: Array, fake: Array) -> Array:
    """`[B]` cross-entropy of logits `[B, ...]`: 1/2 mean softplus(-real) + 1/2 mean softplus(fake)."""
    return 0.5 * (_mean(jax.nn.softplus(-real)) + _mean(jax.nn.softplus(fake)))


CRITICS = {"hinge": hinge, "vanilla": vanilla}


def choice(table: Mapping[str, Callable], name: str, argument: str) -> Callable:
    """The function of this name; a ValueError that names the argument and the valid names if there is none."""
    if name not in table:
        raise ValueError(f"{argument} = {name!r} is not known; valid are {', '.join(table)}")
    return table[name]


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


# ==== Objectives ====


def kl_autoencoder(
    pixels: str = "l1",
    kl: float = 1e-6,
    perceptual: float = 1.0,
    adversarial: float = 0.5,
    start: int = 50_001,
    channel_weights: Sequence[Array] | None = None,
    aligned: VisionFoundation | None = None,
    equivariance: Equivariance | None = None,
) -> Objective:
    """The loss of latent diffusion's KL autoencoder: a likelihood with learned variance, KL and adversarial terms.

        error = sum over pixels of (|x - y| + perceptual P(x, y)),   N numbers a picture
        loss = error / exp(s) + N s + kl KL(q(z | x) || N(0, 1)) + adversarial lambda mean -D(y)

    with y the reconstruction from a draw of q, s the learned log-variance, and lambda by `adaptive_weight`; sums over
    pixels and components, as in the authors' code. Lambda is one for the batch (with accumulation, for the
    micro-batch).

    Facts:
        loss: error / exp(s) + N s + kl KL + adversarial lambda mean -D(y); the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional); encoder, with `aligned`
        optimum: none by itself: a game with `patch_critic`
        paper: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1 and
            appendix G

    Args:
        pixels: "l1" (|x - y|) or "l2" ((x - y)^2).
        kl: weight of the KL, >= 0.
        perceptual: weight of the distance of features, used where there is a network "features".
        adversarial: weight beside lambda, used where there is a network "critic".
        start: step from which the adversarial term counts.
        channel_weights: weights for `perceptual_distance`; None: the weights of "features" itself where it has some.
        aligned: the alignment of the latents with a frozen encoder's features (VA-VAE); None: none.
        equivariance: transformations of pictures and latents (EQ-VAE); None: none.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros: there is no time), "reconstruction" (the
        mean pixel error), "perceptual", "kl", "adversarial" and "adaptive_weight", each `[B]`; with `aligned`
        "foundation" and "foundation_weight".

    Raises:
        ValueError: for an unknown `pixels`, values of `equivariance` out of range, or it and `aligned` together; when
            called, for an encoder with another number of positions than the latents.
    """
    distance = choice(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        numbers = x.size // x.shape[0]
        error, parts = picture_error(networks, distance, perceptual, channel_weights, x, reconstruction)
        return numbers * (error * jnp.exp(-coded.log_variance) + coded.log_variance), parts

    if equivariance is not None:
        equivariance.check()
        if aligned is not None:
            raise ValueError("kl_autoencoder: aligned latents are those of whole pictures. Valid: no equivariance")
    objective = _autoencoder(losses_of, {"kl": kl}, adversarial, start, aligned, equivariance)
    if aligned is None:
        return objective
    return dataclasses.replace(
        objective,
        heads={PROJECTION: Head(0, _init_projection, _project)},
        beside=objective.beside._replace(encoder=True),
    )


def vq_autoencoder(
    pixels: str = "l1",
    codebook: float = 1.0,
    commitment: float = 0.25,
    perceptual: float = 1.0,
    adversarial: float = 0.75,
    start: int = 250_001,
    channel_weights: Sequence[Array] | None = None,
) -> Objective:
    """The loss of VQGAN, with means over pixels.

        loss = mean |x - y| + perceptual P(x, y) + codebook |stop z - e|^2 + commitment |z - stop e|^2
               + adversarial lambda mean -D(y)

    Facts:
        loss: mean |x - y| + P + |stop z - e|^2 + |z - stop e|^2 + adversarial lambda
            mean -D(y); the last term from step `start` on
        networks: model (the autoencoder), features and critic (optional)
        optimum: none by itself: a game with `patch_critic`
        paper: Esser, Rombach and Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", equations 4 to
            7

    Args:
        pixels: "l1" or "l2".
        codebook: weight of the codebook's loss; 0 where it is a moving average, or there is none to learn.
        commitment: weight of the commitment.
        perceptual, adversarial, start, channel_weights: weights and first step, as in `kl_autoencoder`.

    Returns:
        An objective, as `kl_autoencoder`, with "codebook" and "commitment" among the metrics.

    Raises:
        ValueError: for an unknown `pixels`.
    """
    distance = choice(PIXELS, pixels, "pixels")

    def losses_of(networks, x, coded, reconstruction):
        return picture_error(networks, distance, perceptual, channel_weights, x, reconstruction)

    return _autoencoder(losses_of, {"codebook": codebook, "commitment": commitment}, adversarial, start)


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

    The halves come from pictures in [0, 1], which the authors' code compares. E is frozen.

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
        An objective, as `kl_autoencoder`; its metrics have "sigma" `[B]` too.

    Raises:
        ValueError: for an unknown `pixels` or `noise`, or a negative tau.
    """
    distance = choice(PIXELS, pixels, "pixels")
    code = _noised_decoding(tau, noise)

    def losses_of(networks, x, coded, reconstruction):
        return picture_error(networks, lambda d: distance(d / 2), perceptual, channel_weights, x, reconstruction)

    objective = _autoencoder(losses_of, {"sigma": 0.0}, adversarial, start, code=code)  # among the metrics
    return dataclasses.replace(
        objective,
        network=objective.network._replace(kind="decoder"),
        beside=objective.beside._replace(encoder=True),
        second=Second("critic", by=rae_critic, optional=True, separate=True),
        shares=("features", tau, noise),
    )


NOISES = {
    "half_normal": lambda key: jnp.abs(jax.random.normal(key, (), jnp.float32)),
    "uniform": lambda key: jax.random.uniform(key, (), jnp.float32),
}


def _noised_decoding(tau: float, noise: str) -> Callable[..., Coded]:
    """The decoder's reconstructions from the noised features of pictures."""
    draw = choice(NOISES, noise, "noise")
    if not tau >= 0:
        raise ValueError(f"tau = {tau} must not be negative (0.8 in the paper)")

    def code(networks, x, keys, condition):
        features = jax.lax.stop_gradient(player(networks, "encoder")(x, None, None))
        sigma_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        sigma = tau * jax.vmap(draw)(sigma_keys)
        eps = jax.vmap(lambda key: jax.random.normal(key, features.shape[1:], features.dtype))(noise_keys)
        coded = player(networks, "model")(features + sigma[:, None, None] * eps, keys, condition, size=x.shape[1:3])
        return coded._replace(penalties={**coded.penalties, "sigma": sigma})

    return code


def _encoding(networks, x, keys, condition, transform=None) -> Coded:
    """An autoencoder's code and reconstructions of pictures."""
    if transform is None:
        return player(networks, "model")(x, keys, condition)
    return player(networks, "model")(x, keys, condition, transform=transform)


PROJECTION = "projection"


def _init_projection(key: Array, features: int, to: int) -> Array:
    """A linear map without a bias, as the authors' code has it."""
    bound = features**-0.5
    return jax.random.uniform(key, (features, to), jnp.float32, -bound, bound)


def _project(kernel: Array, z: Array) -> Array:
    return z.reshape(z.shape[0], -1, z.shape[-1]) @ kernel


def picture_error(networks, distance, perceptual, channel_weights, x, reconstruction) -> tuple[Array, dict[str, Array]]:
    """`[B]` mean error of the pixels and of the features, and its parts."""
    pixels = _mean(distance(x - reconstruction))
    if "features" not in networks:
        return pixels, {"reconstruction": pixels}
    see = lambda pictures: networks["features"](pictures, jnp.zeros(x.shape[0]), None)
    ours, theirs = see(reconstruction), jax.lax.stop_gradient(see(x))
    if isinstance(ours, Perceived):
        channel_weights = jax.lax.stop_gradient(ours.weights) if channel_weights is None else channel_weights
        ours, theirs = ours.layers, theirs.layers
    perceived = perceptual_distance(ours, theirs, channel_weights)
    return pixels + perceptual * perceived, {"reconstruction": pixels, "perceptual": perceived}


def _autoencoder(
    losses_of,
    weights: Mapping[str, float],
    adversarial: float,
    start: int,
    aligned: VisionFoundation | None = None,
    equivariance: Equivariance | None = None,
    code: Callable[..., Coded] = _encoding,
) -> Objective:
    def compared(networks, x, coded, condition, step):
        """The losses of the reconstructions, compared with the pictures x."""
        losses, metrics = losses_of(networks, x, coded, coded.x)
        for name, weight in weights.items():
            if name in coded.penalties:
                losses = losses + weight * coded.penalties[name]
                metrics[name] = coded.penalties[name]
        if aligned is not None:
            losses += _foundation(networks, aligned, losses_of, x, coded, metrics)
        if "critic" in networks:
            fooled = lambda pictures: -_mean(networks["critic"](pictures, jnp.zeros(x.shape[0]), condition))
            # Only the last kernel varies: the forward pass above has evaluated the layers before it.
            mine = jax.grad(lambda kernel: jnp.mean(losses_of(networks, x, coded, coded.redo(kernel))[0]))(coded.last)
            theirs = jax.grad(lambda kernel: jnp.mean(fooled(coded.redo(kernel))))(coded.last)
            weight = adaptive_weight(mine, theirs)
            metrics["adversarial"] = fooled(coded.x)
            metrics["adaptive_weight"] = jnp.full(x.shape[0], weight)
            losses += adversarial * jnp.where(step >= start, weight, 0.0) * metrics["adversarial"]
        return losses, {"t": jnp.zeros(x.shape[0]), **metrics}

    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        if equivariance is None:
            coded = code(networks, batch["x"], keys, condition)
            return compared(networks, batch["x"], coded, condition, step)
        transformed_loss = lambda x, out, change: compared(
            networks, out, code(networks, x, keys, condition, change), condition, step
        )
        return equivariance.switched(_first(keys), batch["x"], transformed_loss)

    second = Second("critic", by=patch_critic, optional=True, separate=True)
    shares = ("pictures", equivariance)
    return Objective(
        loss,
        reads=None,
        network=Trained(kind="autoencoder"),
        second=second,
        shares=shares,
        beside=Beside(perceptual=True),
        examples=Examples(block=None),
    )


def _first(keys: Array) -> Array:
    """The step's key, derived from its first example's key."""
    return jax.random.fold_in(keys[0], 1)


def _foundation(networks, aligned: VisionFoundation, losses_of, x, coded: Coded, metrics: dict[str, Array]) -> Array:
    """`[B]` the weighted alignment of latents with a frozen encoder's features."""
    features = jax.lax.stop_gradient(player(networks, "encoder")(x, None, None))
    latents, recode = coded.latents, coded.recode
    assert latents is not None and recode is not None  # as `coding.kl_network` returns them
    places = latents.shape[1] * latents.shape[2]
    if features.shape[1] != places:
        raise ValueError(
            f"kl_autoencoder: the encoder has {features.shape[1]} places of a picture, and the latents {places}. "
            "Valid: an encoder, or an encoder.size, whose patches are as many"
        )

    def term(z):
        projected = player(networks, PROJECTION)(z)
        cosine = marginal_cosine(projected, features, aligned.cosine_margin)
        return cosine + marginal_distance_matrix(projected, features, aligned.distance_margin)

    weight = jnp.asarray(1.0)
    if aligned.adaptive:
        mine = jax.grad(lambda kernel: jnp.mean(losses_of(networks, x, coded, recode(kernel)[0])[0]))(coded.first)
        theirs = jax.grad(lambda kernel: jnp.mean(term(recode(kernel)[1])))(coded.first)
        weight = adaptive_weight(mine, theirs, limit=1e8)
    metrics["foundation"] = term(latents)
    metrics["foundation_weight"] = jnp.full(x.shape[0], weight)
    return aligned.weight * weight * metrics["foundation"]


def patch_critic(loss: str = "hinge", start: int = 0, equivariance: Equivariance | None = None) -> Objective:
    """The discriminator's loss: to distinguish patches of pictures from patches of reconstructions.

        loss = 1/2 mean max(0, 1 - D(x)) + 1/2 mean max(0, 1 + D(stop y))          "hinge"
        loss = 1/2 mean softplus(-D(x)) + 1/2 mean softplus(D(stop y))            "vanilla"

    Facts:
        loss: hinge or softplus of D(x) and of -D(stop y); 0 before step `start`
        networks: critic, model (the autoencoder)
        optimum: D = 1 where p(x) > p(y), -1 where it is smaller ("hinge"); D = log p(x) - log p(y) ("vanilla")
        paper: Esser, Rombach and Ommer 2021, equation 5 ("vanilla"), and the authors' code ("hinge")

    Args:
        loss: "hinge" or "vanilla".
        start: step from which the critic learns; the same as in the autoencoder's objective.
        equivariance: transformations, as in the autoencoder's objective, with separate draws for the critic.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" (zeros), "real" and "fake" (mean logits) `[B]`.

    Raises:
        ValueError: for an unknown loss.
    """
    if equivariance is not None:
        equivariance.check()
    return critic_of(loss, start, _encoding, equivariance, ("pictures", equivariance))


def rae_critic(loss: str = "hinge", start: int = 15_013, tau: float = 0.8, noise: str = "half_normal") -> Objective:
    """The discriminator's loss beside `rae_decoder`: `patch_critic`'s, on reconstructions from noised features.

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
        An objective, as `patch_critic`.

    Raises:
        ValueError: for an unknown loss or noise, or a negative tau.
    """
    return critic_of(loss, start, _noised_decoding(tau, noise), None, ("features", tau, noise))


def critic_of(
    loss: str, start: int, code: Callable[..., Coded], equivariance: Equivariance | None, shares: tuple
) -> Objective:
    """The objective of the critic of pictures that `code` makes: its loss of real and made ones, from a step on."""
    compare = choice(CRITICS, loss, "loss")

    def critic(networks, schedule, keys, batch, step):
        condition = batch.get("condition")

        def judged(x, out, *change):
            y = jax.lax.stop_gradient(code(networks, x, keys, condition, *change).x)
            judge = lambda pictures: player(networks, "critic")(pictures, jnp.zeros(x.shape[0]), condition)
            real = judge(out)
            fake = judge(y)
            losses = jnp.where(step >= start, compare(real, fake), 0.0)
            return losses, {"t": jnp.zeros(x.shape[0]), "real": _mean(real), "fake": _mean(fake)}

        if equivariance is None:
            return judged(batch["x"], batch["x"])
        return equivariance.switched(_first(keys), batch["x"], judged)

    return Objective(critic, reads=None, network=Trained("critic"), shares=shares)
