"""The training stages of the video demo: a denoiser of pixels, or an autoencoder and a denoiser of its latents.

WORKDIR/autoencoder    a run of diffusion train, on clips
WORKDIR/vae            the trained autoencoder, in the format of other programs; its latents have mean 0 and variance 1
WORKDIR/latents        the latents of the training clips, written as by diffusion encode
WORKDIR/denoiser       a run of diffusion train, on these latents or on clips
"""

import pathlib
import shutil
from typing import Any

from diffusion.data import latent_cache
from diffusion.experiments import encode, train
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.experiments.text import model
from diffusion.io import files
from diffusion.io.files import write_text
from diffusion.models import interchange
from diffusion.recipe import ConfigError, check_stages, data
from diffusion.recipe.parts import Resolver
from diffusion.training.checkpointing import checkpoints

FIELDS = ("autoencoder", "denoiser", "data", "measured")


def denoiser_of(config: Any, folder: pathlib.Path | None = None) -> Any:
    """The config of the denoiser, on latents in a folder, or on clips.

    Args:
        config: the config of a denoiser of clips, or {"autoencoder", "denoiser", "data", "measured"} as in
            `video/latents`.
        folder: the folder of all results; None for a config on clips, which can be checked before there are latents.

    Raises:
        ConfigError: for an unknown field, or a missing one.
    """
    if "denoiser" not in config:
        return config
    check_stages(config, FIELDS, "video/latents")
    denoiser = _with_data(config, "denoiser")
    if folder is not None:
        denoiser.data.latents.update({"dir": str(folder / "latents"), "autoencoder": str(folder / "vae")})
    return denoiser


def autoencoder_of(config: Any) -> Any:
    """The config of the autoencoder; None if the denoiser works on pixels."""
    return _with_data(config, "autoencoder") if "denoiser" in config else None


def check_autoencoder(config: Any) -> None:
    """Refuses an autoencoder whose latents do not fit the denoiser, before either is trained.

    Raises:
        ConfigError: naming the field.
    """
    module = Resolver(config.autoencoder).model()
    frames = config.data.source.frames
    step = getattr(module, "time_factor", 1)  # an autoencoder of pictures encodes each frame on its own
    if (frames - 1) % step:
        raise ConfigError(
            f"config.data.source.frames = {frames}, but the autoencoder turns every {step} frames after the first one "
            f"into one frame of the latent. Valid: 1 plus a multiple of {step}."
        )
    patterns = config.denoiser.objective.density.patterns
    latent_frames = 1 + (frames - 1) // step
    if {len(pattern) for pattern in patterns} != {latent_frames}:
        raise ConfigError(
            f"config.denoiser.objective.density.patterns = {tuple(patterns)}, but the latent of a clip of {frames} "
            f"frames has {latent_frames} frames. Valid: patterns of {latent_frames} characters."
        )


def encoded(config: Any, folder: pathlib.Path) -> None:
    """Writes the autoencoder's folder and the latents of the training clips, unless that is done already.

    Raises:
        ConfigError: if the autoencoder has been trained further since a denoiser learned from its latents.
        CacheError: if the latents were made by another autoencoder.
    """
    trained = str(checkpoints.latest(folder / "autoencoder"))
    note = folder / "vae.step"
    settings = _with_data(config, "autoencoder")
    source = data.source(settings, settings.data.split)
    if not (note.is_file() and note.read_text() == trained):
        if checkpoints.latest(folder / "denoiser") is not None:
            raise ConfigError(
                f"{folder / 'autoencoder'} has been trained further, to step {trained}, but {folder / 'denoiser'} "
                f"learned from its earlier latents. Choose another --workdir, or remove {folder / 'denoiser'} to train "
                "the denoiser again."
            )
        shutil.rmtree(folder / "latents", ignore_errors=True)
        module, params, scaling = model.measured(folder / "autoencoder", config.measured)
        with files.whole_folder(folder / "vae") as new:
            interchange.save(new, module.clone(**scaling._asdict()), params)
            card = model_card.build_run_card(folder / "autoencoder", "Autoencoder")
            model_card.write(new, card, folder / "vae")
        write_text(note, trained)
    if not (folder / "latents" / latent_cache.INDEX).is_file():
        encode.run(autoencoder_folders.load(folder / "vae"), source, str(folder / "latents"))


def autoencoder_trained(config: Any, folder: pathlib.Path, command: str) -> int:
    """Trains the autoencoder, unless it is trained already; returns the exit status."""
    return train.unless_finished(_with_data(config, "autoencoder"), folder / "autoencoder", command)


def _with_data(config: Any, stage: str) -> Any:
    stage_config = config[stage].copy_and_resolve_references()
    stage_config.data.update(config.data.to_dict())
    return stage_config
