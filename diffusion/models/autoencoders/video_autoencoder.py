"""The common base of the autoencoders of videos: their methods, and the checks of their inputs."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.causal_layers import STREAM
from diffusion.models.autoencoders.latent_space import LOG_VARIANCE, Moments


class VideoAutoencoder(nn.Module):
    """An autoencoder of videos with a Gaussian posterior.

        moments = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")

    A subclass has `latent_channels` and `picture_channels`. It has `_posterior(x)` -> (mean, log variance of each
    channel or of all) and `_video(z)` -> x, or the submodules `encoder` and `decoder` instead. It overrides `factor` f
    and `time_factor` f_t if they are not 2^(levels - 1) and 2^halvings. A later chunk of a stream, see
    `clip_parts.streamed`, has no first frame: it has f_t n frames, and its latent has n.
    """

    kind = "autoencoder"
    ranks = (4,)
    takes_frames = True
    together = 1  # the number of latent frames, after the first, that are encoded or decoded together

    @property
    def factor(self: Any) -> int:
        """The number f by which the picture's sides are divided."""
        return 2 ** (len(self.widths) - 1)

    @property
    def time_factor(self: Any) -> int:
        """The number f_t of frames, after the first, that one frame of the latent represents."""
        return 2**self.halvings

    def encode(self: Any, x: jax.Array) -> Moments:
        """The posterior q(z | x).

        Args:
            x: videos [B, 1 + f_t n, H, W, C] in [-1, 1]; `together` divides n, and f divides H and W.

        Returns:
            The mean and the log variance, float32 [B, 1 + n, H/f, W/f, D] each; the log variance lies in [-30, 20].

        Raises:
            ValueError: if the factors do not divide a size.
        """
        check_video(self, x, later="encoder" in self.variables.get(STREAM, {}), together=self.together)
        mean, log_variance = self._posterior(x)
        return Moments(mean, jnp.broadcast_to(log_variance.clip(*LOG_VARIANCE), mean.shape))

    def decode(self: Any, z: jax.Array) -> jax.Array:
        """The video of a latent.

        Args:
            z: latents [B, 1 + n, h, w, D] as the encoder returns them, neither scaled nor shifted.

        Returns:
            The videos, float32 [B, 1 + f_t n, f h, f w, C], about in [-1, 1] and not clipped.

        Raises:
            ValueError: if z has another rank or number of channels, or `together` does not divide n.
        """
        check_latents(self, z)
        first = "decoder" not in self.variables.get(STREAM, {})
        if (z.shape[1] - first) % self.together:
            valid = f"1, {1 + self.together}, {1 + 2 * self.together} .."
            raise ValueError(f"this autoencoder decodes latents of {valid} frames; got {z.shape[1]}")
        return self._video(z)

    def __call__(self: Any, x: jax.Array) -> jax.Array:
        """The reconstruction of videos [B, F, H, W, C] from the mean of their posterior."""
        return self.decode(self.encode(x).mean)

    def _posterior(self: Any, x: jax.Array) -> Sequence[jax.Array]:
        return jnp.split(self.encoder(x), 2, axis=-1)

    def _video(self: Any, z: jax.Array) -> jax.Array:
        return self.decoder(z)


def check_video(module: Any, x: jax.Array, later: bool = False, together: int = 1) -> None:
    """Refuses an array that does not hold videos of the autoencoder's channels, with sizes that its factors divide.

    Args:
        module: the autoencoder, with `factor`, `time_factor` and `picture_channels`.
        x: the autoencoder's input.
        later: whether x is a later chunk of a stream, which has no first frame.
        together: the number of latent frames that are encoded together.

    Raises:
        ValueError: if the shape is not valid; the message names the size and a valid one.
    """
    f, f_t = module.factor, module.time_factor * together
    if x.ndim != 5 or x.shape[-1] != module.picture_channels:
        raise ValueError(
            f"this autoencoder takes videos [B, F, H, W, {module.picture_channels}]; got an array of shape {x.shape}"
        )
    _, frames, height, width, _ = x.shape
    if height % f or width % f or not height * width:
        nearest = " x ".join(str(max(f, round(side / f) * f)) for side in (height, width))
        raise ValueError(
            f"this autoencoder makes frames {f} times smaller, but {f} does not divide {height} x {width}; the "
            f"nearest valid size is {nearest}"
        )
    if frames < 1 or (frames - (not later)) % f_t:
        valid = f"a multiple of {f_t} for a later chunk of a stream" if later else f"1, {1 + f_t}, {1 + 2 * f_t} .."
        result = "one frame" if together == 1 else f"{together} frames"
        raise ValueError(
            f"this autoencoder codes the first frame alone, and then makes {result} of every {f_t} frames; a video of "
            f"{frames} frames does not fit. Valid: {valid}"
        )


def check_latents(module: Any, z: jax.Array) -> None:
    """Refuses an array that does not hold latents with the autoencoder's channels.

    Args:
        module: the autoencoder, with `latent_channels`.
        z: the latents.

    Raises:
        ValueError: if the shape is not valid; the message names it.
    """
    if z.ndim != 5 or z.shape[-1] != module.latent_channels:
        raise ValueError(
            f"this autoencoder decodes latents [B, F, h, w, {module.latent_channels}]; got an array of shape {z.shape}"
        )


def check_levels(module: Any) -> None:
    """Refuses fields of an autoencoder of levels that are out of range.

    Args:
        module: autoencoder with `widths`, `groups`, `layers`, `latent_channels`, `picture_channels` and `halvings`.

    Raises:
        ValueError: if a field is out of range; the message names it.
    """
    if not module.widths or module.groups < 1 or any(width < 1 or width % module.groups for width in module.widths):
        raise ValueError(
            f"widths={module.widths} must be one or more positive numbers, each a multiple of groups={module.groups}"
        )
    if min(module.layers, module.latent_channels, module.picture_channels) < 1:
        raise ValueError(
            f"layers={module.layers}, latent_channels={module.latent_channels}, picture_channels="
            f"{module.picture_channels} must be positive"
        )
    if not 0 <= module.halvings < len(module.widths):
        raise ValueError(
            f"halvings={module.halvings} of time must not exceed the halvings of the sides, {len(module.widths) - 1}"
        )
