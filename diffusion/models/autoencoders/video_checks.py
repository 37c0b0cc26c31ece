"""Checks of the videos and latents that an autoencoder of videos receives."""

__all__ = ["check_latents", "check_levels", "check_video"]

from typing import Any

import jax


def check_video(module: Any, x: jax.Array, later: bool = False, together: int = 1) -> None:
    """Refuses what are no videos of the autoencoder's channels, and sizes that its factors do not divide.

    Args:
        module: the autoencoder, with `factor`, `time_factor` and `picture_channels`.
        x: its input.
        later: whether it is a later chunk of a stream, which has no first frame.
        together: frames of the latent that are made at once.

    Raises:
        ValueError: naming the size and a valid one.
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
            f"this autoencoder makes frames {f} times smaller, and {f} does not divide {height} x {width}; the "
            f"nearest valid size is {nearest}"
        )
    if frames < 1 or (frames - (not later)) % f_t:
        valid = (
            f"a later chunk of a stream has a multiple of {f_t}"
            if later
            else f"valid are 1, {1 + f_t}, {1 + 2 * f_t} .."
        )
        result = "one frame" if together == 1 else f"{together} frames"
        raise ValueError(
            f"this autoencoder makes {result} of each {f_t} after the first; a "
            f"video of {frames} frames does not fit: {valid}"
        )


def check_latents(module: Any, z: jax.Array) -> None:
    """Refuses what are no latents of the autoencoder's channels.

    Args:
        module: the autoencoder, with `latent_channels`.
        z: its input.

    Raises:
        ValueError: naming the shape.
    """
    if z.ndim != 5 or z.shape[-1] != module.latent_channels:
        raise ValueError(
            f"this autoencoder decodes latents [B, F, h, w, {module.latent_channels}]; got an array of shape {z.shape}"
        )


def check_levels(module: Any) -> None:
    """Refuses sizes of an autoencoder of levels that are out of range.

    Args:
        module: autoencoder with `widths`, `groups`, `layers`, `latent_channels`, `picture_channels` and `halvings`.

    Raises:
        ValueError: naming the field.
    """
    if not module.widths or module.groups < 1 or any(width < 1 or width % module.groups for width in module.widths):
        raise ValueError(
            f"widths={module.widths} are positive numbers, one or more, that groups={module.groups} divides"
        )
    if min(module.layers, module.latent_channels, module.picture_channels) < 1:
        raise ValueError(
            f"layers={module.layers}, latent_channels={module.latent_channels}, picture_channels="
            f"{module.picture_channels} must be positive"
        )
    if not 0 <= module.halvings < len(module.widths):
        raise ValueError(f"halvings={module.halvings} of time are at most those of the sides, {len(module.widths) - 1}")
