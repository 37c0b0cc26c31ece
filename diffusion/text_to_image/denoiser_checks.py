"""Checks that the networks of a folder fit its pipeline: the inputs of the denoiser, and the size of a latent."""

import pathlib
from typing import Any

from diffusion.models.interchange.family import Refusal
from diffusion.published.pipeline_kinds import Kind, Video
from diffusion.text_to_image.pipelines import distilled


def check_denoiser(folder: pathlib.Path, name: str, kind: Kind, denoiser: Any, autoencoder: Any) -> None:
    """Refuses a denoiser whose inputs differ from its pipeline's; a U-Net's channels tell which inputs it takes.

    Args:
        folder: the folder of the model, for the message.
        name: the name of the pipeline's class, for the message.
        kind: the pipeline.
        denoiser, autoencoder: the modules of the networks.

    Raises:
        Refusal: if they differ; the message says in what.
    """
    if kind.denoiser.network is not None and not isinstance(denoiser, kind.denoiser.network):
        raise Refusal(
            f"{folder}: the denoiser of a {name} must be a {kind.denoiser.network.__name__}, but this one is a "
            f"{type(denoiser).__name__}."
        )
    kind = kind.denoiser.variant(kind, denoiser)
    latents = denoiser.channels if kind.second_stage is not None else autoencoder.latent_channels
    channels = latents + kind.pictures.controlled * latents + kind.pictures.fills * (latents + autoencoder.factor**2)
    taken = getattr(denoiser, "channels", channels)
    if taken != channels:
        raise Refusal(f"{folder}: the denoiser of a {name} must take {channels} channels, but this one takes {taken}.")
    if getattr(autoencoder, "decoded_factor", autoencoder.factor) != autoencoder.factor:
        raise Refusal(
            f"{folder}: the autoencoder of a {name} must decode pictures of the size that it encodes, but this one "
            f"makes them {autoencoder.factor} times smaller and then {autoencoder.decoded_factor} times larger."
        )
    if kind.video is not None:
        _check_video(f"{folder}: a {name} is supported whose", kind.video, denoiser, autoencoder)
    if why := kind.denoiser.objection(denoiser):
        raise Refusal(f"{folder}: the denoiser of a {name} must have {why}.")
    if kind.denoiser.strength and not distilled(denoiser):
        raise Refusal(f"{folder}: the denoiser of a {name} must have guidance_embeds, but this one has none.")


def check_second_stage(folder: pathlib.Path, denoiser: Any, second: Any, autoencoder: Any) -> None:
    """Refuses a second stage that does not fit between the first one and the autoencoder.

    Args:
        folder: the folder of the model, for the message.
        denoiser, second, autoencoder: the modules of the networks.

    Raises:
        Refusal: if the channels of their latents differ.
    """
    wanted = denoiser.channels, autoencoder.latent_channels
    taken = getattr(second, "coarse_channels", 0), second.channels
    if taken != wanted:
        raise Refusal(
            f"{folder}: the second stage must make latents of {wanted[1]} channels from latents of {wanted[0]}, but "
            f"this one makes {taken[1]} from {taken[0]}."
        )


def _check_video(what: str, video: Video, denoiser: Any, autoencoder: Any) -> None:
    if not hasattr(autoencoder, "time_factor"):
        raise Refusal(f"{what} autoencoder must be an autoencoder of clips, but this one is for pictures.")
    cell = (autoencoder.time_factor, autoencoder.factor, autoencoder.factor)
    if getattr(denoiser, "cell", cell) != cell:
        raise Refusal(
            f"{what} autoencoder must make one latent of {denoiser.cell} frames, rows and columns; this one has {cell}."
        )
    if getattr(denoiser, "frames", 1) not in (1, 2):
        raise Refusal(f"{what} denoiser must have patches of one or two frames; this one has {denoiser.frames}.")
    controlled = 2 * autoencoder.latent_channels + autoencoder.factor**2 if video.fills else 0
    if (stated_controls := getattr(denoiser, "control_channels", 0)) != controlled:
        raise Refusal(f"{what} denoiser must see a control of {controlled} channels; this one sees {stated_controls}.")
    valid = autoencoder.latent_channels
    first = video.first
    if first.begins and not first.clean:
        valid += first.masked * autoencoder.time_factor + first.one_mask + autoencoder.latent_channels
    stated_channels = getattr(denoiser, "in_channels", valid)
    if stated_channels != valid:
        raise Refusal(f"{what} denoiser must see {valid} channels; this one sees {stated_channels}.")
